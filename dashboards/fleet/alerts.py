"""A row about what somebody is called for."""

from __future__ import annotations

from typing import Final

from dashboards.boards import Row, band
from dashboards.fleet.keys import COPY_KEYS
from dashboards.panels import graph, table
from dashboards.queries import MODEL, each, of
from dashboards.style import COUNT, Column, Key, Query

_FIRING: Final = of("ALERTS", *MODEL, 'alertname=~"ModelCache.+"', 'alertstate="firing"')


def alerts() -> Row:
    """Those of our rules."""
    what = each("alertname, severity, cluster, node, model", _FIRING)
    return Row(
        "Which alerts fire?",
        [
            band(
                7,
                (
                    14,
                    table(
                        "Alerts that fire",
                        "Our alerts that fire now, as far as this data source evaluates our rules."
                        " Each has a page in docs/runbooks that says what to do.",
                        (Key("alertname", "Alert"), Key("severity", "Severity"), *COPY_KEYS),
                        [Column(what)],
                        order=("Severity", False),
                    ),
                ),
                (
                    10,
                    graph(
                        "Alerts over time",
                        "How many of each of our alerts fired.",
                        Query(f"count by (alertname) ({what})", "{{alertname}}"),
                        unit=COUNT,
                        stacked=True,
                    ),
                ),
            )
        ],
    )
