"""A user's table of engines: a YAML file that adds to the built-in one, or changes it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, StringConstraints, ValidationError

from modelcache.api.compilecache import ENV_NAME_PATTERN, EnvName
from modelcache.api.meta import ApiModel, Name
from modelcache.catalog.composing import Node, Unreadable, compose
from modelcache.catalog.constructing import Fault, construct
from modelcache.catalog.wording import RULES, dotted, explain, nearest
from modelcache.compilecache.engines.roots import CacheRoot, Engine
from modelcache.errors import UsageError

MAX_BYTES: Final = 256 * 1024
_MAX_TOLD: Final = 10


def _relative(path: str) -> str:
    parts = PurePosixPath(path).parts
    if path and (path.startswith("/") or ".." in parts or str(PurePosixPath(*parts)) != path):
        raise ValueError("must be a relative path without '..', as in inductor or my/cache")
    if path.startswith(".modelcache"):
        raise ValueError("names that begin with .modelcache are this program's own")
    return path


def _variable(name: str) -> str:
    if name and not re.fullmatch(ENV_NAME_PATTERN, name):
        raise ValueError(f"no name of a variable: {RULES[ENV_NAME_PATTERN]}")
    return name


def _place(path: str) -> str:
    if not path.startswith(("/", "~", "$")):
        raise ValueError("must begin with /, ~ or $NAME")
    return path


Pattern = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Patterns = Annotated[tuple[Pattern, ...], Field(max_length=64)]


class RootDocument(ApiModel):
    """One cache of an engine. One that has the name of a known one replaces it."""

    name: Name
    """What people call it."""
    variable: Annotated[str, Field(max_length=256), AfterValidator(_variable)] = ""
    """The environment variable that says where it is."""
    subdirectory: (
        Annotated[str, StringConstraints(max_length=128), AfterValidator(_relative)] | None
    ) = None
    """Where it is put below the cache directory; by default its name."""
    select: Patterns = ("*",)
    """Globs: what is captured of it."""
    drop: Patterns = ()
    """Globs: what is not."""
    defaults: Annotated[
        tuple[
            Annotated[str, StringConstraints(min_length=1, max_length=512), AfterValidator(_place)],
            ...,
        ],
        Field(max_length=16),
    ] = ()
    """Where it is when the variable isn't set."""

    def root(self) -> CacheRoot:
        """The same for the table."""
        subdirectory = self.name if self.subdirectory is None else self.subdirectory
        return CacheRoot(
            self.name, self.variable, subdirectory, self.select, self.drop, self.defaults
        )


class EngineDocument(ApiModel):
    """An engine: what it adds to the one it extends."""

    extends: Literal["vllm", "sglang", "torch", "neuron", "other"] | None = None
    """The engine that it begins with: by default the built-in one of its name, or none."""
    roots: Annotated[tuple[RootDocument, ...], Field(max_length=64)] = ()
    """Its caches."""
    settings: Annotated[
        dict[EnvName, Annotated[str, Field(max_length=1024)]], Field(default={}, max_length=64)
    ]
    """Further variables that it is started with."""
    programs: Annotated[
        tuple[Annotated[str, StringConstraints(min_length=1, max_length=128)], ...],
        Field(max_length=64),
    ] = ()
    """Commands that start it, without a directory."""
    modules: Annotated[
        tuple[Annotated[str, StringConstraints(min_length=1, max_length=256)], ...],
        Field(max_length=64),
    ] = ()
    """Python modules that start it (python -m ...)."""
    ready: Annotated[
        tuple[Annotated[str, StringConstraints(min_length=1, max_length=256)], ...],
        Field(max_length=16),
    ] = ()
    """What its log says when it serves: any of these, anywhere in a line."""

    def engine(self, name: str, base: Engine | None) -> Engine:
        """The engine that comes of it."""
        roots = {root.name: root for root in base.roots} if base is not None else {}
        roots |= {root.name: root.root() for root in self.roots}
        # Programs are of one engine each: one that only extends another isn't started by them.
        same = base is not None and base.name == name
        return Engine(
            name,
            tuple(roots.values()),
            {**(base.settings if base is not None else {}), **self.settings},
            (*(base.programs if base is not None and same else ()), *self.programs),
            (*(base.modules if base is not None and same else ()), *self.modules),
            self.ready or (base.ready if base is not None else ()),
        )


class TableDocument(ApiModel):
    """The file."""

    engines: Annotated[dict[Name, EngineDocument], Field(min_length=1, max_length=64)]
    """Engines by name."""


def read_table(path: Path, built_in: Mapping[str, Engine]) -> dict[str, Engine]:
    """The engines by name, those of the file first: of two with one program it is theirs.

    Raises:
        UsageError: the file can't be read, or says what can't be right; names file, line and field.
    """
    document = _document(path)
    added: dict[str, Engine] = {}
    for name, engine in document.engines.items():
        base = built_in.get(engine.extends or name)
        made = engine.engine(name, base)
        if not made.roots:
            raise UsageError(
                f"{path}: engines.{name} has no caches: give it roots, or extends: with the name of"
                f" a built-in engine{nearest(name, built_in)}"
            )
        added[name] = made
    return {**added, **{name: engine for name, engine in built_in.items() if name not in added}}


def _document(path: Path) -> TableDocument:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"the table of engines {path} can't be read: {error.strerror}") from error
    if len(text) > MAX_BYTES:
        raise UsageError(f"{path} is larger than {MAX_BYTES // 1024} KiB: no table of engines")
    faults: list[Fault] = []
    try:
        node = compose(text.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no text in UTF-8: a table of engines is YAML") from error
    except Unreadable as error:
        raise UsageError(f"{path}: line {error.line}: {error}") from error
    if node is None:
        raise UsageError(f"{path} is empty: a table of engines begins with engines:")
    value = construct(node, faults)
    if faults:
        raise UsageError(_told(path, [(f.line, dotted(f.path), f.message) for f in faults]))
    try:
        return TableDocument.from_document(value)
    except ValidationError as error:
        raise UsageError(_told(path, _explained(error, node))) from error


def _explained(error: ValidationError, node: Node) -> list[tuple[int, str, str]]:
    # pydantic's path of a key that is wrong ends with a step of its own.
    return [
        (line, dotted(where[:-1] if where[-1:] == ("[key]",) else where), message)
        for where, line, message in explain(error, TableDocument, node)
    ]


def _told(path: Path, problems: list[tuple[int, str, str]]) -> str:
    told = [
        f"{path}: line {line}{f', {where}' if where else ''}: {message}"
        for line, where, message in problems[:_MAX_TOLD]
    ]
    more = len(problems) - len(told)
    return "; ".join(told + ([f"and {more} more"] if more else []))
