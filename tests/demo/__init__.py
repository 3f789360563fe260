"""`make demo`: one node fills its cache, from a catalog file to verified, visible models."""
