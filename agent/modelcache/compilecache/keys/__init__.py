"""Keys: what a compile cache was compiled for."""
