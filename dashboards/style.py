"""Units, colours, and what panels are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from grafana_foundation_sdk.models import dashboard as models

SOURCE: Final = models.DataSourceRef(type_val="prometheus", uid="${datasource}")

COUNT: Final = "short"
BYTES: Final = "bytes"
"""Powers of 1024."""
SPEED: Final = "binBps"
SECONDS: Final = "s"
SHARE: Final = "percentunit"
REQUESTS: Final = "reqps"
"""Requests a second."""
AGO: Final = "dateTimeFromNow"
"""Of a time in Unix milliseconds."""
YES_NO: Final = "bool_yes_no"

Steps = Sequence[tuple[float | None, str]]
"""Colours from each value on; the first of them from below."""

PLAIN: Final[Steps] = ((None, "text"),)
BAD_IF_ANY: Final[Steps] = ((None, "green"), (1e-9, "red"))
ODD_IF_ANY: Final[Steps] = ((None, "green"), (1e-9, "yellow"))
GOOD_IF_ALL: Final[Steps] = ((None, "red"), (0.9, "yellow"), (1, "green"))

STATES: Final = {
    "Pending": "yellow",
    "Resolving": "light-blue",
    "Downloading": "blue",
    "Verifying": "light-blue",
    "Ready": "green",
    "Failed": "red",
    "Evicted": "purple",
    "Missing": "orange",
    "ok": "green",
    "failing": "yellow",
    "down": "red",
}
"""The states of models, compile caches and disks."""


@dataclass(frozen=True, slots=True)
class Query:
    """A query and what its series are called: `legend` may name labels, as `{{model}}`."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class Key:
    """A column of a table that shows a label. `link`: what a click on it leads to."""

    label: str
    title: str
    link: tuple[str, str] | None = None
    """Title and URL."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table that shows a query's values; without a title it is not shown."""

    expr: str
    title: str = ""
    unit: str = COUNT
    steps: Steps = PLAIN
    cell: Literal["text", "gauge"] = "text"
    words: Mapping[str, str] = field(default_factory=dict)
    """What is shown in place of values."""
