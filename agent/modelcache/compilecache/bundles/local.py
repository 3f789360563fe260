"""A bundle in a directory: its envelope and its archive, as files."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from modelcache.compilecache.bundles.reading import regular_file
from modelcache.compilecache.bundles.signing import envelope_bytes
from modelcache.compilecache.bundles.statement import (
    MAX_ENVELOPE_BYTES,
    Archive,
    Envelope,
    Statement,
    parse_envelope,
    parse_statement,
    statement_of,
)
from modelcache.errors import BrokenBundle, NotFound
from modelcache.store.durable import Durable, disk_errors

ENVELOPE_NAME: Final = "bundle.json"
ARCHIVE_NAMES: Final = {"zstd": "archive.tar.zst", "gzip": "archive.tar.gz"}
_ARCHIVE_MODE: Final = 0o444
"""Nobody changes it; and where it is a link, a blob of the store has the same mode."""
_NO_LINK: Final = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP)


def archive_name(archive: Archive) -> str:
    """How the archive's file is called, beside the envelope."""
    return ARCHIVE_NAMES[archive.compression]


@dataclass(frozen=True)
class LocalBundle:
    """One bundle. That it is there says nothing of whether to trust it: `Trust.admit` does, with
    `envelope_bytes`; and of its archive only `unpacking` knows whether it is what it should be."""

    directory: Path
    envelope_bytes: bytes

    @classmethod
    def open(cls, directory: Path) -> LocalBundle:
        """Read the envelope of a bundle.

        Raises:
            NotFound: there is none, or no archive beside it.
            BrokenBundle: the envelope can't be read, or the archive has another size than it says.
        """
        if directory.name == ENVELOPE_NAME and directory.is_file():
            raise NotFound(f"{directory} is a part of a bundle: give the directory that it is in")
        try:
            bundle = cls(directory, _read_envelope(directory / ENVELOPE_NAME))
            with regular_file(bundle.archive) as file:
                size = os.fstat(file.fileno()).st_size
        except NotFound as error:
            raise NotFound(f"{error}: no bundle") from error
        if size != bundle.statement.archive.size:
            raise BrokenBundle(
                f"{bundle.archive} has {size} bytes, and its statement says"
                f" {bundle.statement.archive.size}"
            )
        return bundle

    @classmethod
    def write(
        cls, directory: Path, envelope: Envelope, archive: Path, durable: Durable
    ) -> LocalBundle:
        """Put a bundle into a new directory, durably, and all of it at once.

        Args:
            directory: where it is to be, on the file system of `durable`; its parent is there. A
                bundle that is there already stays, if it has the same digest.
            archive: the archive's file. It is linked where that is possible, else copied; the
                caller removes it, and changes it no more.

        Raises:
            BrokenBundle: the archive hasn't the size that the statement says, or another bundle is
                there.
            InsufficientDisk
            OSError
        """
        content = envelope_bytes(envelope)
        bundle = cls(directory, content)
        staging = durable.temporary(".bundle")
        durable.make_directory(staging)
        try:
            with disk_errors(bundle.statement.archive.size):
                _bring(archive, staging / bundle.archive.name, durable)
                durable.write_file(staging / ENVELOPE_NAME, content)
                cls.open(staging)
                _put(staging, directory, durable)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        found = cls.open(directory)
        if found.digest != bundle.digest:
            raise BrokenBundle(f"{directory} has another bundle already, {found.digest}")
        return found

    @cached_property
    def envelope(self) -> Envelope:
        """The envelope."""
        return parse_envelope(self.envelope_bytes)

    @cached_property
    def statement(self) -> Statement:
        """What it says of itself."""
        return parse_statement(statement_of(self.envelope))

    @property
    def digest(self) -> str:
        """The bundle's digest."""
        return self.statement.digest

    @property
    def archive(self) -> Path:
        """The archive's file."""
        return self.directory / archive_name(self.statement.archive)


def _put(staging: Path, directory: Path, durable: Durable) -> None:
    """Rename into place, where nothing is: the first one stays."""
    try:
        durable.rename(staging, directory)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def _bring(source: Path, target: Path, durable: Durable) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        shutil.copyfile(source, target, follow_symlinks=False)
    fd = os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.fchmod(fd, _ARCHIVE_MODE)
        durable.sync(fd)
    finally:
        os.close(fd)


def _read_envelope(path: Path) -> bytes:
    with regular_file(path) as file:
        content = b""
        while len(content) <= MAX_ENVELOPE_BYTES:
            block = file.read(MAX_ENVELOPE_BYTES + 1 - len(content))
            if not block:
                return content
            content += block
    raise BrokenBundle(f"{path} has more than {MAX_ENVELOPE_BYTES} bytes")
