"""The events that our code logs, as its text has them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

LEVELS = ("debug", "info", "warning", "error", "exception")
_OTHERS = ("failures.py", "statuswriting.py")
"""They log events whose names others give them."""


@dataclass
class LoggedEvent:
    """An event with all the places that log it.

    `keys` are those that every reader can rely on being names of ours; `open`: whether there are
    more, which come from a mapping.
    """

    name: str
    levels: set[str] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)
    open: bool = False


def logged_events(package: Path) -> dict[str, LoggedEvent]:
    """Every event, by its name.

    Raises:
        AssertionError: an event's name can't be read from the text.
    """
    found: dict[str, LoggedEvent] = {}
    for what in ("model", "compile_cache"):  # statuswriting.py puts these names together
        name = f"{what}.status"
        found[name] = LoggedEvent(name, {"info"}, {what, "reason", "message"})
    for path in sorted(package.rglob("*.py")):
        tree = ast.parse(path.read_text())
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            for name, level, keys in _events(call, path):
                event = found.setdefault(name, LoggedEvent(name))
                event.levels.add("error" if level == "exception" else level)
                event.keys |= {key for key in keys if key is not None}
                event.open |= None in keys
    return found


def _events(call: ast.Call, path: Path) -> Iterator[tuple[str, str, list[str | None]]]:
    keys = [keyword.arg for keyword in call.keywords]
    function = ast.unparse(call.func)
    what = call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else None
    if function in ("Failures", "Pause") and isinstance(what, str):
        # They log for others: cluster/failures.py.
        facts = [key for key in keys if key not in ("first", "most", "clock")]
        yield f"{what}.failed", "warning", ["message", "retry_seconds", *facts]
        yield f"{what}.recovered", "info", ["failures", *facts]
    elif function == "_line" and path.name == "tuner.py":  # said later
        levels, names = map(list, map(_texts, call.args[:2]))
        yield from ((name, level, keys) for name in names for level in levels)
    elif levels := _levels(call.func, path):
        names = list(_texts(call.args[0]))
        assert names or path.name in _OTHERS, f"{path}:{call.lineno}: name it with a literal"
        yield from ((name, level, keys) for name in names for level in levels)


def _levels(function: ast.expr, path: Path) -> list[str]:
    """The levels of what is called, if it logs: `log.info`, or one of two."""
    if isinstance(function, ast.IfExp):
        return [*_levels(function.body, path), *_levels(function.orelse, path)]
    if isinstance(function, ast.Attribute) and ast.unparse(function.value) in ("log", "_log"):
        return [function.attr] if function.attr in LEVELS else []
    if isinstance(function, ast.Name) and function.id in ("tell", "level"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == function.id:
                return _levels(node.value, path)
    return []


def _texts(argument: ast.expr) -> Iterator[str]:
    if isinstance(argument, ast.Constant):
        yield str(argument.value)
    elif isinstance(argument, ast.IfExp):
        yield from _texts(argument.body)
        yield from _texts(argument.orelse)
