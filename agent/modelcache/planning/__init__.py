"""The pure decisions: from catalog, store and node facts to actions. No I/O, no clock."""
