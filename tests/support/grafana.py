"""Dashboards as Grafana reads them: their panels' queries, with the variables put in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_VARIABLE: Final = re.compile(r"\$(?:\{(?P<braced>\w+)(?::(?P<format>\w+))?\}|(?P<plain>\w+))")


@dataclass(frozen=True)
class Query:
    """One query of a panel."""

    dashboard: str
    panel: str
    ref: str
    expression: str
    interval: float = 0.0
    """The least time between two points, in seconds, if the panel says one."""

    def __str__(self) -> str:
        return f"{self.dashboard}: {self.panel}: {self.ref}"


@dataclass(frozen=True)
class Variable:
    """A variable that is chosen at the top: the values of a label in some series."""

    dashboard: str
    name: str
    series: str
    label: str
    all_value: str | None
    """What stands for all of them; None where one is chosen."""

    def __str__(self) -> str:
        return f"{self.dashboard}: ${self.name}"


def queries(folder: Path) -> list[Query]:
    """Every query of every dashboard, those of annotations too."""
    return [query for name, found in _dashboards(folder) for query in _queries(name, found)]


def variables(folder: Path) -> list[Variable]:
    """Every variable of every dashboard that asks Prometheus for its values."""
    return [
        Variable(name, each["name"], *_label_values(each["query"]), _all(each))
        for name, dashboard in _dashboards(folder)
        for each in dashboard["templating"]["list"]
        if each["type"] == "query"
    ]


def filled(expression: str, values: Mapping[str, str]) -> str:
    """An expression with what its variables stand for.

    Raises:
        KeyError: a variable has no value.
    """
    return _VARIABLE.sub(lambda found: values[found["braced"] or found["plain"]], expression)


def built_in(
    step: float, seconds: float, *, scrape_interval: float, least: float = 0.0
) -> dict[str, str]:
    """The values of Grafana's own variables, as its data source for Prometheus has them.

    Args:
        step: seconds between two points of a graph.
        seconds: the time that is shown.
        scrape_interval: the data source's setting, in seconds.
        least: the panel's own least interval.

    Source: https://grafana.com/docs/grafana/latest/datasources/prometheus/template-variables/
    (`$__rate_interval` is the greater of `$__interval` and a scrape interval, and four of these).
    """
    step = max(step, least)
    rate = max(step + scrape_interval, 4 * scrape_interval)
    return {
        "__interval": _duration(step),
        "__interval_ms": f"{round(step * 1000)}",
        "__rate_interval": _duration(rate),
        "__range": _duration(seconds),
        "__range_s": f"{round(seconds)}",
        "__range_ms": f"{round(seconds * 1000)}",
    }


def _dashboards(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(folder.glob("*.json")):
        yield path.stem, json.loads(path.read_text())


def _queries(name: str, dashboard: Mapping[str, Any]) -> Iterator[Query]:
    for panel in _panels(dashboard["panels"]):
        least = _seconds(panel.get("interval") or "")
        for number, target in enumerate(panel.get("targets", ())):
            ref = target.get("refId") or str(number)
            yield Query(name, panel["title"], ref, target["expr"], least)
    for each in dashboard.get("annotations", {}).get("list", ()):
        if "expr" in each:
            yield Query(name, f"annotation {each['name']}", "", each["expr"])


def _panels(panels: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for panel in panels:
        yield panel
        yield from _panels(panel.get("panels") or [])


def _label_values(query: str | Mapping[str, Any]) -> tuple[str, str]:
    text = query if isinstance(query, str) else query["query"]
    found = re.fullmatch(r"label_values\((.*), *(\w+)\)", text.strip())
    assert found is not None, f"another kind of query: {text}"
    return found[1], found[2]


def _all(variable: Mapping[str, Any]) -> str | None:
    if not variable.get("includeAll"):
        return None
    found = variable.get("allValue")
    assert found, "all of them, joined: not needed so far"
    return str(found)


def _duration(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"


def _seconds(text: str) -> float:
    found = re.fullmatch(r">?(\d+)(ms|[smh]|)", text)
    if not found:
        return 0.0
    return int(found[1]) * {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}[found[2]]
