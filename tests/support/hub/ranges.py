"""Range requests and preconditions, as RFC 9110 has them (sections 13.1 and 14)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from tests.support.hub.faults import Span

_SINGLE = re.compile(r"bytes=(\d*)-(\d*)")


class UnsatisfiableRangeError(Exception):
    """No byte of the asked range lies in the file: 416."""


class PreconditionFailedError(Exception):
    """If-Match names another version than the one that is here: 412."""


def check_if_match(headers: Mapping[str, str], etag: str) -> None:
    """Raise `PreconditionFailedError` unless If-Match, where there is one, names ``etag``.

    A weak tag never matches (RFC 9110, 13.1.1).
    """
    expected = headers.get("if-match")
    if expected is not None and expected.strip() != "*" and etag not in _tags(expected):
        raise PreconditionFailedError(f"{etag} is not one of {expected}")


def requested_span(headers: Mapping[str, str], size: int, etag: str) -> Span:
    """The bytes that the headers ask for, of a file with ``size`` bytes.

    Several ranges, other units and malformed values give the whole file, as the RFC allows, and so
    does an If-Range that names another version. Raises `UnsatisfiableRangeError`.
    """
    whole = Span(0, size, partial=False)
    match = _SINGLE.fullmatch(headers.get("range", "").strip())
    if match is None or headers.get("if-range", etag).strip() != etag:
        return whole
    first, last = match.groups()
    if first:
        start, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return whole
    elif last:
        start, end = max(0, size - int(last)), size
    else:
        return whole
    if start >= end:
        raise UnsatisfiableRangeError(f"{headers.get('range')} of {size} bytes")
    return Span(start, end, partial=True)


def _tags(value: str) -> set[str]:
    return {tag.strip() for tag in value.split(",")}
