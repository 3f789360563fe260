r"""Lists of files that a web server has.

A *checksum list* is what `sha256sum` and its kin print: a line for each file, in GNU's or BSD's
form, with a backslash in front where the name has escaped characters in it; `*` marks binary files.

    0123…cdef  config.json
    0123…cdef *weights/model-00001-of-00002.safetensors
    SHA256 (tokenizer.json) = 0123…cdef

A list that has but a digest is of the file that it is named after (`model.gguf.sha256`). Empty
lines, lines that begin with `#`, and BSD's lines of other algorithms say nothing.

A list *of our own* is JSON. It says the sizes too, so that none has to be asked for, and its files
may lie elsewhere: `url` is absolute or relative to the list's, and by default `path` beside it.

    [{"path": "config.json", "size": 2, "sha256": "0123…cdef"},
     {"path": "model.gguf", "size": 4920739232, "sha256": "0123…cdef", "url": "https://cdn/8b.gguf"}]

Names are taken as they are: whether they are safe is the caller's business.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from modelcache.api.meta import ApiModel
from modelcache.errors import BrokenContent
from modelcache.origins.names import shown

MAX_LIST_BYTES: Final = 16 * 1024 * 1024
"""A hundred thousand files."""

_GNU = re.compile(
    r"(?P<escaped>\\?)(?P<digest>[0-9A-Fa-f]{64})(?: [ *]|[ \t]+)(?P<name>.+)", re.DOTALL
)
_BSD = re.compile(
    r"(?P<escaped>\\?)SHA(?:2-)?256 ?\((?P<name>.+)\) ?= ?(?P<digest>[0-9A-Fa-f]{64})", re.DOTALL
)
_OTHER = re.compile(r"\\?[A-Z][A-Za-z0-9-]* ?\(.+\) ?= ?[0-9A-Fa-f]+", re.DOTALL)
_BARE = re.compile(r"[0-9A-Fa-f]{64}")
_SUFFIX = re.compile(r"(?i)\.sha256(?:sums?)?")
_ESCAPE = re.compile(r"\\(.?)", re.DOTALL)
_ESCAPED = {"\\": "\\", "n": "\n", "r": "\r"}


@dataclass(frozen=True, slots=True)
class Listed:
    """A file of a list.

    Attributes:
        path: its place in the model.
        sha256: the digest of its content, in hex; None for a file that no list names.
        size: bytes, where the list says them.
        url: where it is, absolute or relative to the list; None: beside the list, at `path`.
    """

    path: str
    sha256: str | None = None
    size: int | None = None
    url: str | None = None


class _Entry(ApiModel):
    path: Annotated[str, StringConstraints(min_length=1)]
    """Its place in the model, relative, with slashes."""
    size: Annotated[int, Field(ge=0)]
    """Bytes."""
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9A-Fa-f]{64}$")]
    """The digest of the content, in hex."""
    url: Annotated[str, StringConstraints(min_length=1)] | None = None
    """Where it is, if not beside the list."""


_ENTRIES = TypeAdapter(tuple[_Entry, ...])


def read_checksums(content: bytes, name: str, place: str) -> list[Listed]:
    """Read a checksum list. What it says of itself is passed over: it can't be right.

    Args:
        content: the list.
        name: its own name.
        place: where it is, for messages.

    Raises:
        BrokenContent: it is not such a list.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BrokenContent(f"{place} is no checksum list: it is not UTF-8") from error
    lines = [
        (number, line.removesuffix("\r"))
        for number, line in enumerate(text.split("\n"), 1)
        if line.strip() and not line.startswith("#")
    ]
    suffix = _SUFFIX.search(name[-11:])
    if len(lines) == 1 and suffix and _BARE.fullmatch(lines[0][1].strip()):
        return [Listed(name[: -len(suffix.group())], lines[0][1].strip().lower())]
    return _distinct((file for file in _lines(lines, place) if file.path != name), place)


def read_own(content: bytes, place: str) -> list[Listed]:
    """Read a list of our own.

    Raises:
        BrokenContent: it is not such a list.
    """
    try:
        entries = _ENTRIES.validate_json(content, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = " of ".join(
            f"entry {step + 1}" if isinstance(step, int) else step for step in first["loc"][::-1]
        )
        said = f"{where}: {first['msg']}" if where else first["msg"]
        raise BrokenContent(f"{place} is no list of files: {said}") from error
    return _distinct(
        (Listed(entry.path, entry.sha256.lower(), entry.size, entry.url) for entry in entries),
        place,
    )


def _lines(lines: Iterable[tuple[int, str]], place: str) -> Iterator[Listed]:
    for number, line in lines:
        found = _GNU.fullmatch(line) or _BSD.fullmatch(line)
        if found:
            name = found["name"]
            if found["escaped"]:
                name = _ESCAPE.sub(_unescaped, name)
            while name.startswith("./"):
                name = name[2:].lstrip("/")
            yield Listed(name, found["digest"].lower())
        elif not _OTHER.fullmatch(line):
            raise BrokenContent(
                f"{place} is no checksum list: its line {number} is {shown(line, 60)}, and not a"
                " SHA-256 digest, two spaces and a name"
            )


def _unescaped(escape: re.Match[str]) -> str:
    return _ESCAPED.get(escape[1], escape[0])


def _distinct(files: Iterable[Listed], place: str) -> list[Listed]:
    """The files without those that are named twice."""
    found: dict[str, Listed] = {}
    for file in files:
        if found.setdefault(file.path, file) != file:
            raise BrokenContent(f"{place} names {shown(file.path)} twice, and not alike")
    return list(found.values())
