"""Our rules in shorter time: what takes a quarter of an hour in a cluster takes seconds in a test.

What is shortened is how long a condition has to last (`for`), and over how long is looked back
(`[1h]`, `offset 6h`). What is compared stays, since programs don't live any faster; but for what a
test names, once for each place in a rule. Groups are evaluated as often as Prometheus' own setting
says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import yaml

_UNITS: Final = {
    "ms": 0.001,
    "s": 1,
    "m": 60,
    "h": 3600,
    "d": 86_400,
    "w": 604_800,
    "y": 31_536_000,
}
_PART: Final = r"(\d+)(ms|[smhdwy])"
# Not within a name, as of a recorded rule: `…:rate5m`.
_DURATION: Final = re.compile(rf"(?<![\w.:])(?:{_PART})+(?![\w.:])")
LEAST_SECONDS: Final = 3.0
"""Of what is looked back: `rate` wants two scrapes at least, also when one of them comes late."""


def shorter(source: Path, target: Path, by: float, replaced: Mapping[str, tuple[str, str]]) -> Path:
    """Write a file of rules whose times are so many times shorter; `target`.

    Args:
        source: a file of rules.
        target: what is written.
        by: what durations are divided by.
        replaced: by a rule's name what is replaced in its expression, and by what.

    Raises:
        AssertionError: what is to be replaced is not there once in a rule of that name.
    """
    document = yaml.safe_load(source.read_text())
    for group in document["groups"]:
        group.pop("interval", None)
        for rule in group["rules"]:
            name = rule.get("alert") or rule["record"]
            if name in replaced:
                old, new = replaced[name]
                assert rule["expr"].count(old) == 1, f"{name} has no single {old!r}"
                rule["expr"] = rule["expr"].replace(old, new)
            rule["expr"] = in_shorter_time(rule["expr"], by)
            if "for" in rule:
                rule["for"] = _written(_seconds(rule["for"]) / by)
    target.write_text(yaml.safe_dump(document, sort_keys=False))
    return target


def in_shorter_time(expression: str, by: float) -> str:
    """An expression that looks back less far.

    >>> in_shorter_time('increase(x:rate5m[1h30m]) > 900', 90)
    'increase(x:rate5m[60000ms]) > 900'
    """
    return _DURATION.sub(
        lambda found: _written(max(LEAST_SECONDS, _seconds(found[0]) / by)), expression
    )


def _seconds(duration: str) -> float:
    return sum(int(number) * _UNITS[unit] for number, unit in re.findall(_PART, duration))


def _written(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"
