"""Proxies, as the environment names them: HTTPS_PROXY, HTTP_PROXY and NO_PROXY.

Every client reads these a little differently: boto3 knows no CIDR in NO_PROXY, curl ignores
HTTP_PROXY in capitals, none but Go's spares the loopback. So they are read here, once, and the
engine and the SDKs are told.

The rules are Go's (https://pkg.go.dev/golang.org/x/net/http/httpproxy), which most programs in a
cluster follow: `example.com` is that host and all below it, `.example.com` or `*.example.com` only
those below, `10.0.0.0/8` the addresses of a network, each perhaps with a `:port`; `*` is all.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

from modelcache.errors import AuthFailed, ModelCacheError, OriginUnavailable, UsageError

NEVER_PROXIED: Final = (
    "localhost",
    "127.0.0.1",
    "::1",
    # Metadata and credentials of AWS (instance, ECS, EKS Pod Identity) and Google.
    "169.254.169.254",
    "169.254.170.2",
    "169.254.170.23",
    "fd00:ec2::254",
    "fd00:ec2::23",
    "metadata.google.internal",
)
"""What a proxy must not see: it would hand out its own machine's credentials, or learn ours."""

_PORTS: Final = {"http": 80, "https": 443}
_METADATA: Final = frozenset(NEVER_PROXIED)
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Proxy:
    """One proxy, spoken to in plain HTTP.

    Attributes:
        host, port: where it is.
        url: with user name and password, as SDKs want it.
        authorization: what to send it as Proxy-Authorization; None: it wants none.
    """

    host: str
    port: int
    url: str = field(repr=False)
    authorization: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def refusal(self, status: int, target: str) -> ModelCacheError:
        """What it means that the proxy answers a CONNECT for `target` with this status."""
        if status == 407:
            have = "other" if self.authorization else "a"
            return AuthFailed(
                f"the proxy {self} wants {have} user name and password (HTTP 407): write them into"
                " HTTPS_PROXY and HTTP_PROXY as http://user:password@host:port"
            )
        if status in (401, 403, 405):
            return AuthFailed(
                f"the proxy {self} lets nobody through to {target} (HTTP {status}): have it allow"
                " that, or name the host in NO_PROXY"
            )
        return OriginUnavailable(f"the proxy {self} can't reach {target} (HTTP {status})")


@dataclass(frozen=True, slots=True)
class _Exception:
    """One entry of NO_PROXY: a network, or a name."""

    network: _Network | None
    name: str
    below_only: bool
    port: int | None

    def covers(self, host: str, port: int) -> bool:
        if self.port is not None and self.port != port:
            return False
        if self.network is not None:
            address = _address(host)
            return address is not None and address in self.network
        return host.endswith(f".{self.name}") or (host == self.name and not self.below_only)


class Proxies:
    """Which proxy leads to which URL. Immutable."""

    def __init__(
        self, by_scheme: Mapping[str, Proxy], exceptions: tuple[_Exception, ...] | None
    ) -> None:
        """`exceptions` None: everything is one."""
        self._by_scheme = by_scheme if exceptions is not None else {}
        self._exceptions = exceptions or ()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Proxies:
        """Read the variables. Of those in small and in capital letters the small one counts.

        Raises:
            UsageError: a proxy's URL can't be read, or is not an http:// one.
        """
        given = os.environ if environment is None else environment
        found = {}
        for scheme in ("http", "https"):
            name = f"{scheme}_proxy"
            value = given.get(name, given.get(name.upper(), "")).strip()
            if value:
                found[scheme] = _parse_proxy(name.upper(), value)
        return cls(found, _parse_exceptions(given.get("no_proxy", given.get("NO_PROXY", ""))))

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._by_scheme)

    def of(self, url: str) -> Proxy | None:
        """The proxy that a request for a URL goes through; None: straight."""
        parts = urlsplit(url)
        proxy = self._by_scheme.get(parts.scheme)
        if proxy is None:
            return None
        host = (parts.hostname or "").removesuffix(".")
        if never_proxied(host):
            return None
        port = parts.port or _PORTS[parts.scheme]
        if any(exception.covers(host, port) for exception in self._exceptions):
            return None
        return proxy


def never_proxied(host: str) -> bool:
    """Whether a host is this machine, or one that only this machine's link leads to."""
    address = _address(host)
    if address is not None:
        return address.is_loopback or address.is_link_local or str(address) in _METADATA
    return host == "localhost" or host.endswith(".localhost") or host in _METADATA


def spare_metadata(environment: MutableMapping[str, str] | None = None) -> None:
    """Add what is never proxied to NO_PROXY, for the clients that read it themselves.

    That is boto3's look at the instance's metadata, and the client of the API server, whose address
    within the cluster no proxy outside of it knows.
    """
    given = os.environ if environment is None else environment
    if not any(
        given.get(name) for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY")
    ):
        return
    entries = _entries(given.get("no_proxy", given.get("NO_PROXY", "")))
    if "*" not in entries:
        api_server = filter(None, [given.get("KUBERNETES_SERVICE_HOST")])
        missing = [host for host in (*NEVER_PROXIED, *api_server) if host not in entries]
        given["no_proxy"] = given["NO_PROXY"] = ",".join([*entries, *missing])


def _parse_proxy(variable: str, value: str) -> Proxy:
    url = value if "://" in value else f"http://{value}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme != "http" or not parts.hostname or parts.path.strip("/"):
        # Without the value, which may hold a password.
        raise UsageError(
            f"{variable} is not the URL of an HTTP proxy: write http://host:port, or"
            " http://user:password@host:port (proxies behind TLS and SOCKS are not supported)"
        )
    authorization = None
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = f"Basic {base64.b64encode(login.encode()).decode()}"
    return Proxy(parts.hostname, port or 80, url.rstrip("/"), authorization)


def _entries(text: str) -> list[str]:
    return [entry for entry in re.split(r"[,\s]+", text) if entry]


def _parse_exceptions(text: str) -> tuple[_Exception, ...] | None:
    """What can't be read is passed over, as everywhere."""
    found = []
    for entry in _entries(text.lower()):
        if entry == "*":
            return None
        host, port = _split_port(entry)
        network = _network(host)
        name = host.removeprefix("*").removeprefix(".").removesuffix(".")
        if network is not None or name:
            found.append(_Exception(network, name, host.startswith((".", "*.")), port))
    return tuple(found)


def _split_port(entry: str) -> tuple[str, int | None]:
    """`host:port` and `[address]:port`; an IPv6 address without brackets has no port."""
    if entry.startswith("["):
        host, _, port = entry[1:].partition("]")
        port = port.removeprefix(":")
    elif entry.count(":") == 1:
        host, _, port = entry.partition(":")
    else:
        host, port = entry, ""
    return host, int(port) if port.isascii() and port.isdigit() else None


def _network(host: str) -> _Network | None:
    try:
        return ipaddress.ip_network(host, strict=False)
    except ValueError:
        return None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
