"""Compile caches with a real torch.compile, on the CPU: `make test-engine`."""
