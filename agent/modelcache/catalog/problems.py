"""What is wrong with a catalog, said to the person who wrote it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from modelcache.api import CachedModel, CompileCache
from modelcache.api.meta import NAME_MAX, NAME_PATTERN

KINDS: Final[dict[str, type[CachedModel] | type[CompileCache]]] = {
    "CachedModel": CachedModel,
    "CompileCache": CompileCache,
}
"""The kinds that people write."""

_SHOWN: Final = 64


class ObjectKey(NamedTuple):
    """What tells one object of a catalog from any other."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


class Severity(StrEnum):
    """Whether something that was meant is not in force."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, and what is allowed instead.

    Attributes:
        file: the file as it was named to the catalog.
        message: what is wrong and what is allowed, without a full stop.
        document: which document of the file, from 1; None where all of the file is meant.
        line: the line in the file, from 1, where it is known.
        field: the path of the field in camelCase, such as `spec.source.uri`.
        kind: the object's kind, as far as it could be read.
        name: the object's name, as far as it could be read.
        severity: a warning keeps nothing from being in force.
    """

    file: str
    message: str
    document: int | None = None
    line: int | None = None
    field: str = ""
    kind: str | None = None
    name: str | None = None
    severity: Severity = Severity.ERROR

    @property
    def object(self) -> str | None:
        """`CachedModel/llama`, or as much of it as is known."""
        known = [shorten(part) for part in (self.kind, self.name) if part is not None]
        return "/".join(known) or None

    def may_be(self, key: ObjectKey) -> bool:
        """Whether the broken document may be the one that described this object.

        A kind or a name that can't be right is taken for a slip of the pen: it rules nothing out.
        """
        return (self.known_kind in (None, key.kind)) and (self.known_name in (None, key.name))

    @property
    def known_kind(self) -> str | None:
        """The kind, where it is one of a catalog's."""
        return self.kind if self.kind in KINDS else None

    @property
    def known_name(self) -> str | None:
        """The name, where it is one that an object can have."""
        name = self.name
        return name if name and len(name) <= NAME_MAX and re.match(NAME_PATTERN, name) else None

    def __str__(self) -> str:
        place = []
        if self.document is not None:
            place.append(f"document {self.document}" + (f" ({self.object})" if self.object else ""))
        if self.line is not None:
            place.append(f"line {self.line}")
        if self.field:
            place.append(self.field)
        where = f"{self.file}: {', '.join(place)}" if place else self.file
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in f"{where}: {self.message}")


def shorten(text: str) -> str:
    """The text, cut where it is too long to be shown within a line."""
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
