"""Bundles: a compile cache as an archive, with a manifest and a signed statement."""
