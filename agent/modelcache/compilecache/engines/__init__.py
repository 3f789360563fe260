"""Engines: where each keeps its caches, what its log says, and what a complete cache looks like."""
