"""Panels as all three dashboards have them: made with Grafana's own builders, in one style.

Colours say the same everywhere, and never alone: what is green, yellow or red says so in words or
numbers too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal

from grafana_foundation_sdk.builders import bargauge, common, heatmap, stat, statetimeline
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import table as tables
from grafana_foundation_sdk.builders import timeseries as graphs
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from dashboards.style import COUNT, PLAIN, SOURCE, STATES, Column, Key, Query, Steps


def number(
    title: str,
    description: str,
    *queries: Query | str,
    unit: str = COUNT,
    steps: Steps = PLAIN,
    none: str = "none",
) -> models.Panel:
    """A large number; several, where each query has a legend. `none` is said where there is
    nothing to divide or to count."""
    panel = (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .no_value(none)
        .mappings([models.SpecialValueMap(_special(none))])
        .color_scheme(build.FieldColor().mode(models.FieldColorModeId.THRESHOLDS))
        .thresholds(_thresholds(steps))
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .color_mode(options.BigValueColorMode.VALUE)
        .graph_mode(options.BigValueGraphMode.NONE)
    )
    if unit == COUNT:
        panel.decimals(0)  # what counters grew by is reckoned, and seldom whole
    for ref, query in zip(_REFS, queries, strict=False):
        expr, legend = (query, title) if isinstance(query, str) else (query.expr, query.legend)
        panel.with_target(_target(ref, expr, legend).instant())
    return panel.build()


def graph(
    title: str,
    description: str,
    *queries: Query,
    unit: str,
    stacked: bool = False,
    most: float | None = None,
    form: Literal["lines", "bars", "points"] = "lines",
    colors: Mapping[str, str] | None = None,
) -> models.Panel:
    """Values over time. What happened between two points is `per_step`'s.

    Args:
        title, description, queries, unit: what is shown.
        stacked: whether the values are parts of a whole.
        most: what the greatest can be, as 1 of a share.
        form: `bars` for what happened between two points, `points` (with lines between them) for
            what has a value only now and then.
        colors: of series, by what they are called; others get one by their order.
    """
    bars = form == "bars"
    panel = (
        graphs.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .draw_style(options.GraphDrawStyle.BARS if bars else options.GraphDrawStyle.LINE)
        .line_width(1)
        .fill_opacity(60 if bars else 25 if stacked else 8)
        .show_points(_POINTS[form])
        .span_nulls(form == "points")
        .legend(
            common.VizLegendOptions()
            .display_mode(options.LegendDisplayMode.LIST)
            .placement(options.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(
            common.VizTooltipOptions()
            .mode(options.TooltipDisplayMode.MULTI)
            .sort(options.SortOrder.DESCENDING)
        )
    )
    if stacked:
        panel.stacking(common.StackingConfig().mode(options.StackingMode.NORMAL))
    if most is not None:
        panel.max(most)
    for name, color in (colors or {}).items():
        fixed = {"mode": "fixed", "fixedColor": color}
        panel.override_by_name(name, [_property("color", fixed)])
    for ref, query in zip(_REFS, queries, strict=False):
        panel.with_target(_target(ref, query.expr, query.legend).range())
    return panel.build()


def per_step(
    title: str,
    description: str,
    *queries: Query,
    unit: str = COUNT,
    stacked: bool = True,
    colors: Mapping[str, str] | None = None,
) -> models.Panel:
    """What happened between each two points of a graph, as bars: parts of a whole, or beside each
    other."""
    return graph(
        title, description, *queries, unit=unit, stacked=stacked, form="bars", colors=colors
    )


def bars(
    title: str, description: str, *queries: Query, unit: str, steps: Steps = PLAIN
) -> models.Panel:
    """A bar for each series, as it is now or in all of the time that is shown."""
    panel = (
        bargauge.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .no_value("none")
        .color_scheme(build.FieldColor().mode(models.FieldColorModeId.THRESHOLDS))
        .thresholds(_thresholds(steps))
        .orientation(options.VizOrientation.HORIZONTAL)
        .display_mode(options.BarGaugeDisplayMode.BASIC)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    )
    for ref, query in zip(_REFS, queries, strict=False):
        panel.with_target(_target(ref, query.expr, query.legend).instant())
    return panel.build()


def spread(title: str, description: str, expr: str, unit: str) -> models.Panel:
    """How many observations fell into each of a histogram's buckets, over time."""
    return (
        heatmap.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .calculate(False)
        .color(
            heatmap.HeatmapColorOptions()
            .mode(HeatmapColorMode.SCHEME)
            .scheme("Blues")
            .fill("blue")
            .steps(32)
            .exponent(0.5)
        )
        .cell_gap(1)
        .filter_values(heatmap.FilterValueRange().le(1e-9))
        .y_axis(heatmap.YAxisConfig().unit(unit))
        .show_tooltip()
        .hide_legend()
        .with_target(_target("A", expr, "{{le}}").range().format(PromQueryFormat.HEATMAP))
        .build()
    )


def states(title: str, description: str, query: Query, words: Sequence[str]) -> models.Panel:
    """The state of each series over time, of a query that numbers them as they stand in `words`."""
    return (
        statetimeline.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit("string")
        .mappings([_in_words(words)])
        .color_scheme(build.FieldColor().mode(models.FieldColorModeId.THRESHOLDS))
        .thresholds(_thresholds(PLAIN))
        .merge_values(True)
        .show_value(options.VisibilityMode.AUTO)
        .row_height(0.8)
        .legend(
            common.VizLegendOptions()
            .display_mode(options.LegendDisplayMode.LIST)
            .placement(options.LegendPlacement.BOTTOM)
            .show_legend(False)
        )
        .with_target(_target("A", query.expr, query.legend).range())
        .build()
    )


