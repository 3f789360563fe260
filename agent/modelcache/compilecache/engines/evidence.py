"""What a start showed of its compiling: from its log, or, in a pod, from its files alone."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from modelcache.api.meta import ApiModel


class Evidence(ApiModel):
    """What one start showed. Absent: nothing was seen of it, which is not the same as no."""

    source: Literal["log", "files"]
    """Where it comes from."""
    ready: bool = False
    """The engine served."""
    compile_seconds: float | None = None
    """Seconds of compiling, the slowest rank's."""
    compiled: Annotated[int, Field(ge=0)] = 0
    """Graphs (or files) that were compiled."""
    loaded: Annotated[int, Field(ge=0)] = 0
    """Graphs that were loaded from the cache."""
    load_failures: Annotated[int, Field(ge=0)] = 0
    """Graphs in the cache that could not be loaded."""
    save_failures: Annotated[int, Field(ge=0)] = 0
    """Graphs that could not be saved."""
    cache_dirs: tuple[str, ...] = ()
    """Directories that the engine says it uses."""
    engine_version: str = ""
    """As its log says; empty: unknown."""
    lines: tuple[Annotated[str, Field(max_length=500)], ...] = ()
    """The telling lines of its log, at most 32, without secrets."""


class EngineHashes(ApiModel):
    """The engine's own hashes: recorded, never computed here."""

    directories: tuple[str, ...] = ()
    """Names of the directories that the engine named by its hash: 10 or 64 hex digits."""
    ranks: tuple[str, ...] = ()
    """`rank_0_0`, ..."""
    factors: dict[str, str] = Field(default={})
    """What went into the hash, by part (vLLM's cache_key_factors.json), each as 16 hex digits of a
    SHA-256: it may hold secrets."""
