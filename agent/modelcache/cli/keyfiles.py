"""Keys in files: as `compile key -o json` prints them, and as bundles have them."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from modelcache.compilecache.bundles.statement import Envelope, Statement
from modelcache.compilecache.keys.parts import Key
from modelcache.errors import UsageError

_FILE_BYTES: Final = 1024 * 1024
_MOST: Final = 10_000
_DEPTH: Final = 3  # <name>/<key>/<digest>/


@dataclass(frozen=True, slots=True)
class Named:
    """A key and where it was read."""

    place: str
    key: Key


def read_keys(path: Path) -> list[Named]:
    """The key in a file, or those of the bundles in a directory, three levels deep. At least one.

    Raises:
        UsageError: there is none.
    """
    if path.is_dir():
        patterns = ("/".join(["*"] * depth + ["bundle.json"]) for depth in range(_DEPTH + 1))
        files = [*islice((file for each in patterns for file in path.glob(each)), _MOST)]
        if not files:
            raise UsageError(f"{path} has no bundles (bundle.json) in it")
        return [Named(str(file.parent), _key(file)) for file in sorted(files)]
    return [Named(str(path), _key(path))]


def _key(file: Path) -> Key:
    try:
        with file.open("rb") as opened:
            content = opened.read(_FILE_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror or error}") from error
    if len(content) > _FILE_BYTES:
        raise UsageError(f"{file} is too large to be a key or a bundle's bundle.json")
    try:
        return _read(json.loads(content))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(f"{file} has no key that can be read: {where}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{file} is neither what `modelcache compile key -o json` prints nor a bundle.json"
        ) from error


def _read(document: Any) -> Key:
    match document:
        case {"kind": "CompileKey", "key": key}:
            return Key.from_document(key)
        case {"kind": "SignedCompileBundle"}:
            statement = base64.b64decode(Envelope.from_document(document).statement, validate=True)
            return Statement.from_document(json.loads(statement)).key
        case {"kind": "CompileBundle"}:
            return Statement.from_document(document).key
        case _:
            raise ValueError("no document of these kinds")