def table(
    title: str,
    description: str,
    keys: Sequence[Key],
    columns: Sequence[Column],
    *,
    order: tuple[str, bool] | None = None,
    known: Sequence[str] = (),
) -> models.Panel:
    """A row for each series, a column for each label and query. `order`: the title of the column
    that it is sorted by, and whether the greatest come first; `known`: labels that are not shown,
    since they are the same in all rows."""
    panel = _table(title, description)
    names = [f"Value #{ref}" if len(columns) > 1 else "Value" for ref in _REFS]
    for ref, column in zip(_REFS, columns, strict=False):
        query = _target(ref, column.expr, "").instant().format(PromQueryFormat.TABLE)
        panel.with_target(query)
    if len(columns) > 1:
        panel.with_transformation(models.DataTransformerConfig("merge", options={}))
    shown = {key.label: key.title for key in keys} | {
        name: column.title for name, column in zip(names, columns, strict=False) if column.title
    }
    hidden = ["Time", *known] + [
        name for name, column in zip(names, columns, strict=False) if not column.title
    ]
    panel.with_transformation(
        models.DataTransformerConfig(
            "organize",
            options={
                "excludeByName": dict.fromkeys(hidden, True),
                "indexByName": {name: index for index, name in enumerate(shown)},
                "renameByName": shown,
            },
        )
    )
    for key in keys:
        panel.override_by_name(key.title, _properties_of_key(key))
    for column in columns:
        if column.title:
            panel.override_by_name(column.title, _properties_of(column))
    if order is not None:
        by, descending = order
        panel.sort_by([common.TableSortByFieldState().display_name(by).desc(descending)])
    return panel.build()


def matrix(
    title: str, description: str, expr: str, *, rows: Key, columns: str, value: str
) -> models.Panel:
    """A row for each value of a label, a column for each of another, and in the cells, with its
    colour, what a third one says."""
    panel = _table(title, description)
    corner = f"{rows.label}\\{columns}"
    return (
        panel.with_target(_target("A", expr, "").instant().format(PromQueryFormat.TABLE))
        .with_transformation(
            models.DataTransformerConfig(
                "groupingToMatrix",
                options={"rowField": rows.label, "columnField": columns, "valueField": value},
            )
        )
        .with_transformation(
            models.DataTransformerConfig("organize", options={"renameByName": {corner: rows.title}})
        )
        .mappings([_in_colours()])
        .thresholds(_thresholds(((None, "transparent"),)))  # where a node has nothing to do with it
        .override_by_regexp(
            f"^(?!{rows.title}$).*", [_property("custom.cellOptions", {"type": "color-background"})]
        )
        .override_by_name(rows.title, _properties_of_key(rows))
        .build()
    )


_POINTS: Final = {
    "lines": options.VisibilityMode.AUTO,
    "bars": options.VisibilityMode.NEVER,
    "points": options.VisibilityMode.ALWAYS,
}
_REFS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _target(ref: str, expr: str, legend: str) -> Dataquery:
    return Dataquery().ref_id(ref).datasource(SOURCE).expr(expr).legend_format(legend)


def _table(title: str, description: str) -> tables.Panel:
    return (
        tables.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(COUNT)
        .no_value("-")
        .thresholds(_thresholds(PLAIN))
        .cell_height(options.TableCellHeight.SM)
        .show_header(True)
    )


def _thresholds(steps: Steps) -> build.ThresholdsConfig:
    return (
        build.ThresholdsConfig()
        .mode(models.ThresholdsMode.ABSOLUTE)
        .steps([models.Threshold(value=value, color=color) for value, color in steps])
    )


def _special(text: str) -> models.DashboardSpecialValueMapOptions:
    result = models.ValueMappingResult(text=text, color="text")
    return models.DashboardSpecialValueMapOptions(
        match=models.SpecialValueMatch.NULL_AND_NAN, result=result
    )


def _in_words(words: Sequence[str]) -> models.ValueMap:
    """Numbers as words, each with its colour."""
    return models.ValueMap(
        {
            str(index): models.ValueMappingResult(text=word, color=STATES[word], index=index)
            for index, word in enumerate(words)
        }
    )


def _in_colours() -> models.ValueMap:
    return models.ValueMap(
        {
            word: models.ValueMappingResult(text=word, color=color, index=index)
            for index, (word, color) in enumerate(STATES.items())
        }
    )


def _property(name: str, value: object) -> models.DynamicConfigValue:
    return models.DynamicConfigValue(name, value)


def _properties_of_key(key: Key) -> list[models.DynamicConfigValue]:
    found = [_property("custom.filterable", value=True)]
    if key.link is not None:
        title, url = key.link
        found.append(_property("links", [{"title": title, "url": url}]))
    if key.label == "state":
        found.append(_property("mappings", [_in_colours()]))
        found.append(_property("custom.cellOptions", {"type": "color-text"}))
    return found


def _properties_of(column: Column) -> list[models.DynamicConfigValue]:
    found = [_property("unit", column.unit)]
    if column.unit == COUNT:
        found.append(_property("decimals", 0))
    if column.cell == "gauge":
        found += [
            _property("custom.cellOptions", {"type": "gauge", "mode": "basic"}),
            _property("min", 0),
            _property("max", 1),
        ]
    elif column.steps is not PLAIN:
        found.append(_property("custom.cellOptions", {"type": "color-text"}))
    if column.steps is not PLAIN:
        found.append(_property("thresholds", _thresholds(column.steps).build()))
    if column.words:
        words = {
            value: models.ValueMappingResult(text=text, index=index)
            for index, (value, text) in enumerate(column.words.items())
        }
        found.append(_property("mappings", [models.ValueMap(words)]))
    return found
