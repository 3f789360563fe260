"""Nodes to values as JSON has them, and the way back from a field to its line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import yaml
from yaml.constructor import ConstructorError, SafeConstructor

from modelcache.catalog.composing import TAG, Collection, Node, Scalar

Path: TypeAlias = tuple[str | int, ...]
"""The way to a field: names and indexes, as in pydantic's errors."""

_MERGE: Final = TAG + "merge"
_SCALARS: Final = SafeConstructor()


@dataclass(frozen=True, slots=True)
class Fault:
    """A place in a document that can't be read as a value."""

    path: Path
    line: int
    message: str


def construct(node: Node, faults: list[Fault], path: Path = ()) -> Any:
    """The value as JSON has it: dicts with string keys, lists, strings, numbers, booleans, None.

    What can't be said in JSON, and keys given twice, are added to `faults`; the rest is read on, so
    that it can still be told which object this is.
    """
    if isinstance(node, Scalar):
        return _construct_scalar(node, faults, path)
    if node.is_mapping:
        return _construct_mapping(node, faults, path)
    return [construct(item, faults, (*path, i)) for i, item in enumerate(node.nodes)]


def _construct_scalar(node: Scalar, faults: list[Fault], path: Path) -> Any:
    try:
        match node.tag.removeprefix(TAG):
            case "str" | "timestamp" | "value" | "merge":
                # JSON has no dates, and nor has the API server: a string, as it is written.
                node.text.encode()
                return node.text
            case "null":
                return None
            case "bool":
                return SafeConstructor.bool_values[node.text.lower()]
            case "int":
                return _SCALARS.construct_yaml_int(yaml.ScalarNode(node.tag, node.text))
            case "float":
                return _SCALARS.construct_yaml_float(yaml.ScalarNode(node.tag, node.text))
            case _:
                fault = f"the tag {node.tag} is not allowed"
    except UnicodeEncodeError:
        fault = "has half of a surrogate pair in it: not Unicode"
    except (ValueError, KeyError, IndexError, OverflowError, ConstructorError):
        fault = f"{node.text[:64]!r} is not what its tag {node.tag.removeprefix(TAG)} says"
    faults.append(Fault(path, node.line, fault))
    return None


def _construct_mapping(node: Collection, faults: list[Fault], path: Path) -> dict[str, Any]:
    value: dict[str, Any] = {}
    lines: dict[str, int] = {}
    merged: list[Node] = []
    for key, item in node.pairs():
        if isinstance(key, Scalar) and key.tag == _MERGE:
            merged.append(item)
            continue
        name = _key(key, faults, path)
        if name is None:
            continue
        if name in lines:
            again = f"is given twice: first in line {lines[name]}"
            faults.append(Fault((*path, name), key.line, again))
            continue
        lines[name] = key.line
        value[name] = construct(item, faults, (*path, name))
    for item in merged:
        for source in _merge_sources(item, faults, path):
            for name, inherited in _construct_mapping(source, faults, path).items():
                value.setdefault(name, inherited)
    return value


def _key(key: Node, faults: list[Fault], path: Path) -> str | None:
    if isinstance(key, Collection):
        faults.append(Fault(path, key.line, "a list or mapping is no field name"))
        return None
    in_key: list[Fault] = []
    name = construct(key, in_key, path)
    if isinstance(name, str):
        return name
    what = f"the field name {key.text[:64] or 'null'} is no string in YAML: put it in quotes"
    faults.extend(in_key or [Fault(path, key.line, what)])
    return None


def _merge_sources(node: Node, faults: list[Fault], path: Path) -> list[Collection]:
    candidates = node.nodes if isinstance(node, Collection) and not node.is_mapping else [node]
    sources = [n for n in candidates if isinstance(n, Collection) and n.is_mapping]
    if len(sources) != len(candidates):
        faults.append(Fault(path, node.line, "<< takes a mapping or a list of mappings"))
    return sources


def locate(node: Node, path: Path) -> tuple[int, Node | None]:
    """The line of the deepest field of `path` that exists, and the node, where all of it does."""
    line = node.line
    for step in path:
        found = _step(node, step)
        if found is None:
            return line, None
        line, node = found
    return line, node


def _step(node: Node, step: str | int) -> tuple[int, Node] | None:
    if not isinstance(node, Collection):
        return None
    if isinstance(step, int):
        inside = not node.is_mapping and 0 <= step < len(node.nodes)
        return (node.nodes[step].line, node.nodes[step]) if inside else None
    merged: list[Node] = []
    for key, value in node.pairs() if node.is_mapping else ():
        if isinstance(key, Scalar) and key.tag == _MERGE:
            merged.append(value)
        elif isinstance(key, Scalar) and key.text == step:
            return key.line, value
    for item in merged:
        for source in _merge_sources(item, [], ()):
            found = _step(source, step)
            if found is not None:
                return found
    return None
