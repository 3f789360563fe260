"""The hashes by which an engine named its directories, and what it says went into them.

They are recorded with a bundle, and compared when a start missed. Nothing here computes an engine's
hash: the engine remains the judge.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from modelcache.compilecache.engines.evidence import EngineHashes
from modelcache.compilecache.engines.roots import FACTORS_NAME
from modelcache.compilecache.engines.vllmtree import rank_directories
from modelcache.compilecache.trees.opening import opened, root_folder
from modelcache.compilecache.trees.scanning import Entry, Tree
from modelcache.errors import TreeChanged

MAX_BYTES: Final = 1024 * 1024
"""Of one file of factors. A real one has some 20 KiB."""
MAX_FILES: Final = 64
MAX_FACTORS: Final = 2048
MAX_NAMES: Final = 64
"""Directories and ranks."""

_MAX_DEPTH: Final = 8
_MAX_NAME: Final = 200
_MAIN: Final = ("", "backbone/")


def hashes_of(root: Path, tree: Tree) -> EngineHashes:
    """The engine's own hashes in a cache directory; those that it doesn't write are absent.

    A factor's name is its way into the file, with dots: env.VLLM_USE_V1, config_hash. That of a
    part of a model other than its backbone begins with that: eagle_head/config_hash. Of several
    directories (the engine was started with other arguments, say) the newest counts.

    Args:
        root: the cache directory that was scanned.
        tree: what the scan found, with the unwanted files: the factors are among them.

    Raises:
        OSError: the disk fails.
    """
    paths = [entry.path for entry in (*tree.entries, *tree.unwanted)]
    found = rank_directories(paths)
    factors: dict[str, str] = {}
    for prefix, entry in _files(tree):
        for name, value in _read(root, entry):
            if len(factors) < MAX_FACTORS or prefix + name in factors:
                factors[prefix + name] = value
    return EngineHashes(
        directories=tuple(sorted({directory.hash for directory in found})[:MAX_NAMES]),
        ranks=tuple(sorted({directory.rank for directory in found})[:MAX_NAMES]),
        factors=dict(sorted(factors.items())),
    )


def changed_factors(ours: EngineHashes, theirs: EngineHashes) -> list[str]:
    """The names of the factors that differ, or that only one has; nothing where one has none.

    What says most comes first: single variables, then what is a hash over many things.
    """
    if not ours.factors or not theirs.factors:
        return []
    names = ours.factors.keys() | theirs.factors.keys()
    changed = [name for name in names if ours.factors.get(name) != theirs.factors.get(name)]
    return sorted(changed, key=lambda name: (name.endswith("_hash"), name))


def _files(tree: Tree) -> list[tuple[str, Entry]]:
    """The files of factors and which part of a model each is of, the newest last."""
    found = []
    for entry in (*tree.unwanted, *tree.entries):
        if not entry.path.endswith(f"/{FACTORS_NAME}"):
            continue
        for directory in rank_directories([entry.path]):
            prefix = next(iter(directory.files)).removesuffix(FACTORS_NAME)
            found.append(("" if prefix in _MAIN else prefix, entry))
    found.sort(key=lambda pair: (pair[1].mtime_ns, pair[1].path))
    return found[-MAX_FILES:]


def _read(root: Path, entry: Entry) -> list[tuple[str, str]]:
    """The factors of one file; none where it isn't whole, or is no such file."""
    try:
        with root_folder(root) as folder, opened(folder, entry) as fd:
            content = b""
            while chunk := os.read(fd, MAX_BYTES + 1 - len(content)):
                content += chunk
        return list(_factors(json.loads(content)))
    except (TreeChanged, PermissionError, ValueError, RecursionError):
        return []


def _factors(value: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """Names and hashes of the values: they may be secrets, names aren't."""
    if isinstance(value, dict) and depth < _MAX_DEPTH:
        for key, inner in value.items():
            yield from _factors(inner, f"{name}.{key}" if name else str(key), depth + 1)
    elif name and len(name) <= _MAX_NAME and name.isprintable():
        canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
        yield name, sha256(canonical.encode()).hexdigest()[:16]
