"""Every query asks for what our programs expose, by labels that it has, and Prometheus takes it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import promql_parser as promql
import pytest

from modelcache.metrics.contract import FAMILIES
from tests.support.dashboards import NAMES, load, panels, queries, variables
from tests.support.promql import (
    COUNTERS,
    as_grafana_asks,
    complaints_of_promtool,
    labels_of,
    selectors,
)

QUERIES = list(queries())
OF_THE_CONTROL_PLANE = re.compile(
    "modelcache_(controller|webhook|model_nodes|compile_cache_nodes)(_|$)"
)
"""Of programs that run on any node, and speak for all."""


RARE = "Damaged files found"
"""What may be counted before the first scrape, and is asked for in another way too."""


def _is_new(around: Sequence[object]) -> bool:
    """Whether it is asked for a series that wasn't there before."""
    binary = around[-1]
    return isinstance(binary, promql.BinaryExpr) and str(binary.op) == "unless"


def test_there_are_queries() -> None:
    assert len(QUERIES) > 150


def test_prometheus_takes_every_query(tmp_path: Path) -> None:
    asked = {as_grafana_asks(each.expr) for each in QUERIES}
    assert complaints_of_promtool(asked, tmp_path) == ""


def test_a_query_that_prometheus_does_not_take_is_noticed(tmp_path: Path) -> None:
    assert "parse error" in complaints_of_promtool(["sum(up", "up"], tmp_path)


def test_every_metric_is_shown_somewhere() -> None:
    shown = {name for asked in QUERIES for name in re.findall(r"modelcache_\w+", asked.expr)}
    assert [each.name for each in FAMILIES if shown.isdisjoint(each.exposed)] == []


@pytest.mark.parametrize("name", NAMES)
def test_each_asks_for_what_there_is(name: str) -> None:
    faults = []
    for asked in queries(name):
        try:
            labels = labels_of(as_grafana_asks(asked.expr))
        except ValueError as error:
            faults.append(f"{asked}: {error}")
        else:
            if missing := {*re.findall(r"{{(\w+)}}", asked.legend)} - labels:
                faults.append(f"{asked}: the legend names {sorted(missing)}")
    assert not faults


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("modelcache_model_stat", "no program exposes modelcache_model_stat"),
        ("modelcache_fetch_seconds", "no program exposes modelcache_fetch_seconds"),
        ('modelcache_model_state{sate="Ready"}', "has no label ['sate']"),
        ('modelcache_model_state{state="ready"}', "state is never 'ready'"),
        ('modelcache_model_state{state=~"Ready|Gone"}', "state is never 'Gone'"),
        ("sum by (revision) (modelcache_model_state)", "['revision'] are no labels of"),
        ("sum without (revision) (modelcache_model_state)", "['revision'] are no labels of"),
        (
            "modelcache_model_done_bytes / on (model, state) modelcache_model_size_bytes",
            "['state'] are not on both sides",
        ),
        ("modelcache_model_state * modelcache_model_size_bytes", "by nothing"),
    ],
)
def test_a_query_for_what_there_is_not_is_noticed(query: str, fault: str) -> None:
    with pytest.raises(ValueError, match=re.escape(fault)):
        labels_of(query)


def test_the_labels_of_an_answer_are_known() -> None:
    histogram = "rate(modelcache_fetch_seconds_bucket[5m])"
    assert labels_of(f"sum by (origin, le) ({histogram})") == {"origin", "le"}
    assert labels_of(f"histogram_quantile(0.9, sum by (le) ({histogram}))") == frozenset()
    assert labels_of("time() - max by (node) (up)") == {"node"}
    joined = (
        "max by (node, model) (modelcache_model_size_bytes)"
        " {} on (model) max by (model) (modelcache_model_done_bytes)"
    )
    assert labels_of(joined.format("and")) == {"node", "model"}
    assert labels_of(joined.format("- ")) == {"model"}
    info = "max by (model) (up * 0 + on (node) group_left (model) modelcache_model_size_bytes)"
    assert labels_of(info) == {"model"}
    assert labels_of("sum by (a) (recorded)", {"recorded": ["a", "b"]}) == {"a"}


@pytest.mark.parametrize("name", NAMES)
def test_each_is_about_what_is_chosen(name: str) -> None:
    faults = []
    for asked in queries(name):
        query = as_grafana_asks(asked.expr, cluster="C", node="N", model="M", compile_cache="CC")
        for selector, _ in selectors(query):
            chosen = {each.name: each.value for each in selector.matchers.matchers}
            metric = selector.name or ""
            wanted = {"cluster": "C"}
            if not OF_THE_CONTROL_PLANE.match(metric):
                wanted["node"] = "N"
            there = labels_of(metric)
            if "model" in there:
                wanted["model"] = "M"
            if "compile_cache" in there and "compile_cache" in variables(name):
                wanted["compile_cache"] = "CC"
            labels = ("cluster", "node", "model", "compile_cache")
            got = {label: chosen[label] for label in labels if label in chosen}
            if got != wanted:
                faults.append(f"{asked}: {metric}: {got}")
    assert not faults


