"""Kubernetes: watching, labelling, status, readiness, injection."""
