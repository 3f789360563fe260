"""Places: where bundles are published for other nodes."""