@pytest.mark.parametrize("name", NAMES)
def test_counters_are_asked_how_they_grow_and_nothing_else_is(name: str) -> None:
    faults = []
    for asked in queries(name):
        for selector, around in selectors(as_grafana_asks(asked.expr)):
            ranged = bool(around) and isinstance(around[-1], promql.MatrixSelector)
            function = around[-2].func.name if ranged else ""
            growing = (
                ("rate", "increase") if selector.name in COUNTERS else ("", "deriv", "changes")
            )
            if asked.panel == RARE and _is_new(around):
                continue
            if function not in growing:
                faults.append(f"{asked}: {function}({selector.name})")
    assert not faults


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_joined_that_may_be_there_twice(name: str) -> None:
    """Two agents may tell of one node, as long as one takes over from the other."""
    faults = []
    for asked in queries(name):
        if " on (" not in asked.expr:
            continue
        for selector, around in selectors(as_grafana_asks(asked.expr)):
            grouped = [each for each in around if isinstance(each, promql.AggregateExpr)]
            by = grouped[-1].modifier if grouped else None
            if by is None or not {"cluster", "node"} <= {*by.labels}:
                faults.append(f"{asked}: {selector.name}")
    assert not faults


@pytest.mark.parametrize("name", NAMES)
def test_the_columns_of_tables_are_labels_of_their_rows(name: str) -> None:
    for panel in panels(name):
        if panel["type"] != "table":
            continue
        (organized,) = (each for each in panel["transformations"] if each["id"] == "organize")
        named = {
            key
            for key in organized["options"]["renameByName"]
            if not key.startswith("Value") and "\\" not in key
        }
        answers = [labels_of(as_grafana_asks(each["expr"])) for each in panel["targets"]]
        assert named <= frozenset().union(*answers), panel["title"]
        # Each label is a column or left out: else it would be shown under its raw name.
        known = named | organized["options"].get("excludeByName", {}).keys()
        matrix = any(each["id"] == "groupingToMatrix" for each in panel["transformations"])
        assert matrix or frozenset().union(*answers) <= known, panel["title"]
        shown = {*organized["options"]["renameByName"].values()}
        assert (
            matrix
            or {each["matcher"]["options"] for each in panel["fieldConfig"]["overrides"]} == shown
        ), panel["title"]


@pytest.mark.parametrize("name", NAMES)
def test_the_rows_of_a_table_are_told_apart_by_the_same_labels(name: str) -> None:
    """Queries whose rows have other labels only in part would not be merged into one row."""
    for panel in panels(name):
        if panel["type"] == "table" and len(panel["targets"]) > 1:
            answers = [labels_of(as_grafana_asks(each["expr"])) for each in panel["targets"]]
            common = frozenset.intersection(*answers)
            assert common, panel["title"]
            assert sum(answer == common for answer in answers) >= len(answers) - 2, panel["title"]


@pytest.mark.parametrize("name", NAMES)
def test_variables_ask_for_what_there_is(name: str, tmp_path: Path) -> None:
    asked = []
    for variable in variables(name).values():
        if variable["type"] != "query":
            continue
        match = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"])
        assert match is not None
        assert match[2] in labels_of(as_grafana_asks(match[1]))
        asked.append(as_grafana_asks(match[1]))
    assert complaints_of_promtool(asked, tmp_path) == ""


@pytest.mark.parametrize("name", NAMES)
def test_a_variable_asks_only_for_those_before_it(name: str) -> None:
    known: list[str] = []
    for variable in load(name)["templating"]["list"]:
        assert {*re.findall(r"\$(\w+)", variable["query"])} <= {*known}
        known.append(variable["name"])


@pytest.mark.parametrize("name", NAMES)
def test_no_variable_is_unknown(name: str) -> None:
    builtin = {"__rate_interval", "__range"}
    for asked in queries(name):
        assert {*re.findall(r"\$(\w+)", asked.expr)} <= {*variables(name), *builtin}


def test_every_variable_is_used() -> None:
    for name in NAMES:
        text = " ".join(asked.expr for asked in queries(name))
        for variable in variables(name).keys() - {"datasource"}:
            assert re.search(rf"\${variable}\b", text), f"{name}: {variable}"
