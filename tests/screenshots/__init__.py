"""The pictures in docs/images, taken of what really runs: `python -m tests.screenshots`."""
