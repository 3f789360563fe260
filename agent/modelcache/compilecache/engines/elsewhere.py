"""Caches that a start wrote elsewhere than below the cache directory, where nobody captures them.

Looked for where engines put them by themselves, and where the environment says: an engine that
knows one of its variables under another name, or sets it itself, is found out, too.
"""

from __future__ import annotations

import getpass
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from modelcache.api.quantities import quantity
from modelcache.compilecache.engines.builtin import BUILT_IN
from modelcache.compilecache.engines.roots import CacheRoot, Engine
from modelcache.compilecache.trees.naming import shown

MAX_NAMES: Final = 20_000
"""Names that are looked at in one place."""
MAX_DEPTH: Final = 32
MAX_SECONDS: Final = 2.0
"""For all places together."""

# The clock by which a file system stamps files may be some milliseconds behind (jiffies), or,
# over a network, as much as its server's.
_SLACK_SECONDS: Final = 0.1
_NAME: Final = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")
_GLOB: Final = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """One cache that lies elsewhere.

    Attributes:
        name: the cache, as the table calls it.
        path: where it was written.
        files: how many files were written there in this start, at least.
        bytes: their size.
        variable: what moves it; empty: nothing does.
        wanted: what the variable is to be set to.
    """

    name: str
    path: Path
    files: int
    bytes: int
    variable: str
    wanted: Path

    @property
    def sentence(self) -> str:
        """What happened, and what to do."""
        files = "1 file" if self.files == 1 else f"{self.files} files"
        what = (
            f"the {self.name} cache was written to {shown(str(self.path))}"
            f" ({files}, {quantity(self.bytes)}) and is not captured"
        )
        if not self.variable:
            return f"{what}: have the engine write it below {self.wanted}"
        return f"{what}: start the engine with {self.variable}={self.wanted}"


def elsewhere(
    engine: Engine, env: Mapping[str, str], cache_dir: Path, since: float
) -> tuple[Elsewhere, ...]:
    """The engine's caches outside of `cache_dir` in which something was written in this start.

    Of any other engine those of torch are looked for. Programs of the same user that run at the
    same time write to the same places, which can't be told apart.

    Args:
        env: the engine's environment.
        since: when the start began, in seconds since 1970.
    """
    found: list[Elsewhere] = []
    end = time.monotonic() + MAX_SECONDS
    seen: set[Path] = set()
    for root in _roots(engine):
        for place, folders in _places(root, env):
            if place.resolve().is_relative_to(cache_dir.resolve()) or place in seen:
                continue
            seen.add(place)
            files = size = 0
            for folder in folders:
                more, larger = _written(folder, cache_dir, since - _SLACK_SECONDS, end)
                files, size = files + more, size + larger
            if files:
                wanted = cache_dir / root.subdirectory
                found.append(Elsewhere(root.name, place, files, size, root.variable, wanted))
    return tuple(found)


def _roots(engine: Engine) -> Iterator[CacheRoot]:
    yield from engine.roots
    if any(not root.subdirectory for root in engine.roots):
        yield from BUILT_IN["torch"].roots


def _places(root: CacheRoot, env: Mapping[str, str]) -> Iterator[tuple[Path, list[Path]]]:
    """Where a cache may be, and the directories there that are its own and nobody else's."""
    written = [env[root.variable]] if env.get(root.variable) else []
    for place in (*written, *root.defaults):
        path = _expanded(place.removeprefix("file://"), env)
        if path is not None and path.is_absolute():
            yield path, sorted({path / _literal(pattern) for pattern in root.select})


def _literal(pattern: str) -> str:
    """The directories that a pattern begins with."""
    return _GLOB.split(pattern, maxsplit=1)[0].rpartition("/")[0]


def _expanded(place: str, env: Mapping[str, str]) -> Path | None:
    """A place with `~` and variables filled in as the engine does; None: it lacks one."""
    if place == "~" or place.startswith("~/"):
        place = f"$HOME{place[1:]}"
    # As getpass.getuser does, which Inductor asks.
    user = env.get("LOGNAME") or env.get("USER") or _user()
    values = {**env, "USER": user, "HOME": env.get("HOME") or str(Path.home())}
    if any(not values.get(name) for name in _NAME.findall(place)):
        return None
    return Path(_NAME.sub(lambda match: values[match[1]], place))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _written(folder: Path, without: Path, since: float, end: float) -> tuple[int, int]:
    """How many files below were written since then, and their bytes; no link is followed."""
    files = size = names = 0
    with suppress(OSError):  # there is none, or it isn't ours to read, or it goes just now
        for path, folders, inner, fd in os.fwalk(folder, follow_symlinks=False):
            deep = len(Path(path).parts) - len(folder.parts) >= MAX_DEPTH
            if deep or Path(path) == without:
                folders.clear()
                continue
            for name in inner:
                names += 1
                if names > MAX_NAMES or time.monotonic() > end:
                    return files, size
                with suppress(OSError):
                    status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode) and status.st_mtime >= since:
                        files, size = files + 1, size + status.st_size
    return files, size
