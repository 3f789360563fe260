"""How values of settings are written: sizes, durations, addresses, lists, names."""

from __future__ import annotations

import re
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode

from modelcache.api.cachedmodel import DURATION_PATTERN, duration_seconds
from modelcache.api.meta import NAME_PATTERN, SUBDOMAIN_PATTERN
from modelcache.api.uri import SCHEMES

LABEL_KEY_PATTERN = (
    r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
)
"""Keys of labels and taints: apimachinery's `IsQualifiedName`."""

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "p": 10**15}
_UNITS |= {f"{unit}i": 2 ** (10 * power) for power, unit in enumerate("kmgtp", start=1)}
_SIZE = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,20})?)\s*((?:[kmgtp]i?)?)b?")


def parse_size(text: str) -> int:
    """Bytes of `500M`, `10Gi` or `1048576`, as Kubernetes writes quantities.

    Raises:
        ValueError
    """
    found = _SIZE.fullmatch(text.strip().lower())
    if found is None:
        raise ValueError(f"{text!r} is not a size: write 500M, 10Gi or a number of bytes")
    return int(float(found[1]) * _UNITS[found[2]])


def _size(value: object) -> object:
    return parse_size(value) if isinstance(value, str) else value


def comma_separated(value: object) -> object:
    """The parts of a text; what is no text stays as it is."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _by_origin(value: object) -> object:
    """(scheme, rest) of each `scheme=rest`."""
    if not isinstance(value, str):
        return value
    pairs = []
    for part in filter(None, map(str.strip, value.split(","))):
        scheme, equals, rest = part.partition("=")
        if not equals or not rest or scheme not in SCHEMES:
            raise ValueError(
                f"{part!r} is not written origin=value, with one of {', '.join(SCHEMES)}"
            )
        pairs.append((scheme, rest))
    return tuple(pairs)


def _mirrors(value: object) -> object:
    pairs = _by_origin(value)
    for scheme, url in pairs if isinstance(pairs, tuple) else ():
        try:
            parts = urlsplit(url)
            sound = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1)
        except ValueError:
            sound = False
        if scheme == "file" or not sound or parts.query or parts.fragment or "@" in parts.netloc:
            raise ValueError(
                f"the mirror of {scheme} is not a URL such as https://cache.example:8443/path"
            )
    return pairs


def _rates(value: object) -> object:
    pairs = _by_origin(value)
    if not isinstance(value, str) or not isinstance(pairs, tuple):
        return value
    rates = tuple((scheme, parse_size(size)) for scheme, size in pairs)
    if not all(rate > 0 for _, rate in rates):
        raise ValueError("a limit of nothing lets nothing through")
    if len(dict(rates)) < len(rates):
        raise ValueError("an origin has one limit")
    return rates


def _share_or_size(value: object) -> object:
    text = str(value).strip()
    if not text.endswith("%"):
        parse_size(text)
    elif not re.fullmatch(r"[0-9]{1,2}(\.[0-9]{1,6})?", text[:-1]):
        raise ValueError(f"{text!r} is not a share: write 0% to 99%, or a size such as 20Gi")
    return text


def _capacity(value: object) -> object:
    if str(value).strip() == "100%":
        return "100%"
    text = str(_share_or_size(value))
    if split_share(text) == (0, 0.0):
        raise ValueError(f"{text!r} leaves no room for anything: write 1% to 100%, or a size")
    return text


def split_share(text: str) -> tuple[int, float]:
    """(bytes, ratio) of a share or a size, one of which is zero."""
    if text.endswith("%"):
        return 0, float(text[:-1]) / 100
    return parse_size(text), 0.0


def _share(value: object) -> object:
    text = str(value).strip()
    found = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)%", text)
    if found is None or not 0 < float(found[1]) <= 100:
        raise ValueError(f"{text!r} is not a share: write 1% to 100%")
    return text


def _node_name(value: object) -> object:
    if not re.fullmatch(SUBDOMAIN_PATTERN, str(value)) or len(str(value)) > 253:
        raise ValueError(
            f"{value!r} can't be a node's name: lower-case letters, digits, hyphens and dots"
        )
    return value


def _seconds(value: object) -> object:
    if value in ("never", None):
        return None
    if isinstance(value, str):
        if not re.fullmatch(DURATION_PATTERN, value):
            raise ValueError(f"{value!r} is not a duration: write 90s, 10m, 1h30m, 2d or never")
        return float(duration_seconds(value))
    return value


def _namespace(value: object) -> object:
    if not re.fullmatch(NAME_PATTERN, str(value)) or len(str(value)) > 63:
        raise ValueError(
            f"{value!r} can't be a namespace: lower-case letters, digits and hyphens, at most 63"
        )
    return value


def _hosts(value: object) -> object:
    for host in found if isinstance(found := comma_separated(value), tuple) else ():
        try:
            ip_network(host.strip("[]"), strict=False)
        except ValueError:
            if not re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9_.])?", host):
                raise ValueError(
                    f"{host!r} is no network, address or host: write 10.0.0.0/8, or cdn.example.com"
                ) from None
    return found


def _listen(value: object) -> object:
    text = str(value)
    host, colon, port = text.rpartition(":")
    written = colon and re.fullmatch(r"[0-9]{1,5}", port) and int(port) <= 65535
    if text and (not written or (":" in host and not host.startswith("["))):
        raise ValueError(f"{text!r} is not written address:port, such as 0.0.0.0:8080")
    return value


def parse_listen(listen: str) -> tuple[str, int] | None:
    """(host, port) of a `Listen`; None for an empty one."""
    if not listen:
        return None
    host, _, port = listen.rpartition(":")
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104 - as asked for


def _endpoint(value: object) -> object:
    if value is None or value == "":
        return None
    parts = urlsplit(str(value))
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{parts.scheme or str(value)!r} is no URL such as http://collector:4318")
    if parts.username or parts.password:
        raise ValueError("credentials don't belong in the URL: set OTEL_EXPORTER_OTLP_HEADERS")
    if parts.query or parts.fragment:
        raise ValueError("a collector's URL has no query")
    return value


Seconds = Annotated[float, BeforeValidator(_seconds)]
SecondsOrNever = Annotated[float | None, BeforeValidator(_seconds)]
"""None: never. (`Seconds | None` would not take "never": neither half of such a union does.)"""
NodeName = Annotated[str, BeforeValidator(_node_name)]
Endpoint = Annotated[str | None, BeforeValidator(_endpoint)]
Listen = Annotated[str, BeforeValidator(_listen)]
Namespace = Annotated[str, BeforeValidator(_namespace)]
Size = Annotated[int, BeforeValidator(_size), Field(gt=0)]
ShareOrSize = Annotated[str, BeforeValidator(_share_or_size)]
CapacityText = Annotated[str, BeforeValidator(_capacity)]
Share = Annotated[str, BeforeValidator(_share)]
Mirrors = Annotated[tuple[tuple[str, str], ...], NoDecode, BeforeValidator(_mirrors)]
Rates = Annotated[tuple[tuple[str, int], ...], NoDecode, BeforeValidator(_rates)]
Paths = Annotated[tuple[Path, ...], NoDecode, BeforeValidator(comma_separated)]
Hosts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_hosts)]
Texts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(comma_separated)]
