"""How far inside an address is, and what a redirect may lead to.

Who is asked for a file may answer with the address of something that only this machine reaches: the
metadata service of its cloud, with the node's credentials, or what listens in the cluster or on
loopback without a password (server-side request forgery, CWE-918). So where a host is named by
another one's answer, be it a redirect, a list, a next page or a token server, it may not be further
inside than the host that named it: the internet leads to the internet, a private network to private
networks and the internet, this machine to all but metadata services. Hosts that a catalog or a
setting names are asked wherever they are.

What counts is the address that a connection is made to, and not one that was looked up before: a
name may lead elsewhere the next time (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from contextlib import suppress
from enum import IntEnum
from typing import Final

from modelcache.errors import OriginUnavailable
from modelcache.origins.proxies import NEVER_PROXIED

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Reach(IntEnum):
    """Who reaches an address: the further inside, the larger."""

    INTERNET = 0
    """Everybody."""
    PRIVATE = 1
    """Those in a private network: RFC 1918, 4193, 6598, and what else is not for the internet."""
    MACHINE = 2
    """Programs of this machine: loopback."""
    LINK = 3
    """Metadata services and other link-local addresses, and what is no host's address."""


ANYWHERE: Final = Reach.LINK
"""Of a host that no other host named."""

_WORDS: Final = {
    Reach.INTERNET: "an address of the internet",
    Reach.PRIVATE: "a private address",
    Reach.MACHINE: "this machine itself",
    Reach.LINK: "a metadata service, or an address of this link",
}
_METADATA: Final = frozenset(
    [
        *NEVER_PROXIED[3:],
        "metadata",
        "metadata.goog",
        # Google Cloud over IPv6, Alibaba Cloud, Oracle Cloud, and Azure's WireServer, which alone
        # has an address that looks like the internet's.
        "fd20:ce::254",
        "100.100.100.200",
        "192.0.0.192",
        "168.63.129.16",
    ]
)
_TRANSLATED: Final = ipaddress.IPv6Network("64:ff9b::/96")
"""IPv4 addresses as NAT64 has them (RFC 6052)."""
_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")
_MOST_ADDRESSES: Final = 8
"""Of one name that are tried."""


def reach_of(host: str) -> Reach:
    """How far inside a host is, as far as its name or address tells: names are the internet's."""
    name = host.lower().removeprefix("[").removesuffix("]").removesuffix(".")
    if name in _METADATA:
        return Reach.LINK
    if name == "localhost" or name.endswith(".localhost"):
        return Reach.MACHINE
    address = _address(name)
    return Reach.INTERNET if address is None else _of(address)


class Inside:
    """What is inside and may be led to all the same. Immutable."""

    def __init__(self, permitted: Iterable[str] = ()) -> None:
        """`permitted`: networks (10.0.0.0/8), addresses and names of hosts."""
        self._names: set[str] = set()
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        for each in permitted:
            try:
                self._networks.append(ipaddress.ip_network(each.strip("[]"), strict=False))
            except ValueError:
                self._names.add(each.lower().removesuffix("."))

    def check(self, host: str, address: str | None, within: Reach) -> None:
        """Check that a host may be asked that another one named.

        Args:
            host: what it is called.
            address: where a connection to it goes; None: a proxy knows that.
            within: how far inside it may be.

        Raises:
            OriginUnavailable: it is further inside.
        """
        place = reach_of(host if address is None else address)
        if max(place, reach_of(host)) <= within or self._permits(host, address, place):
            return
        place = max(place, reach_of(host))
        where = "" if address in (host, None) else f" ({address})"
        raise OriginUnavailable(
            f"{host}{where} is {_WORDS[place]}, which a redirect, or another answer of"
            f" {_WORDS[within]}, may not lead to: name it in --private-redirects if it is meant to"
        )

    def _permits(self, host: str, address: str | None, place: Reach) -> bool:
        # A name is somebody's word for an address: what nobody means by it is not reached so.
        if place < Reach.LINK and host.lower().removesuffix(".") in self._names:
            return True
        found = _address(host if address is None else address)
        return found is not None and any(found in network for network in self._networks)

    def addresses(self, host: str, port: int, within: Reach) -> list[str]:
        """What to connect to, in order: those addresses of a host that are not too far inside.

        Raises:
            OriginUnavailable: it has no others.
            OSError: its name can't be resolved.
        """
        if within >= ANYWHERE:
            return [host]
        found: list[str] = []
        refusal: OriginUnavailable | None = None
        for *_, name in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            address = str(name[0])
            try:
                self.check(host, address, within)
            except OriginUnavailable as error:
                refusal = error
            else:
                found.append(address)
        if not found and refusal is not None:
            raise refusal
        return list(dict.fromkeys(found))[:_MOST_ADDRESSES]

    def connect(self, host: str, port: int, timeout: float | None, within: Reach) -> socket.socket:
        """A TCP connection to a host, at one of those addresses.

        Raises:
            OriginUnavailable: all are too far inside.
            OSError
        """
        failure: OSError | None = None
        for address in self.addresses(host, port, within):
            try:
                return socket.create_connection((address, port), timeout)
            except OSError as error:
                failure = error
        raise failure or OSError("the name has no addresses")


def _address(name: str) -> Address | None:
    """An address, in any form that the C library takes for one, without its zone."""
    with suppress(ValueError):
        return ipaddress.ip_address(name.partition("%")[0])
    if name[:1].isdigit():
        # 127.1, 2130706433, 0x7f.0.0.1: names to us, addresses to getaddrinfo.
        with suppress(OSError, UnicodeError, ValueError):
            return ipaddress.IPv4Address(socket.inet_aton(name))
    return None


def _of(address: Address) -> Reach:
    if isinstance(address, ipaddress.IPv6Address):
        inner = _embedded(address)
        if inner is not None:
            return _of(inner)
    if str(address) in _METADATA or address.is_link_local:
        return Reach.LINK
    if address.is_loopback:
        return Reach.MACHINE
    if address.is_multicast or address.is_unspecified:
        return Reach.LINK
    if isinstance(address, ipaddress.IPv4Address):
        # 0.0.0.0/8 is this machine to Linux, and 240.0.0.0/4 nobody (RFC 1122, 3.2.1.3).
        if address.packed[0] == 0 or address.is_reserved:
            return Reach.LINK
        return Reach.INTERNET if address.is_global else Reach.PRIVATE
    if address.is_site_local or not address.is_global:
        return Reach.PRIVATE
    return Reach.INTERNET


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 one leads to: mapped, translated, or by a tunnel."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    low = int(address) & 0xFFFF_FFFF
    if address in _TRANSLATED or (address in _COMPATIBLE and low > 0xFFFF):
        return ipaddress.IPv4Address(low)
    return None
