"""One start of an engine: seeded before it, judged and captured after it."""
