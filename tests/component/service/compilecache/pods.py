"""What a sidecar sends, written by hand: to be wrong in every way."""

from __future__ import annotations

import http.client
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelcache.compilecache.bundles.local import LocalBundle
from modelcache.compilecache.engines.evidence import Evidence
from modelcache.compilecache.pods.protocol import (
    CAPTURE_HEADER,
    CaptureDocument,
    StartDocument,
    bundle_path,
    starts_path,
)

CACHE_DIR = "/var/cache/modelcache"


@dataclass(frozen=True)
class Answered:
    """An answer, and whether the body was asked for."""

    status: int
    document: dict[str, Any]
    headers: dict[str, str]
    continued: bool = True

    @property
    def reason(self) -> str:
        return str(self.document.get("reason"))


def capture(bundle: LocalBundle, **more: Any) -> CaptureDocument:
    """What is said of an archive."""
    evidence = Evidence(source="files", ready=True, compiled=3, compile_seconds=40.0)
    fields: dict[str, Any] = {
        "archive": bundle.statement.archive,
        "evidence": evidence,
        "cache_dir": CACHE_DIR,
        "pod": "default/p",
        **more,
    }
    return CaptureDocument(**fields)


def put(
    address: tuple[str, int],
    name: str,
    bundle: LocalBundle,
    *,
    token: str = "token",
    said: CaptureDocument | None = None,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    die_after: int | None = None,
) -> Answered:
    """Bring an archive, waiting for leave to send it.

    `die_after`: bytes of it after which the connection breaks off.
    """
    said = said or capture(bundle)
    content = bundle.archive.read_bytes() if body is None else body
    connection = http.client.HTTPConnection(*address, timeout=20)
    try:
        connection.putrequest("PUT", bundle_path(name, bundle.statement.archive.digest))
        wanted = {
            "Authorization": f"Bearer {token}",
            "Content-Length": str(said.archive.size),
            "Expect": "100-continue",
            CAPTURE_HEADER: said.to_header(),
            **(headers or {}),
        }
        for key, value in wanted.items():
            if value:
                connection.putheader(key, value)
        connection.endheaders()
        # http.client passes over 100 (Continue) by itself: so it is looked for beneath.
        assert connection.sock is not None
        connection.sock.settimeout(20)
        first = connection.sock.recv(25)
        continued = first.startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
        if continued:
            connection.sock.sendall(content[:die_after])
            if die_after is not None:
                return Answered(0, {}, {})
            first = b""
        return _answer(connection, first, continued)
    finally:
        connection.close()


def tell(
    address: tuple[str, int], name: str, start: StartDocument | bytes, token: str = "token"
) -> Answered:
    """Report a start."""
    connection = http.client.HTTPConnection(*address, timeout=20)
    try:
        body = start if isinstance(start, bytes) else start.to_bytes()
        connection.request("POST", starts_path(name), body, {"Authorization": f"Bearer {token}"})
        response = connection.getresponse()
        content = response.read()
        document = json.loads(content) if content else {}
        return Answered(response.status, document, dict(response.headers))
    finally:
        connection.close()


def start(digest: str | None, result: str = "Hit", failures: int = 0, **more: Any) -> StartDocument:
    """How a start went."""
    evidence = Evidence(source="files", ready=True, loaded=1, load_failures=failures)
    fields: dict[str, Any] = {
        "pod": "default/p",
        "digest": digest,
        "result": result,
        "evidence": evidence,
        **more,
    }
    return StartDocument(**fields)


def _answer(connection: http.client.HTTPConnection, first: bytes, continued: bool) -> Answered:
    assert connection.sock is not None
    content = first
    while part := connection.sock.recv(65536):
        content += part
        head, blank, body = content.partition(b"\r\n\r\n")
        if blank:
            lines = head.decode().split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines[1:])
            if len(body) >= int(headers.get("Content-Length", 0)):
                status = int(lines[0].split()[1])
                return Answered(status, json.loads(body or b"{}"), headers, continued)
    raise AssertionError(f"no whole answer: {content!r}")


def everything_below(root: Path) -> set[str]:
    """Every file that a root has of bundles, staging and notes."""
    # os.walk passes over what is removed meanwhile.
    return {
        str(Path(folder, name).relative_to(root))
        for part in ("compile", "ingest/staging", "ingest/outbox", "ingest/reservations")
        for folder, _, names in os.walk(root / part)
        for name in names
    }
