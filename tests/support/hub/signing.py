"""Signed URLs, in the manner of CloudFront: key id, expiry and signature in the query."""

from __future__ import annotations

import hashlib
import hmac
import math
import secrets
import threading
import time
from collections.abc import Mapping
from urllib.parse import quote, urlencode

EXPIRED_BODY = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code>'
    b"<Message>Request has expired</Message></Error>"
)
FORGED_BODY = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>SignatureDoesNotMatch</Code>'
    b"<Message>The request signature we calculated does not match the signature you provided."
    b"</Message></Error>"
)
MISSING_BODY = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>NoSuchKey</Code>'
    b"<Message>The specified key does not exist.</Message></Error>"
)


class RefusedUrlError(Exception):
    """The URL is not, or no longer, good; ``body`` is what the CDN says: 403."""

    def __init__(self, body: bytes) -> None:
        super().__init__(body.decode())
        self.body = body


class Signer:
    """Signs URL paths, and knows its own signatures again until they expire."""

    def __init__(self, lifetime: float) -> None:
        self.lifetime = lifetime
        self._lock = threading.Lock()
        self._serial = 0
        self._key = b""
        self.rotate()

    def rotate(self) -> None:
        """Make every URL signed so far expired, as a revoked key pair does."""
        with self._lock:
            self._serial += 1
            self._key = secrets.token_bytes(32)

    def sign(self, path: str, repo_path: str) -> str:
        """``path`` with a signed query.

        The name of the file travels in ``response-content-disposition``, as it does on the Hub.
        ``Expires`` is in whole seconds and rounded down, so no URL outlives the lifetime.
        """
        with self._lock:
            serial, key = self._serial, self._key
        query = {
            "response-content-disposition": f"inline; filename*=UTF-8''{quote(repo_path, safe='')}",
            "Expires": str(math.floor(time.time() + self.lifetime)),
            "Key-Pair-Id": f"K{serial:08d}",
        }
        query["Signature"] = _signature(key, path, query)
        return f"{path}?{urlencode(query)}"

    def verify(self, path: str, query: Mapping[str, str]) -> None:
        """Raise `RefusedUrlError` unless this server signed the URL, and not too long ago."""
        with self._lock:
            serial, key = self._serial, self._key
        unsigned = {name: value for name, value in query.items() if name != "Signature"}
        given = query.get("Signature", "")
        pair = query.get("Key-Pair-Id", "")
        if pair[1:].isdigit() and int(pair[1:]) < serial:
            raise RefusedUrlError(EXPIRED_BODY)
        if not hmac.compare_digest(given.encode(), _signature(key, path, unsigned).encode()):
            raise RefusedUrlError(FORGED_BODY)
        if time.time() >= int(query["Expires"]):
            raise RefusedUrlError(EXPIRED_BODY)


def _signature(key: bytes, path: str, query: Mapping[str, str]) -> str:
    signed = path + "?" + urlencode(sorted(query.items()))
    return hmac.new(key, signed.encode(), hashlib.sha256).hexdigest()
