"""The table of engines: those that are built in, and what a user's file adds to them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from modelcache.compilecache.engines.builtin import BUILT_IN
from modelcache.compilecache.engines.commands import engine_of
from modelcache.compilecache.engines.roots import CacheRoot, Engine
from modelcache.compilecache.engines.tablefile import read_table

__all__ = ["BUILT_IN", "CacheRoot", "Engine", "engine_of", "table"]


def table(path: Path | None = None) -> Mapping[str, Engine]:
    """The engines by name: the built-in ones, and what a user's YAML file adds or changes.

    Raises:
        UsageError: the file can't be read, or says what can't be right.
    """
    return BUILT_IN if path is None else MappingProxyType(read_table(path, BUILT_IN))
