"""Catalog text to objects: each document read on its own, each mistake a `Problem`."""

from __future__ import annotations

import codecs
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from pydantic import ValidationError

from modelcache.api import API_VERSION, CachedModel, CompileCache
from modelcache.catalog.composing import Node, Unreadable, compose
from modelcache.catalog.constructing import Fault, Path, construct, locate
from modelcache.catalog.problems import KINDS, ObjectKey, Problem, Severity
from modelcache.catalog.splitting import split
from modelcache.catalog.wording import dotted, explain, nearest, quoted

MAX_FILE_BYTES: Final = 32 * 1024 * 1024
"""The size of a file. 10,000 objects take about three of them."""
MAX_DOCUMENTS: Final = 100_000
"""The documents of a file."""
MAX_PROBLEMS: Final = 20
"""What is said of one document; more would bury the first."""

_ALLOWED: Final = " and ".join(KINDS)
_LIST_FIELDS: Final = ("apiVersion", "kind", "metadata", "items")


@dataclass(frozen=True, slots=True)
class Document:
    """An object as it was read, without its status, and where it stands.

    Attributes:
        object: the object.
        file: the file, as it was named to the catalog.
        number: which document of the file, from 1.
        line: where it begins, from 1.
    """

    object: CachedModel | CompileCache
    file: str
    number: int
    line: int

    @property
    def key(self) -> ObjectKey:
        """Kind and name."""
        return ObjectKey(self.object.kind, self.object.name)

    @property
    def place(self) -> str:
        """For a person: `models.yaml, document 2, line 14`."""
        return f"{self.file}, document {self.number}, line {self.line}"


Entry: TypeAlias = Document | Problem


def read_documents(text: bytes, origin: str) -> list[Entry]:
    """Read a YAML (or JSON) text: its objects and what is wrong with the others, in its order.

    Nothing that a text can hold makes it raise. A `kind: List`, as `kubectl get -o yaml` prints
    it, counts as one document; an object's `status` is not read.

    Args:
        text: the content of a file.
        origin: the file's name, for messages.
    """
    try:
        decoded = _decode(text)
    except ValueError as error:
        return [Problem(origin, str(error))]
    entries: list[Entry] = []
    is_empty = True
    for number, (line, chunk) in enumerate(split(decoded), start=1):
        if number > MAX_DOCUMENTS:
            what = f"has more than {MAX_DOCUMENTS:,} documents: the rest is not read"
            entries.append(Problem(origin, what, line=line))
            break
        found = _Reader(origin, number).read(chunk, line)
        if found is not None:
            is_empty = False
            entries += found
    if is_empty:
        what = "is empty: it has no document with an object"
        entries.append(Problem(origin, what, severity=Severity.WARNING))
    return entries


def _decode(text: bytes) -> str:
    if len(text) > MAX_FILE_BYTES:
        limit = MAX_FILE_BYTES // (1024 * 1024)
        raise ValueError(f"is larger than {limit} MiB: split it into several files")
    if text.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError("is text in UTF-16: save it in UTF-8")
    try:
        decoded = text.decode()
    except UnicodeDecodeError as error:
        byte = text[error.start]
        raise ValueError(
            f"is no text in UTF-8 (byte 0x{byte:02x} at offset {error.start}): "
            "a catalog is YAML or JSON text"
        ) from error
    if "\0" in decoded:
        raise ValueError("is binary (it has NUL bytes): a catalog is YAML or JSON text")
    return decoded


