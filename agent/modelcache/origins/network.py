"""How this process reaches the world: through which proxies, whom it trusts there, and where it may
be led by what it is told there."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from modelcache.errors import ModelCacheError
from modelcache.origins.proxies import Proxies, Proxy
from modelcache.origins.reach import Inside
from modelcache.origins.trust import Trust

_REFUSED: Final = re.compile(r"(?:^|Tunnel connection failed: )(\d{3})\b")


class Network:
    """Proxies and trust, for the engine's client and for the SDKs alike. Immutable."""

    def __init__(
        self,
        *,
        ca_bundle: Path | None = None,
        environment: Mapping[str, str] | None = None,
        private_redirects: Iterable[str] = (),
    ) -> None:
        """Read the environment (by default this process's) and the bundle.

        Args:
            ca_bundle: certificates of CAs, trusted besides the usual ones.
            environment: with the proxies.
            private_redirects: what hosts further outside may lead to, as `Inside` takes them.

        Raises:
            UsageError: a proxy's URL can't be read, or a bundle can't be used.
        """
        self.inside = Inside(private_redirects)
        self._proxies = Proxies.from_environment(environment)
        self._trust = Trust(ca_bundle, os.environ if environment is None else environment)

    def proxy(self, url: str) -> Proxy | None:
        """The proxy that leads to a URL; None: straight."""
        return self._proxies.of(url)

    def refusal(self, url: str, text: str) -> ModelCacheError | None:
        """What it means that a proxy doesn't let a request for a URL through.

        Args:
            url: what was asked for.
            text: the client's error: httpcore's begins with the status, urllib3's and the standard
                library's say "Tunnel connection failed: " before it.
        """
        proxy, status = self.proxy(url), _REFUSED.search(text)
        if proxy is None or status is None:
            return None
        return proxy.refusal(int(status[1]), urlsplit(url).netloc)

    @property
    def has_proxies(self) -> bool:
        """Whether any URL is reached through a proxy."""
        return bool(self._proxies)

    @property
    def tls(self) -> ssl.SSLContext:
        """How servers are checked."""
        return self._trust.context

    @property
    def ca_file(self) -> str:
        """A file with all trusted CAs, for SDKs that take a path."""
        return self._trust.file
