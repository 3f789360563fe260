"""Whom to trust over TLS: the system's roots, certifi's, and a private CA's."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import certifi

from modelcache.errors import UsageError

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_HASHED = re.compile(r"[0-9a-f]{8}\.[0-9]+")


class Trust:
    """The certificates that servers are checked against. The bundle is read once."""

    def __init__(self, bundle: Path | None = None) -> None:
        """`bundle`: a PEM file with certificates of CAs, trusted besides the usual ones.

        Raises:
            UsageError: it can't be read, or holds no certificate.
        """
        self._extra = None if bundle is None else _read(bundle)

    @cached_property
    def context(self) -> ssl.SSLContext:
        """For clients that take a context."""
        context = ssl.create_default_context(cafile=certifi.where())
        context.load_default_certs()
        if self._extra is not None:
            context.load_verify_locations(cadata=self._extra)
        return context

    @cached_property
    def file(self) -> str | None:
        """The path of a file with all of them, for SDKs that take a path; None: nothing is special.

        It lies in memory, and is there as long as this process: the container's file system is
        read-only.
        """
        if self._extra is None:
            return None
        parts = [Path(certifi.where()).read_bytes(), *_system(), self._extra.encode()]
        self._fd = os.memfd_create("modelcache-ca-bundle")
        with open(self._fd, "wb", closefd=False) as file:
            file.write(b"\n".join(parts))
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            os.close(self._fd)


def _system() -> Iterator[bytes]:
    """The system's roots: one file, or a directory with links by hash (OpenSSL's c_rehash)."""
    paths = ssl.get_default_verify_paths()
    if paths.cafile:
        yield Path(paths.cafile).read_bytes()
    if paths.capath:
        for link in sorted(Path(paths.capath).iterdir()):
            if _HASHED.fullmatch(link.name):
                with suppress(OSError):
                    yield link.read_bytes()


def _read(bundle: Path) -> str:
    """The certificates of a bundle, without what people write between them."""
    how = "give a PEM file with the certificates of your CA"
    try:
        blocks = _CERTIFICATE.findall(bundle.read_bytes())
    except OSError as error:
        raise UsageError(
            f"--ca-bundle: {bundle} can't be read ({error.strerror}): {how}"
        ) from error
    text = b"\n".join(blocks).decode("ascii", "replace")
    if not blocks:
        raise UsageError(f"--ca-bundle: {bundle} holds no certificates: {how}")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError, TypeError) as error:
        raise UsageError(
            f"--ca-bundle: {bundle} holds a certificate that can't be read: {how}"
        ) from error
    return text
