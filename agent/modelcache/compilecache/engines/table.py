"""The table of engines: those that are built in, and what a user's file adds to them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from modelcache.compilecache.engines.builtin import BUILT_IN
from modelcache.compilecache.engines.commands import engine_of
from modelcache.compilecache.engines.roots import CacheRoot, Engine

__all__ = ["BUILT_IN", "CacheRoot", "Engine", "engine_of", "table"]


def table(path: Path | None = None) -> Mapping[str, Engine]:
    """The engines by name: the built-in ones, extended by a user's file."""
    if path is None:
        return BUILT_IN
    raise NotImplementedError
