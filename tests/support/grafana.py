"""What Grafana puts in for a dashboard's variables before it asks Prometheus."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

_VARIABLE: Final = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


def filled(expression: str, values: Mapping[str, str]) -> str:
    """An expression with what its variables stand for.

    >>> filled('x{node=~"$node"}[${__range}]', {"node": ".*", "__range": "1m"})
    'x{node=~".*"}[1m]'

    Raises:
        KeyError: a variable has no value.
    """
    return _VARIABLE.sub(lambda found: values[found[1] or found[2]], expression)


def built_in(step: float, seconds: float, *, scrape_interval: float) -> dict[str, str]:
    """The values of Grafana's own variables.

    Args:
        step: seconds between two points of a graph.
        seconds: the time that is shown.
        scrape_interval: the data source's setting, in seconds.

    Source: https://grafana.com/docs/grafana/latest/datasources/prometheus/template-variables/
    (`$__rate_interval` is the greater of `$__interval` and a scrape interval, and four of these).
    """
    return {
        "__interval": _duration(step),
        "__rate_interval": _duration(max(step + scrape_interval, 4 * scrape_interval)),
        "__range": _duration(seconds),
        "__range_s": f"{round(seconds)}",
    }


def label_values(query: str | Mapping[str, Any]) -> tuple[str, str]:
    """Series and label of a variable that asks `label_values(SERIES, LABEL)`."""
    text = query if isinstance(query, str) else query["query"]
    found = re.fullmatch(r"label_values\((.*), *(\w+)\)", text.strip())
    assert found is not None, f"another kind of query: {text}"
    return found[1], found[2]


def _duration(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"
