from __future__ import annotations

from tests.component.service.conftest import daemon, hub

__all__ = ["daemon", "hub"]
