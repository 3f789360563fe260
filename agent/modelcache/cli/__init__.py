"""The command `modelcache`: one module for each group of commands."""
