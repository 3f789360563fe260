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


def choose(path: Path, most: int) -> tuple[Part, ...]:
    """Files to be read, or the beginnings of them, of so many bytes together at most.

    Args:
        path: a file, or a directory of them at any depth. All that is chosen is on the same file
            system.
        most: bytes.

    Raises:
        UsageError: there is nothing, or too little, to read.
        OSError: it may not be looked at.
    """
    if not path.exists():
        raise UsageError(f"{path} is not there")
    if path.is_dir():
        found = [file for file in islice(_below(path), _MOST_FILES) if file[1]]
        if not found:
            raise UsageError(f"{path}: there are no files with anything in them")
    else:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"{path} is neither a file nor a directory")
        if not status.st_size:
            raise UsageError(f"{path} is empty")
        found = [(path, status.st_size, status.st_dev)]
    found.sort(key=lambda file: (_rank(file[0]), -file[1], str(file[0])))
    device = found[0][2]
    parts: list[Part] = []
    left = most
    for file, size, on in found:
        if left and on == device:
            parts.append(Part(str(file), min(size, left)))
            left -= parts[-1].size
    if most - left < min(LEAST_BYTES, most):
        raise UsageError(
            f"{path}: {most - left} bytes are too few to measure: at least"
            f" {LEAST_BYTES // 2**20} MiB of files are needed"
        )
    return tuple(parts)


def fits(way: Way, parts: Sequence[Part]) -> bool:
    """Whether these files can be read in this way at all."""
    return way is not Way.SAFETENSORS or all(p.path.endswith(".safetensors") for p in parts)


def _rank(file: Path) -> int:
    if file.suffix == ".safetensors":
        return 0
    return 1 if file.suffix in _WEIGHTS else 2


def _below(folder: Path) -> Iterator[tuple[Path, int, int]]:
    """Each file, with its size and its file system's number."""
    seen = set()
    for place, _, names in os.walk(folder):
        for name in names:
            file = Path(place, name)
            try:
                status = file.stat()
            except OSError:  # a dangling symlink, or just removed
                continue
            if stat.S_ISREG(status.st_mode) and (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                yield file, status.st_size, status.st_dev
