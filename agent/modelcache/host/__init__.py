"""What lies below the cache: the machine's mounts."""
