"""Small file systems for tests that run as root."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def tmpfs(place: Path, size: int, *, inodes: int = 0) -> Iterator[Path]:
    """A tmpfs of so many bytes, and so many inodes if that is not 0."""
    place.mkdir(parents=True, exist_ok=True)
    options = f"size={size}" + (f",nr_inodes={inodes}" if inodes else "")
    run("mount", "-t", "tmpfs", "-o", options, "modelcache-test", str(place))
    try:
        yield place
    finally:
        unmount(place)


@contextmanager
def loop_mounted(place: Path, size: int, *mkfs: str) -> Iterator[Path]:
    """A file system in a file, made by a command such as mkfs.ext4, on a loop device."""
    image = place.with_name(f"{place.name}.img")
    place.mkdir(parents=True, exist_ok=True)
    with image.open("wb") as file:
        file.truncate(size)
    run(*mkfs, str(image))
    # `mount -o loop` detaches the device itself when it is unmounted.
    run("mount", "-o", "loop", str(image), str(place))
    try:
        yield place
    finally:
        unmount(place)
        image.unlink()


@contextmanager
def overlay(place: Path) -> Iterator[Path]:
    """An overlayfs over an empty tmpfs: what a container's own file system mostly is."""
    with tmpfs(place, 64 * 1024 * 1024):
        lower, upper, work, merged = (place / name for name in ("l", "u", "w", "m"))
        for folder in (lower, upper, work, merged):
            folder.mkdir()
        options = f"lowerdir={lower},upperdir={upper},workdir={work}"
        run("mount", "-t", "overlay", "-o", options, "modelcache-test", str(merged))
        try:
            yield merged
        finally:
            unmount(merged)


@contextmanager
def bound(source: Path, place: Path, *options: str) -> Iterator[Path]:
    """A directory, or a file, at a second place, with mount options such as ro."""
    if source.is_dir():
        place.mkdir(parents=True, exist_ok=True)
    else:
        place.touch()
    run("mount", "--bind", str(source), str(place))
    try:
        if options:
            run("mount", "-o", ",".join(("remount", "bind", *options)), str(place))
        yield place
    finally:
        unmount(place)


def unmount(place: Path) -> None:
    """Unmount, at the latest when nobody uses it any more."""
    if subprocess.run(["umount", str(place)], check=False, capture_output=True).returncode:
        run("umount", "--lazy", str(place))


def run(*command: str) -> str:
    """What a command prints."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout.strip()


class Emptied:
    """A mounted file system whose disk can be taken away from under it."""

    def __init__(self, image: Path) -> None:
        self._image = image
        self._content = image.read_bytes()

    def empty(self) -> None:
        """Nothing that was not read before can be read any more: EIO."""
        os.truncate(self._image, 0)

    def refill(self) -> None:
        """All is as it was."""
        self._image.write_bytes(self._content)


@contextmanager
def emptied_loop(place: Path, size: int, files: Mapping[str, bytes]) -> Iterator[Emptied]:
    """An ext4 with files, on a loop device and read-only; nothing of them was read yet.

    Reading a loop device behind the end of its file fails (Linux, drivers/block/loop.c).
    """
    image = place.with_name(f"{place.name}.img")
    place.mkdir(parents=True)
    with image.open("wb") as file:
        file.truncate(size)
    run("mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", str(image))
    run("mount", "-o", "loop", str(image), str(place))
    for path, data in files.items():
        (place / path).write_bytes(data)
    run("umount", str(place))
    emptied = Emptied(image)
    run("mount", "-o", "loop,ro", str(image), str(place))
    device = os.stat(place).st_dev
    ahead = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/queue/read_ahead_kb")
    usual = ahead.read_text()
    ahead.write_text("0")  # otherwise most may be in memory when the first bytes are asked for
    try:
        yield emptied
    finally:
        ahead.write_text(usual)
        emptied.refill()
        unmount(place)
        image.unlink()
