"""What all dashboards have: variables, links to each other, and rows of panels on a grid."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models

from dashboards.queries import CLUSTER, NODE, of
from dashboards.style import SOURCE

WIDTH: Final = 24
"""Columns of Grafana's grid."""

TITLES: Final = {
    "fleet": "Model cache / Fleet",
    "node": "Model cache / Node",
    "cold-start": "Model cache / Cold start",
}
"""The dashboards, and what they are called."""

_LINKS: Final = {
    "fleet": "All nodes and models",
    "node": "One node: disk, transfers, page cache, read-ahead",
    "cold-start": "What a start of a pod waits for, and what the cache spares it",
}


@dataclass(frozen=True)
class Band:
    """Panels side by side, as wide as they say, together 24 columns; `height` in rows of 30 px."""

    height: int
    panels: Sequence[tuple[int, models.Panel]]


@dataclass(frozen=True)
class Row:
    """Panels below a title."""

    title: str
    bands: Sequence[Band]


@dataclass(frozen=True)
class Mark:
    """Events that are drawn into all graphs: where a query has a value that is not 0.

    `title` may name labels, as `{{model}}`.
    """

    name: str
    expr: str
    title: str


def band(height: int, *panels: tuple[int, models.Panel]) -> Band:
    """Panels side by side."""
    return Band(height, panels)


def evenly(height: int, *panels: models.Panel) -> Band:
    """Panels side by side, all of one width: their number divides 24."""
    return Band(height, [(WIDTH // len(panels), panel) for panel in panels])


def uid(name: str) -> str:
    """By which a dashboard's URL finds it."""
    return f"modelcache-{name}"


def link_to_node() -> tuple[str, str]:
    """The dashboard of a node that a cell of a table names."""
    variables = "${datasource:queryparam}&${cluster:queryparam}&${model:queryparam}"
    return (
        "Show this node",
        f"/d/{uid('node')}?{variables}&var-node=${{__value.raw}}&${{__url_time_range}}",
    )


def link_to_model(name: str) -> tuple[str, str]:
    """A dashboard with nothing but the model that a cell of a table names."""
    variables = "${datasource:queryparam}&${cluster:queryparam}&${node:queryparam}"
    return (
        "Show this model alone",
        f"/d/{uid(name)}?{variables}&var-model=${{__value.raw}}&${{__url_time_range}}",
    )


def dashboard(
    name: str,
    description: str,
    rows: Sequence[Row],
    *,
    since: str,
    one_node: bool = False,
    also: Sequence[Builder[models.VariableModel]] = (),
    marks: Sequence[Mark] = (),
) -> str:
    """The JSON of a dashboard.

    Args:
        name: as in `TITLES`.
        description: what it is for.
        rows: what it shows.
        since: the time that it begins with, as `now-6h`.
        one_node: whether it shows one node rather than all that are chosen.
        also: variables of its own.
        marks: events that are drawn into its graphs.
    """
    made = (
        build.Dashboard(TITLES[name])
        .uid(uid(name))
        .description(description)
        .tags(["modelcache"])
        .readonly()
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .time(since, "now")
        .refresh("1m")
        .timezone("browser")
        .variables([*variables(one_node=one_node), *also])
        .annotations([_annotation(mark) for mark in marks])
        .links([_link(other) for other in TITLES if other != name])
        .build()
    )
    made.panels = place(rows)
    plain = json.loads(json.dumps(made, cls=JSONEncoder))
    del plain["style"]  # every reader's own
    for each in plain["templating"]["list"]:
        del each["id"]  # the same one for all
    for mark, each in zip(marks, plain["annotations"]["list"], strict=True):
        each["titleFormat"] = mark.title  # of Prometheus alone: the builder doesn't know it
    return json.dumps(plain, indent=1, ensure_ascii=False) + "\n"


def variables(*, one_node: bool) -> Sequence[Builder[models.VariableModel]]:
    """What is chosen at the top. A cluster without a name has no label `cluster`: `.*` takes it
    too."""
    nodes = of("modelcache_disk_capacity_bytes", *CLUSTER)
    node = variable("node", "Node", f"label_values({nodes}, node)", several=not one_node)
    return [
        build.DatasourceVariable("datasource").label("Data source").type("prometheus"),
        variable("cluster", "Cluster", "label_values(modelcache_build_info, cluster)"),
        node,
        variable("model", "Model", f"label_values({of('modelcache_model_state', *NODE)}, model)"),
    ]


def variable(name: str, label: str, query: str, *, several: bool = True) -> build.QueryVariable:
    """The values of a label. `several`: all of them at first."""
    made = (
        build.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(query)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(several)
        .include_all(several)
    )
    if several:
        made.all_value(".*").current(
            models.VariableOption(selected=True, text=["All"], value=["$__all"])
        )
    return made


def place(rows: Sequence[Row]) -> list[models.Panel | models.RowPanel]:
    """Number the panels, and put them onto the grid without gaps."""
    placed: list[models.Panel | models.RowPanel] = []
    y = 0
    for row in rows:
        at = models.GridPos(h=1, w=WIDTH, x=0, y=y)
        placed.append(
            models.RowPanel(title=row.title, id_val=len(placed) + 1, grid_pos=at, panels=[])
        )
        y += 1
        for each in row.bands:
            x = 0
            for width, panel in each.panels:
                panel.id_val = len(placed) + 1
                panel.grid_pos = models.GridPos(h=each.height, w=width, x=x, y=y)
                placed.append(panel)
                x += width
            assert x == WIDTH, f"{row.title}: {x} columns"
            y += each.height
    return placed


def _link(name: str) -> build.DashboardLink:
    return (
        build.DashboardLink(TITLES[name].partition(" / ")[2])
        .type(models.DashboardLinkType.LINK)
        .icon("dashboard")
        .tooltip(_LINKS[name])
        .url(f"/d/{uid(name)}")
        .include_vars(include_vars=True)
        .keep_time(keep_time=True)
    )


def _annotation(mark: Mark) -> build.AnnotationQuery:
    return (
        build.AnnotationQuery()
        .name(mark.name)
        .datasource(SOURCE)
        .enable(enable=True)
        .icon_color("green")
        .expr(mark.expr)
    )
