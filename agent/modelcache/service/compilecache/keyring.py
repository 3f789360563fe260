"""The keys of this node: whose signatures are trusted, and by which key it signs itself.

They are files that a person may replace at any time: looked at anew now and then. What can't be
read leaves what was read before in force, and is told once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from modelcache.compilecache.bundles.signing import SigningKey, TrustedKeys
from modelcache.errors import UsageError

log = structlog.get_logger(__name__)

_LOOK_SECONDS: Final = 30.0


class Keyring:
    """The keys. Safe for threads."""

    def __init__(
        self,
        trusted: Path | None,
        signing: Path | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read them.

        Raises:
            UsageError: they can't be read.
        """
        self._paths = trusted, signing
        self._clock = clock
        self._mutex = threading.Lock()
        self._complaint = ""
        self._has_key: bool | None = None
        self._signing, self._trusted = self._read()
        self._read_at = clock()

    def trusted(self) -> TrustedKeys:
        """Whose signatures are trusted. This node's own is."""
        self._look()
        with self._mutex:
            return self._trusted

    def signing_key(self) -> SigningKey | None:
        """By which this node signs; None: by none."""
        self._look()
        with self._mutex:
            return self._signing

    def _look(self) -> None:
        with self._mutex:
            now = self._clock()
            if now - self._read_at < _LOOK_SECONDS:
                return
            self._read_at = now
            before = [*self._trusted]
            try:
                self._signing, self._trusted = self._read()
                self._complaint = ""
            except UsageError as error:
                if str(error) != self._complaint:
                    log.error("keys.unreadable", message=str(error))
                self._complaint = str(error)
            if [*self._trusted] != before:
                log.info("keys.trusted", keys=[*self._trusted])

    def _read(self) -> tuple[SigningKey | None, TrustedKeys]:
        trusted, signing = self._paths
        key = None
        # Its directory is there, and it isn't: a Secret that comes later.
        if signing is not None and (signing.exists() or not signing.parent.is_dir()):
            key = SigningKey.load(signing)
        if signing is not None and (key is not None) != self._has_key:
            self._has_key = key is not None
            tell = log.info if key is not None else log.warning
            tell("keys.signing", path=str(signing), key=key.key_id if key else None)
        keys = TrustedKeys.load(trusted) if trusted is not None else TrustedKeys()
        return key, keys if key is None else TrustedKeys(*keys.values(), key.public)
