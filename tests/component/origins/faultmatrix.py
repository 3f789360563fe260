"""What comes of each fault at each origin: the table of docs/reliability.md, and its tests.

A cell says what the fetch ends in, and what it leaves behind:

- `healed`: the model is there, right, by the same fetch;
- `<Error>, kept`: what had come is taken up by the next fetch;
- `<Error>, dropped`: it was wrong, and is gone;
- `<Error>, unused`: it belongs to an object that is no more; a sweep removes it;
- `<Error>, nothing`: no byte had been fetched.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import pytest

ORIGINS: Final = ("hf", "s3", "gs", "oci", "https", "file")
HTTP: Final = ORIGINS[:-1]


@dataclass(frozen=True)
class Row:
    """One fault; `cells` are in the order of `ORIGINS`, and empty where it can't occur."""

    fault: str
    test: str
    cells: tuple[str, ...]


def _same(http: str, file: str = "") -> tuple[str, ...]:
    return (*([http] * len(HTTP)), file)


_PASSING, _LASTING, _KEYS = "test_passing", "test_lasting", "test_credentials"
_RESOLVING, _NOTHING = "test_resolving", "OriginUnavailable, nothing"
_CHANGED, _DISK, _FILE = "test_changed", "test_disk", "test_file"
_UNAVAILABLE = "OriginUnavailable, kept"
_FULL = "InsufficientDisk, kept"

MATRIX: Final = (
    Row("connection reset in the body", _PASSING, _same("healed")),
    Row("connection reset in every body, after some bytes", _PASSING, _same("healed")),
    Row("connection reset before any byte, for ever", _LASTING, _same(_UNAVAILABLE)),
    Row("silence in the body", _PASSING, _same("healed")),
    Row("silence, for ever", _LASTING, _same(_UNAVAILABLE)),
    Row("a trickle of bytes", _PASSING, _same("healed")),
    Row("a storm of 5xx", _PASSING, _same("healed")),
    Row("503, for ever", _LASTING, _same(_UNAVAILABLE)),
    Row("429 with Retry-After", _PASSING, _same("healed")),
    Row("429, for ever", _LASTING, _same("RateLimited, kept")),
    Row(
        "401 until it is located anew",
        _KEYS,
        ("healed", "healed", "healed", "healed", "AuthFailed, kept", ""),
    ),
    Row(
        "403 until it is located anew",
        _KEYS,
        ("healed", "healed", "healed", "healed", "AuthFailed, kept", ""),
    ),
    Row("401, for ever", _LASTING, _same("AuthFailed, kept")),
    Row("403, for ever", _LASTING, _same("AuthFailed, kept")),
    Row(
        "replaced on the way",
        _CHANGED,
        (
            "healed",
            "OriginChanged, unused",
            "OriginChanged, unused",
            "healed",
            "ChecksumMismatch, dropped",
            "OriginChanged, unused",
        ),
    ),
    Row(
        "404 on the way",
        _LASTING,
        ("NotFound, kept", "NotFound, kept", "OriginChanged, kept", *["NotFound, kept"] * 2, ""),
    ),
    Row("a body that ends too early", _PASSING, _same("healed")),
    Row("a body that goes on too long", _PASSING, _same("healed")),
    Row("a body that goes on too long, for ever", _LASTING, _same(_UNAVAILABLE)),
    Row("another Content-Range", _PASSING, _same("healed")),
    Row("another Content-Range, for ever", _LASTING, _same(_UNAVAILABLE)),
    Row("another total length", _LASTING, _same("OriginChanged, kept")),
    Row("a flipped bit", _PASSING, _same("healed")),
    Row("a flipped bit, for ever", _LASTING, _same("ChecksumMismatch, dropped")),
    Row("a name that is not found for a while", _PASSING, _same("healed")),
    Row("a name that is not found", _LASTING, _same(_UNAVAILABLE)),
    Row("a TLS handshake that breaks", _PASSING, _same("healed")),
    Row("TLS handshakes that break, for ever", _LASTING, _same(_UNAVAILABLE)),
    Row("a certificate of another CA", _LASTING, _same(_UNAVAILABLE)),
    Row("an expired certificate", _LASTING, _same(_UNAVAILABLE)),
    Row("a name that is not found, at first", _RESOLVING, _same(_NOTHING)),
    Row("TLS handshakes that break, at first", _RESOLVING, _same(_NOTHING)),
    Row("a certificate of another CA, at first", _RESOLVING, _same(_NOTHING)),
    Row("it shrinks on the way", _FILE, _same("", "OriginChanged, unused")),
    Row("it goes on the way", _FILE, _same("", "NotFound, kept")),
    Row("an I/O error for a while *(root)*", _FILE, _same("", "healed")),
    Row("an I/O error, for ever *(root)*", _FILE, _same("", _UNAVAILABLE)),
    Row(
        "no room for it *(root)*",
        _DISK,
        _same("InsufficientDisk, nothing", "InsufficientDisk, nothing"),
    ),
    Row("the disk fills up on the way *(root)*", _DISK, _same(_FULL, _FULL)),
    Row("the disk is full at any one call", _DISK, _same(_FULL, _FULL)),
)


def _row(fault: str) -> Row:
    (found,) = (row for row in MATRIX if row.fault == fault)
    return found


def cell(fault: str, origin: str) -> str:
    """What comes of a fault at an origin."""
    return _row(fault).cells[ORIGINS.index(origin)]


def cells(test: str, faults: Iterable[str] | None = None) -> pytest.MarkDecorator:
    """Runs a test for each cell of its rows that is not empty, as `fault` and `origin`.

    `faults`: of these rows only.
    """
    rows = [row for row in MATRIX if row.test == test]
    if faults is not None:
        rows = [_row(fault) for fault in faults]
        assert all(row.test == test for row in rows)
    found = [
        pytest.param(row.fault, origin, id=f"{origin}-{row.fault}")
        for row in rows
        for origin, text in zip(ORIGINS, row.cells, strict=True)
        if text
    ]
    return pytest.mark.parametrize(("fault", "origin"), found)
