"""Which files of a model are read to measure: the largest safetensors files first."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from modelcache.errors import UsageError
from modelcache.loading.ways import Part, Way

LEAST_BYTES: Final = 32 * 1024 * 1024
"""With less, the largest read-ahead has read all before anything is asked for."""
_WEIGHTS: Final = (".gguf", ".bin", ".pt", ".pth", ".onnx")
_MOST_FILES: Final = 100_000


def choose(path: Path) -> tuple[Part, ...]:
    """Files to be read, those first that it is best measured with.

    Args:
        path: a file, or a directory of them at any depth. All that is chosen is on the same file
            system.

    Raises:
        UsageError: there is nothing, or too little, to read.
        OSError: it may not be looked at.
    """
    if not path.exists():
        raise UsageError(f"{path} is not there")
    if path.is_dir():
        found = _different(islice(_below(path), _MOST_FILES))
        if not found:
            raise UsageError(f"{path}: there are no files with anything in them")
    else:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"{path} is neither a file nor a directory")
        if not status.st_size:
            raise UsageError(f"{path} is empty")
        found = [(path, status)]
    device = found[0][1].st_dev
    here = [(p, status.st_size) for p, status in found if status.st_dev == device]
    for worst in (0, 1, 2):  # safetensors alone, if there is enough of them
        parts = tuple(Part(str(p), size) for p, size in here if _rank(p) <= worst)
        if sum(part.size for part in parts) >= LEAST_BYTES:
            return parts
    raise UsageError(
        f"{path}: {sum(size for _, size in here)} bytes are too few to measure: at least"
        f" {LEAST_BYTES // 2**20} MiB of files are needed"
    )


def shorten(parts: Sequence[Part], most: int) -> tuple[Part, ...]:
    """The first of them, and the beginning of the last, of so many bytes together at most."""
    found: list[Part] = []
    for part in parts:
        if most:
            found.append(Part(part.path, min(part.size, most)))
            most -= found[-1].size
    return tuple(found)


def fits(way: Way, parts: Sequence[Part]) -> bool:
    """Whether these files can be read in this way at all."""
    return way is not Way.SAFETENSORS or all(p.path.endswith(".safetensors") for p in parts)


def _different(
    files: Iterator[tuple[Path, os.stat_result]],
) -> list[tuple[Path, os.stat_result]]:
    """Each file once, in the order in which they are read. Of several names the one counts that
    says what it is: a hub's cache has each file as a blob, too."""
    ranked = sorted(
        (file for file in files if file[1].st_size),
        key=lambda file: (_rank(file[0]), -file[1].st_size, str(file[0])),
    )
    first: dict[tuple[int, int], tuple[Path, os.stat_result]] = {}
    for path, status in ranked:
        first.setdefault((status.st_dev, status.st_ino), (path, status))
    return list(first.values())


def _rank(file: Path) -> int:
    if file.suffix == ".safetensors":
        return 0
    return 1 if file.suffix in _WEIGHTS else 2


def _below(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for place, _, names in os.walk(folder):
        for name in names:
            file = Path(place, name)
            try:
                status = file.stat()
            except OSError:  # a dangling symlink, or just removed
                continue
            if stat.S_ISREG(status.st_mode):
                yield file, status
