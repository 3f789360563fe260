"""Compile caches beside an engine in a pod: the init container that seeds, and the sidecar."""
