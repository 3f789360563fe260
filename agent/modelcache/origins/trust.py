"""Whom to trust over TLS: the system's roots, certifi's, and those of private CAs."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import certifi

from modelcache.errors import UsageError

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_HASHED = re.compile(r"[0-9a-f]{8}\.[0-9]+")
_VARIABLES = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Whoever set one of these for the tools that read it means our connections, too."""


class Trust:
    """The certificates that servers are checked against. The bundle is read once."""

    def __init__(self, bundle: Path | None, environment: Mapping[str, str]) -> None:
        """`bundle`: a PEM file with certificates of CAs, trusted besides the usual ones.

        Raises:
            UsageError: it, or one that the environment names, can't be read, or holds none.
        """
        named = {} if bundle is None else {"--ca-bundle": bundle}
        named |= {name: Path(environment[name]) for name in _VARIABLES if environment.get(name)}
        self._extra = "\n".join(_read(name, path) for name, path in named.items())

    @cached_property
    def context(self) -> ssl.SSLContext:
        """For clients that take a context."""
        context = ssl.create_default_context(cafile=certifi.where())
        context.load_default_certs()
        if self._extra:
            context.load_verify_locations(cadata=self._extra)
        return context

    @cached_property
    def file(self) -> str:
        """The path of a file with all of them, for SDKs that take a path.

        It lies in memory, and is there as long as this process: the container's file system is
        read-only.
        """
        parts = [Path(certifi.where()).read_bytes(), *_system(), self._extra.encode()]
        self._fd = os.memfd_create("modelcache-ca-bundle")
        with open(self._fd, "wb", closefd=False) as file:
            file.write(b"\n".join(parts))
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            os.close(self._fd)


def _system() -> Iterator[bytes]:
    """The system's roots."""
    paths = ssl.get_default_verify_paths()
    for path in (paths.cafile, paths.capath):
        if path:
            yield from _contents(Path(path))


def _contents(path: Path) -> Iterator[bytes]:
    """What a file holds, or a directory with links by hash (OpenSSL's c_rehash)."""
    if not path.is_dir():
        yield path.read_bytes()
        return
    for link in sorted(path.iterdir()):
        if _HASHED.fullmatch(link.name):
            with suppress(OSError):
                yield link.read_bytes()


def _read(name: str, bundle: Path) -> str:
    """The certificates of a bundle, without what people write between them."""
    how = "give a PEM file with the certificates of your CA"
    try:
        blocks = _CERTIFICATE.findall(b"\n".join(_contents(bundle)))
    except OSError as error:
        raise UsageError(f"{name}: {bundle} can't be read ({error.strerror}): {how}") from error
    text = b"\n".join(blocks).decode("ascii", "replace")
    if not blocks:
        raise UsageError(f"{name}: {bundle} holds no certificates: {how}")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError, TypeError) as error:
        raise UsageError(
            f"{name}: {bundle} holds a certificate that can't be read: {how}"
        ) from error
    return text
