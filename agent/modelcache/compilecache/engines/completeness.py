"""Whether a compile cache is complete, as far as its files tell.

That the engine serves is seen elsewhere, and that the tree doesn't change: files can only say what
is missing, not that nothing more will come.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Final

from modelcache.compilecache.engines.literals import MAX_CHARACTERS, read_literal
from modelcache.compilecache.engines.locks import is_locked
from modelcache.compilecache.engines.roots import Engine
from modelcache.compilecache.engines.vllmtree import (
    ARTIFACT,
    GRAPH,
    INDEXES,
    MODEL,
    RankDirectory,
    rank_directories,
)
from modelcache.compilecache.trees.naming import shown
from modelcache.compilecache.trees.opening import open_below, opened, root_folder
from modelcache.compilecache.trees.scanning import Entry, Tree
from modelcache.errors import TreeChanged, UnsafePath

STALE_SECONDS: Final = 600.0
"""A temporary file that nobody wrote to for so long is what a killed process left."""
MAX_TOLD: Final = 10
MAX_LOCKS: Final = 4096
"""Lock files that are looked at."""

_EMPTY_BY_DESIGN: Final = ("__init__.py", "py.typed", "model.done")
_NO_CODE: Final = ("vllm/modelinfos/",)
"""What is there before anything is compiled."""


def incomplete(
    engine: Engine, root: Path, tree: Tree, ranks: int, *, now: float | None = None
) -> tuple[str, ...]:
    """What is missing of a cache, a sentence each; empty: nothing.

    Args:
        root: the cache directory that was scanned.
        tree: what a scan with `engine.wanted` found.
        ranks: how many processes of the engine compile on this node.
        now: seconds since 1970.

    Raises:
        OSError: the disk fails.
    """
    if not any(not entry.path.startswith(_NO_CODE) for entry in tree.entries):
        return (f"nothing was compiled below {root}",)
    looking = _Looking(engine, root, tree, ranks, time.time() if now is None else now)
    told = looking.sentences()
    sentences = tuple(islice(told, MAX_TOLD))
    more = sum(1 for _ in told)
    return (*sentences[:-1], f"and {more + 1} more") if more else sentences


class _Looking:
    def __init__(self, engine: Engine, root: Path, tree: Tree, ranks: int, now: float) -> None:
        self._engine = engine
        self._root = root
        self._tree = tree
        self._ranks = ranks
        self._now = now
        self._entries = {entry.path: entry for entry in tree.entries}

    def sentences(self) -> Iterator[str]:
        yield from self._unfinished()
        yield from self._locked()
        directories = rank_directories(self._entries)
        for directory in directories:
            yield from self._aot(directory) if directory.is_aot else self._jit(directory)
        yield from self._ranks_missing(directories)
        yield from self._neuron()

    def _unfinished(self) -> Iterator[str]:
        for entry in self._tree.unwanted:
            if self._engine.temporary(entry.path) and self._is_fresh(entry):
                yield f"{shown(entry.path)} is still being written"
        for entry in self._tree.entries:
            name = entry.path.rpartition("/")[2]
            if entry.size == 0 and name not in _EMPTY_BY_DESIGN and self._is_fresh(entry):
                yield f"{shown(entry.path)} is empty"

    def _is_fresh(self, entry: Entry) -> bool:
        return self._now - entry.ctime_ns / 1e9 < STALE_SECONDS

    def _locked(self) -> Iterator[str]:
        locks = [entry for entry in self._tree.unwanted if self._is_lock(entry.path)]
        with root_folder(self._root) as root:
            for entry in locks[:MAX_LOCKS]:
                if entry.path.endswith("/lock"):
                    # torch's FileBaton: the file is the lock.
                    yield f"{shown(entry.path)} is there: an extension is being built"
                elif _held(root, entry):
                    yield f"{shown(entry.path)} is locked: the engine still compiles"

    def _is_lock(self, path: str) -> bool:
        if self._engine.root_of(path) is None:
            return False
        return path.endswith((".lock", "/lock")) or "/locks/" in path

    def _aot(self, directory: RankDirectory) -> Iterator[str]:
        entry = self._entries.get(f"{directory.path}/{MODEL}")
        if entry is None or not entry.size:
            yield f"{directory.path} has no {MODEL}: the rank's graph isn't saved yet"

    def _jit(self, directory: RankDirectory) -> Iterator[str]:
        for prefix, within in sorted(directory.parts().items()):
            index = next((name for name in INDEXES if name in within), None)
            artifacts = any(name.startswith(ARTIFACT) for name in within)
            where = f"{directory.path}/{prefix}"
            if artifacts and index is None:
                yield f"{where} has artifacts, and no {INDEXES[0]} that lists them yet"
            if index is not None:
                yield from self._index(directory, f"{where}{index}")
            if (artifacts or index == INDEXES[0]) and GRAPH not in within:
                yield f"{where} has no {GRAPH} yet"

    def _index(self, directory: RankDirectory, path: str) -> Iterator[str]:
        entry = self._entries[path]
        try:
            handles = read_literal(_text(self._root, entry))
        except TreeChanged:
            yield f"{shown(path)} changed while it was read"
            return
        except ValueError as error:
            yield f"{shown(path)} can't be read: it {error}"
            return
        if not path.endswith(f"/{INDEXES[0]}"):
            return  # SGLang writes one, and doesn't read it yet
        folder = path.rpartition("/")[0]
        for handle in _strings(handles):
            place = self._place(directory, folder, handle)
            if place is not None and not (place in self._entries or place in self._folders):
                yield f"{shown(path)} lists {shown(handle)}, which isn't there"

    def _place(self, directory: RankDirectory, folder: str, handle: str) -> str | None:
        """The path in the tree of what an index lists; None: the string names no file.

        To 0.24.0 an artifact is listed by its absolute path, too, which counts from the rank's
        directory on: a tree may be looked at in another place than it was made.
        """
        if handle.startswith(ARTIFACT):
            return f"{folder}/{handle}"
        if not handle.startswith("/"):
            return None
        _, found, below = handle.rpartition(f"/{directory.hash}/{directory.rank}/")
        return f"{directory.path}/{below}" if found else os.path.relpath(handle, self._root)

    @cached_property
    def _folders(self) -> set[str]:
        folders: set[str] = set()
        for path in self._entries:
            folder = path.rpartition("/")[0]
            while folder and folder not in folders:
                folders.add(folder)
                folder = folder.rpartition("/")[0]
        return folders

    def _ranks_missing(self, directories: list[RankDirectory]) -> Iterator[str]:
        """Of the graphs, one at least is there of every rank.

        Not every one: a draft model may be on the last pipeline stage alone. SGLang names all
        ranks rank_0_0.
        """
        if self._engine.name == "sglang" or not directories:
            return
        aot = [directory for directory in directories if directory.is_aot]
        by_hash: dict[str, set[str]] = {}
        for directory in aot or directories:
            by_hash.setdefault(directory.hash, set()).add(directory.rank)
        most = max(len(ranks) for ranks in by_hash.values())
        if most < self._ranks:
            yield f"only {most} of {self._ranks} ranks have saved their graphs"

    def _neuron(self) -> Iterator[str]:
        for path in self._entries:
            folder, _, name = path.rpartition("/")
            # With a log it couldn't be compiled, and that is kept, too.
            ends = (f"{folder}/model.neff", f"{folder}/model.log")
            if name == "model.hlo_module.pb" and not any(end in self._entries for end in ends):
                yield f"{shown(folder)} has no model.neff yet"


def _strings(handles: Any) -> Iterator[str]:
    """The strings in the values of an index: {key: (name, path)}, however deep."""
    waiting = [handles]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list | tuple):
            waiting.extend(value)
        elif isinstance(value, str):
            yield value


def _text(root: Path, entry: Entry) -> str:
    """A file's content.

    Raises:
        TreeChanged
        ValueError: it is too large, or no UTF-8.
        OSError
    """
    if entry.size > MAX_CHARACTERS:
        raise ValueError(f"has more than {MAX_CHARACTERS} characters")
    with root_folder(root) as folder, opened(folder, entry) as fd:
        content = b""
        while chunk := os.read(fd, MAX_CHARACTERS + 1 - len(content)):
            content += chunk
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError("is no text in UTF-8") from error


def _held(root: int, entry: Entry) -> bool:
    try:
        fd = open_below(root, entry.path, os.O_RDONLY | os.O_NONBLOCK)
    except UnsafePath:
        return False
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.EIO):
            raise
        return False  # gone, or not ours to look at
    try:
        return is_locked(fd)
    finally:
        os.close(fd)
