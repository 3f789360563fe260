"""Documents of any shape, and changes of good ones: what a reader has to get along with."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, -1, 2**63, 2**64, 10**400, -(10**400)]),
    st.floats(),
    st.sampled_from([0.0, -0.0, 1e308, float("inf"), float("-inf"), float("nan")]),
)
_ODD = (
    *("", ".", "..", "../../canary", "/etc/passwd", "a\0b", "a\nb", "a//b", "a\\b", "x" * 300),
    *("\ud800", "con", "-", "%2e%2e%2f", "a" * 64, "0" * 64, "e" * 40, "\u202e", "1e999"),
)
TEXTS = st.one_of(st.text(max_size=12), st.sampled_from(_ODD))
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
DEPTH = 3000
"""More than Python's own limit, which its JSON parser has too."""


def shapes(keys: st.SearchStrategy[str] = TEXTS) -> st.SearchStrategy[Any]:
    """JSON values of any shape, small."""
    return st.recursive(
        SCALARS,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=3)
        ),
        max_leaves=5,
    )


def _places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    if isinstance(document, dict):
        for key, value in document.items():
            found += _places(value, (*path, key))
    elif isinstance(document, list):
        for index, value in enumerate(document):
            found += _places(value, (*path, index))
    return found


@st.composite
def changed(draw: st.DrawFn, document: Any) -> Any:
    """A document with up to three values of it replaced, removed or doubled."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(_places(document)))
        if not place:
            if draw(st.integers(0, 4)) == 0:
                document = draw(shapes())
            continue
        holder = document
        for key in place[:-1]:
            holder = holder[key]
        what = draw(st.sampled_from(["replace", "replace", "replace", "remove", "double"]))
        if what == "replace":
            holder[place[-1]] = draw(shapes())
        elif what == "remove":
            del holder[place[-1]]
        elif isinstance(holder, list):
            holder.append(copy.deepcopy(holder[place[-1]]))
        else:
            holder[draw(TEXTS)] = copy.deepcopy(holder[place[-1]])
    return document


def written(document: Any) -> bytes:
    """As JSON; surrogates that stand alone as they can be written."""
    return json.dumps(document).encode()


@st.composite
def torn(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes with a part lost, doubled, zeroed or flipped, as disks and power cuts leave them."""
    start = draw(st.integers(0, len(content)))
    end = draw(st.integers(start, min(len(content), start + draw(st.sampled_from([1, 8, 10**6])))))
    part = content[start:end]
    instead = draw(
        st.sampled_from(
            [b"", part * 2, bytes(len(part)), bytes(byte ^ 0xFF for byte in part), b"\n", b"\xff"]
        )
    )
    return content[:start] + instead + content[end:]


def rotten(content: bytes) -> st.SearchStrategy[bytes]:
    """A file's content gone wrong: torn, of another shape where it is JSON, or anything."""
    ways = [torn(content), st.binary(max_size=60), st.just(b"[" * DEPTH), st.just(b'{"a":' * DEPTH)]
    try:
        document = json.loads(content)
    except ValueError:
        pass
    else:
        ways += [changed(document).map(written)] * 4
    return st.one_of(ways)


def rotten_lines(content: bytes) -> st.SearchStrategy[bytes]:
    """The same where each line is a document or a record of its own."""
    lines = content.split(b"\n")

    def at(index: int) -> st.SearchStrategy[bytes]:
        return rotten(lines[index]).map(
            lambda line: b"\n".join([*lines[:index], line, *lines[index + 1 :]])
        )

    filled = [index for index, line in enumerate(lines) if line]
    return st.one_of(rotten(content), st.sampled_from(filled or [0]).flatmap(at))
