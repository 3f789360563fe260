"""The agent's compile caches: kept as the catalog wants them, taken from pods, published, told.

Nothing here holds models up: it has threads of its own, and an object, a place or a pod that is
broken is its own failure.
"""
