"""Directory trees of compile caches on the disk: scanning, becoming quiet, copying."""
