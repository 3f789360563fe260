"""JSON patches (RFC 6902): what changes a document into another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from modelcache.cluster.resources import Object


def difference(before: Any, after: Any) -> list[Object]:
    """The operations that make `after` of `before`, in their order: `add`, `remove`, `replace`."""
    return list(_changes(before, after, ""))


def pointer(parts: Sequence[str | int]) -> str:
    """A JSON pointer (RFC 6901)."""
    return "".join(f"/{_escaped(part)}" for part in parts)


def parts(path: str) -> list[str]:
    """The parts of a JSON pointer."""
    return [part.replace("~1", "/").replace("~0", "~") for part in path.split("/")[1:]]


def _escaped(part: str | int) -> str:
    return str(part).replace("~", "~0").replace("/", "~1")


def _changes(before: Any, after: Any, at: str) -> Iterator[Object]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in before.keys() - after.keys():
            yield {"op": "remove", "path": f"{at}/{_escaped(key)}"}
        for key, value in after.items():
            place = f"{at}/{_escaped(key)}"
            if key in before:
                yield from _changes(before[key], value, place)
            else:
                yield {"op": "add", "path": place, "value": value}
    elif isinstance(before, list) and isinstance(after, list):
        yield from _list_changes(before, after, at)
    elif type(before) is not type(after) or before != after:
        yield {"op": "replace", "path": at, "value": after}


def _list_changes(before: list[Any], after: list[Any], at: str) -> Iterator[Object]:
    """Items of the same name are the same item; of those without names the ones that are equal, or,
    in lists of one length, that stand in the same place."""
    left, number = list(before), 0
    for item in after:
        same = next((n for n, other in enumerate(left) if _is_same(other, item)), None)
        if same is None and len(left) == len(after) - number and not _name(left[0]):
            same = 0
        if same is None:
            yield {"op": "add", "path": f"{at}/{number}", "value": item}
        else:
            for _ in left[:same]:
                yield {"op": "remove", "path": f"{at}/{number}"}
            yield from _changes(left[same], item, f"{at}/{number}")
            left = left[same + 1 :]
        number += 1
    for _ in left:
        yield {"op": "remove", "path": f"{at}/{number}"}


def _is_same(one: Any, other: Any) -> bool:
    if _name(one) or _name(other):
        return _name(one) == _name(other)
    return type(one) is type(other) and bool(one == other)


def _name(item: Any) -> tuple[Any, ...]:
    """What names an item of a list of Kubernetes' own; empty for one that has no name.

    Of volumeMounts several have the name of one volume: they are told apart by where they are.
    """
    if not isinstance(item, dict):
        return ()
    keys = ("name", "mountPath")
    return tuple(repr(item[key]) for key in keys if key in item)
