"""Bringing models into the page cache, and dropping them: one model at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from modelcache.api import Manifest, ModelReport
from modelcache.errors import NotFound, UsageError
from modelcache.host.memory import Memory
from modelcache.host.pagecache import drop, resident_bytes, warm
from modelcache.planning.warming import Candidate
from modelcache.store import Layout

OWN_BYTES: Final = 128 * 1024 * 1024
"""What the program itself may need of its container's limit."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How many bytes of models may be in memory, and why not more."""

    size: int
    reason: str


def find_budget(asked: int | None, limit: int | None, memory: Memory) -> Budget:
    """What may be used.

    Args:
        asked: the setting, in bytes.
        limit: this container's memory limit, in bytes; None: it has none.
        memory: the machine's.

    Raises:
        UsageError: the limit leaves nothing for models.
    """
    if limit is not None:
        left = limit - OWN_BYTES
        if left <= 0:
            raise UsageError(
                f"this container's memory limit of {limit >> 20} MiB leaves nothing for models:"
                f" {OWN_BYTES >> 20} MiB are for the program itself, so raise the limit"
            )
        if asked is None or asked > left:
            return Budget(left, "this container's memory limit")
    if asked is not None:
        return Budget(asked, "--memory")
    return Budget(memory.available // 2, "half of the memory that is available")


def candidate_of(manifest: Manifest, report: ModelReport | None) -> Candidate:
    """A model that is asked for."""
    blobs = {file.sha256: file.size for file in manifest.files}
    return Candidate(manifest.model, report.priority if report else 0, blobs)


def pick(shown: Mapping[str, Manifest], names: list[str]) -> dict[str, Manifest]:
    """The models with these names.

    Raises:
        NotFound: naming what there is.
    """
    for name in names:
        if name not in shown:
            there = ", ".join(sorted(shown)[:10]) or "nothing"
            raise NotFound(f"no model {name!r} is ready here; there is {there}")
    return {name: shown[name] for name in names}


def resident_in(layout: Layout, model: Candidate) -> int:
    """How many bytes of a model are in the page cache.

    Raises:
        NotTold: the cache is another user's.
        OSError
    """
    return sum(resident_bytes(fd, size) for fd, size in _files(layout, model))


def warm_model(
    layout: Layout,
    model: Candidate,
    *,
    on_bytes: Callable[[int, int], None] = lambda *_: None,
    check: Callable[[], None] = lambda: None,
) -> int:
    """Bring a model in; how many bytes had to be read.

    `on_bytes` and `check` as in host/pagecache. What is gone meanwhile is passed over.

    Raises:
        NotTold: the cache is another user's.
        OSError: the disk failed.
    """
    return sum(warm(fd, size, on_bytes=on_bytes, check=check) for fd, size in _files(layout, model))


def drop_model(layout: Layout, model: Candidate, keep: Mapping[str, int] | None = None) -> int:
    """Drop a model from the page cache, but for what is mapped by who uses it, and for `keep`.

    Returns:
        Bytes that were dropped.

    Raises:
        NotTold: the cache is another user's.
        OSError
    """
    dropped = 0
    for fd, size in _files(layout, model, keep or {}):
        before = resident_bytes(fd, size)
        drop(fd)
        dropped += max(0, before - resident_bytes(fd, size))
    return dropped


def _files(
    layout: Layout, model: Candidate, but: Mapping[str, int] | None = None
) -> Iterator[tuple[int, int]]:
    """A model's files, opened one after the other, with their sizes."""
    for digest, size in model.blobs.items():
        if digest not in (but or {}):
            try:
                fd = os.open(layout.blob(digest), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                continue
            with _closing(fd):
                yield fd, size


@contextmanager
def _closing(fd: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(fd)