class _Reader:
    """Reads one document, which is one object or a list of them."""

    def __init__(self, file: str, number: int) -> None:
        self._file = file
        self._number = number

    def read(self, chunk: str, first_line: int) -> list[Entry] | None:
        """What the document says; None where it says nothing at all."""
        try:
            node = compose(chunk, first_line)
        except Unreadable as error:
            return [Problem(self._file, str(error), self._number, error.line)]
        faults: list[Fault] = []
        value = construct(node, faults) if node is not None else None
        if node is None or (value is None and not faults):
            return None
        if isinstance(value, dict) and value.get("kind") == "List":
            return self._list(value, node, faults)
        return self._object(value, node, (), faults)

    def _list(self, value: dict[str, Any], node: Node, faults: list[Fault]) -> list[Entry]:
        of_items: defaultdict[Path, list[Fault]] = defaultdict(list)
        for fault in faults:
            is_in_item = len(fault.path) > 1 and fault.path[0] == "items"
            of_items[fault.path[:2] if is_in_item else ()].append(fault)
        entries: list[Entry] = _limited(
            [self._at(f.line, f.path, f.message, value) for f in of_items[()]]
        )
        if value.get("apiVersion") != "v1":
            what = f"{quoted(value.get('apiVersion'))} is not allowed for a List: v1"
            entries.append(self._problem(node, ("apiVersion",), what, value))
        for name in value:
            if name not in _LIST_FIELDS:
                what = f"unknown field; a List has {', '.join(_LIST_FIELDS)}"
                entries.append(self._problem(node, (name,), what, value))
        items = value.get("items")
        if not isinstance(items, list):
            what = f"a list is wanted, not {quoted(items)}"
            return [*entries, self._problem(node, ("items",), what, value)]
        for index, item in enumerate(items):
            path: Path = ("items", index)
            found = locate(node, path)[1]
            if isinstance(item, dict) and item.get("kind") == "List":
                entries.append(self._problem(node, path, "a List within a List", None))
            elif found is not None:
                entries += self._object(item, found, path, of_items[path])
        return entries

    def _object(self, value: Any, node: Node, base: Path, faults: list[Fault]) -> list[Entry]:
        if faults:
            return _limited([self._at(f.line, f.path, f.message, value) for f in faults])
        if not isinstance(value, dict):
            what = (
                f"is {quoted(value)}: an object with apiVersion, kind, metadata and spec is wanted"
            )
            return [self._at(node.line, base, what, None)]
        wrong = _type_problem(value)
        if wrong is not None:
            field, what = wrong
            line, _ = locate(node, (field,))
            return [self._at(line, (*base, field), what, value)]
        model = KINDS[value["kind"]]
        try:
            # Status is the cluster's: what it says is not desired, and may be a newer version's.
            read = model.from_document({k: v for k, v in value.items() if k != "status"})
        except ValidationError as error:
            explained = explain(error, model, node)
            return _limited(
                [self._at(line, (*base, *path), what, value) for path, line, what in explained]
            )
        return [Document(read, self._file, self._number, node.line)]

    def _problem(self, node: Node, path: Path, message: str, value: Any) -> Problem:
        return self._at(locate(node, path)[0], path, message, value)

    def _at(self, line: int, path: Path, message: str, value: Any) -> Problem:
        kind, name = _identity(value)
        return Problem(self._file, message, self._number, line, dotted(path), kind, name)


def _type_problem(value: dict[str, Any]) -> tuple[str, str] | None:
    """The field and what is wrong with it, where the document is no object of a catalog."""
    kind, version = value.get("kind"), value.get("apiVersion")
    if kind is None:
        return "kind", f"is missing and required: {_ALLOWED} are allowed"
    if kind == "NodeCache":
        return "kind", f"a NodeCache is written by agents, not by people: {_ALLOWED} are allowed"
    if not isinstance(kind, str) or kind not in KINDS:
        hint = nearest(kind, KINDS) if isinstance(kind, str) else ""
        return "kind", f"{quoted(kind)} is unknown{hint or ':'} {_ALLOWED} are allowed"
    if version is None:
        return "apiVersion", f"is missing and required: {API_VERSION}"
    if version != API_VERSION:
        return "apiVersion", f"{quoted(version)} is unknown: {API_VERSION} is allowed"
    return None


def _identity(value: Any) -> tuple[str | None, str | None]:
    if not isinstance(value, dict):
        return None, None
    kind, meta = value.get("kind"), value.get("metadata")
    name = meta.get("name") if isinstance(meta, dict) else None
    return (kind if isinstance(kind, str) else None, name if isinstance(name, str) else None)


def _limited(problems: list[Problem]) -> list[Entry]:
    if len(problems) <= MAX_PROBLEMS:
        return list(problems)
    last = problems[MAX_PROBLEMS - 1]
    more = f"and {len(problems) - MAX_PROBLEMS + 1:,} more problems in this document"
    rest = Problem(last.file, more, last.document, None, "", last.kind, last.name)
    return [*problems[: MAX_PROBLEMS - 1], rest]
