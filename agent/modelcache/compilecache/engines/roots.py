"""What the table of engines consists of: an engine, and the directories of its caches."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import translate
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import Final

FACTORS_NAME: Final = "cache_key_factors.json"
"""vLLM's note of what went into its hash. It has been seen with the API key in plain text
(0.14.1 to 0.24.0), and vLLM never reads it: only hashes of its parts leave the machine."""

TEMPORARY: Final = (
    "*.tmp",  # vLLM's model.<pid>.tmp, Inductor's .<pid>.<thread>.tmp
    "*.tmp.*",
    "*/tmp.pid_*",  # Triton's directories, renamed when they are complete
    "*/.nfs*",  # a file that was removed while it was open
)
"""Names of files that are being written: nothing is complete while there are any."""

NEVER: Final = (
    *TEMPORARY,
    f"*/{FACTORS_NAME}",
    "*.lock",
    "*/lock",  # torch's FileBaton
    "*/locks/",  # Inductor's
    "*/.ninja_lock",
    "*/__pycache__/",  # stale: it notes the time of a source, which is another after a copy
    "*.pyc",
    ".modelcache-*",  # our own
)
"""What is captured of no engine's cache."""


@dataclass(frozen=True)
class CacheRoot:
    """One directory of caches.

    Patterns are globs on the path below the root, case-sensitive; `*` matches slashes too, and a
    pattern that ends with a slash means everything below. One that begins with `*` may begin
    anywhere, any other begins at the root.

    Attributes:
        name: what people call it; unique within an engine.
        variable: the environment variable that says where it is; empty: it can't be moved by one.
        subdirectory: where it is put below the cache directory; empty: it is the cache directory.
        select: what is captured of it.
        drop: what is not, though it is selected.
        defaults: where it is when the variable isn't set, with `~` and `$NAME`.
    """

    name: str
    variable: str
    subdirectory: str
    select: tuple[str, ...] = ("*",)
    drop: tuple[str, ...] = ()
    defaults: tuple[str, ...] = ()

    def wanted(self, path: str) -> bool:
        """Whether a file with that path below the root is captured."""
        return _matcher(self.select)(path) and not _matcher(self.drop)(path)


@dataclass(frozen=True)
class Engine:
    """An engine.

    Attributes:
        name: vllm, sglang, torch, neuron, other, or one of a user's own table.
        roots: its caches. Where one lies within another, the inner one's patterns count.
        settings: further variables that it needs to keep its cache on the disk.
        programs: commands that start it.
        modules: Python modules (and what is in them) that start it.
        ready: what its log says when it serves; any of these, anywhere in a line.
    """

    name: str
    roots: tuple[CacheRoot, ...]
    settings: Mapping[str, str] = field(default_factory=dict)
    programs: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    ready: tuple[str, ...] = ()

    def environment(self, cache_dir: Path) -> dict[str, str]:
        """The variables with which all its caches lie below `cache_dir`, an absolute path."""
        places = {
            root.variable: str(cache_dir / root.subdirectory)
            for root in self.roots
            if root.variable
        }
        return {**places, **self.settings}

    def wanted(self, path: str) -> bool:
        """Whether a file is captured; `path` is relative to the cache directory, with slashes."""
        found = self.root_of(path)
        if found is None or _matcher(NEVER)(path):
            return False
        root, below = found
        return root.wanted(below)

    def temporary(self, path: str) -> bool:
        """Whether it is, by its name, a file that is still being written to one of its caches."""
        return self.root_of(path) is not None and _matcher(TEMPORARY)(path)

    def root_of(self, path: str) -> tuple[CacheRoot, str] | None:
        """The cache that a file belongs to, and its path below that; None: to none."""
        for root in self._innermost_first:
            if not root.subdirectory:
                return root, path
            if path.startswith(f"{root.subdirectory}/"):
                return root, path[len(root.subdirectory) + 1 :]
        return None

    @cached_property
    def _innermost_first(self) -> tuple[CacheRoot, ...]:
        def depth(root: CacheRoot) -> int:
            return len(PurePosixPath(root.subdirectory).parts)

        return tuple(sorted(self.roots, key=depth, reverse=True))


@lru_cache(maxsize=256)
def _matcher(patterns: tuple[str, ...]) -> Callable[[str], bool]:
    """Whether any of the globs matches a path."""
    globs = (pattern if pattern.startswith("*") else f"/{pattern}" for pattern in patterns)
    whole = "|".join(translate(f"{glob}*" if glob.endswith("/") else glob) for glob in globs)
    match = re.compile(whole or r"(?!)").match
    return lambda path: match(f"/{path}") is not None
