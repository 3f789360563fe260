"""The rules of https://github.com/grafana/dashboard-linter, and some more of our own.

Its rules about queries are in test_queries.py; those about `job` and `instance` are kept in another
form: see dashboards/grafana/.lint.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import parse_qsl, urlsplit

import pytest
import yaml

from tests.support.dashboards import FOLDER, NAMES, Json, load, panels, queries, variables
from tests.support.promql import as_grafana_asks

SOURCE = {"type": "prometheus", "uid": "${datasource}"}

# Of Grafana's (packages/grafana-data/src/valueFormats/categories.ts), those that we have use for.
UNITS = {
    *("short", "percentunit", "string", "bool_yes_no", "bytes", "binBps", "s", "reqps"),
    "dateTimeFromNow",
}
UNIT_OF_WHAT_ENDS_IN = {
    "_bytes": {"bytes"},
    "_bytes_total": {"bytes", "binBps"},
    "_seconds": {"s", "dateTimeFromNow"},
    "_seconds_total": {"s", "short"},  # seconds of work each second are no seconds
    "_ratio": {"percentunit"},
}

TAGS_OF_HTML = re.compile("<[a-z/]")
LIMIT = 200 * 1024
"""Of `kubectl apply`: it keeps a copy of what it was given in an annotation, 256 KiB at most."""


def datasources(of: object) -> Iterator[object]:
    """Every one that is named anywhere."""
    if isinstance(of, dict):
        for key, value in of.items():
            if key == "datasource":
                yield value
            else:
                yield from datasources(value)
    elif isinstance(of, list):
        for each in of:
            yield from datasources(each)


def units(panel: Json) -> dict[str, str]:
    """The unit of each query."""
    default = panel["fieldConfig"]["defaults"]["unit"]
    if panel["type"] != "table":
        return {target["refId"]: default for target in panel["targets"]}
    (organized,) = (each for each in panel["transformations"] if each["id"] == "organize")
    titles = organized["options"]["renameByName"]
    found = {}
    for target in panel["targets"]:
        name = "Value" if len(panel["targets"]) == 1 else f"Value #{target['refId']}"
        for override in panel["fieldConfig"]["overrides"]:
            if override["matcher"] == {"id": "byName", "options": titles.get(name)}:
                (found[target["refId"]],) = (
                    each["value"] for each in override["properties"] if each["id"] == "unit"
                )
    return found


def links_of_cells(panel: Json) -> Iterator[str]:
    for override in panel["fieldConfig"]["overrides"]:
        for each in override["properties"]:
            if each["id"] == "links":
                yield from (link["url"] for link in each["value"])


@pytest.mark.parametrize("name", NAMES)
def test_the_data_source_is_chosen(name: str) -> None:
    first = load(name)["templating"]["list"][0]
    assert (first["name"], first["type"], first["query"]) == (
        *("datasource", "datasource"),
        "prometheus",
    )
    assert first["label"] == "Data source"
    found = list(datasources(load(name)))
    assert len(found) > len(list(panels(name)))
    assert all(each == SOURCE for each in found)


@pytest.mark.parametrize("name", NAMES)
def test_the_variables_are_those_that_all_have(name: str) -> None:
    found = variables(name)
    assert [*found][:4] == ["datasource", "cluster", "node", "model"]
    for variable in found.values():
        if variable["type"] == "query":
            assert variable["refresh"] == 2, "when the time range changes"
            assert variable["sort"] == 1
            assert variable["label"]
            one = (name, variable["name"]) == ("node", "node")
            assert variable["multi"] is variable["includeAll"] is not one
            # `.+` would leave out clusters without a name.
            assert variable.get("allValue") == (None if one else ".*")


@pytest.mark.parametrize("name", NAMES)
def test_nobody_edits_it_by_hand(name: str) -> None:
    assert load(name)["editable"] is False


@pytest.mark.parametrize("name", NAMES)
def test_it_has_a_name_of_its_own_and_says_what_it_is_for(name: str) -> None:
    board = load(name)
    assert board["uid"] == f"modelcache-{name}"
    assert len(board["uid"]) <= 40  # Grafana's limit
    assert board["title"].startswith("Model cache / ")
    assert board["description"].endswith(".")
    assert board["tags"] == ["modelcache"]
    assert board.get("id") is None
    assert len({load(other)["title"] for other in NAMES}) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_panel_has_a_title_a_description_and_queries(name: str) -> None:
    titles = [panel["title"] for panel in panels(name)]
    assert len({*titles}) == len(titles)
    for panel in panels(name):
        assert panel["title"], panel["id"]
        assert panel["description"].endswith("."), panel["title"]
        assert len(panel["description"]) > 20
        assert panel["description"].lower() != panel["title"].lower()
        assert not TAGS_OF_HTML.search(panel["title"] + panel["description"])
        assert panel["targets"], panel["title"]
        refs = [target["refId"] for target in panel["targets"]]
        assert len({*refs}) == len(refs)


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_unique(name: str) -> None:
    ids = [panel["id"] for panel in load(name)["panels"]]
    assert len({*ids}) == len(ids)


@pytest.mark.parametrize("name", NAMES)
def test_every_panel_has_a_unit(name: str) -> None:
    for panel in panels(name):
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]
        assert {*units(panel).values()} <= UNITS, panel["title"]


@pytest.mark.parametrize("name", NAMES)
def test_the_unit_is_that_of_the_metric(name: str) -> None:
    """Where a query is one metric, however it is filtered and summed."""
    faults = []
    for panel in panels(name):
        given = units(panel)
        for target in panel["targets"]:
            query = as_grafana_asks(target["expr"])
            metrics = {*re.findall(r"modelcache_\w+", query)}
            plain = not re.search(r" [/+*-] |count\b|deriv\(| and ", query)
            if len(metrics) != 1 or not plain or target["refId"] not in given:
                continue
            metric = metrics.pop().removesuffix("_bucket").removesuffix("_sum")
            unit = given[target["refId"]]
            for ending, fitting in UNIT_OF_WHAT_ENDS_IN.items():
                if metric.endswith(ending) and unit not in fitting:
                    faults.append(f"{panel['title']}: {metric} in {unit}")
            if metric.endswith("_bytes_total") and (unit == "binBps") != ("rate(" in query):
                faults.append(f"{panel['title']}: {unit} of {query}")
    assert not faults


@pytest.mark.parametrize("name", NAMES)
def test_rates_follow_the_step_of_the_graph(name: str) -> None:
    """$__rate_interval in graphs; $__range only where one number is asked for."""
    for asked in queries(name):
        ranges = {*re.findall(r"\[([^\]]+)\]", asked.expr)}
        assert ranges <= {"$__rate_interval", "$__range"}, asked
        for function, over in re.findall(r"(\w+)\([^()]*\[([^\]]+)\]", asked.expr):
            if function in ("rate", "deriv", "changes") or not asked.instant:
                assert over == "$__rate_interval", asked


@pytest.mark.parametrize("name", NAMES)
def test_each_leads_to_the_other_two(name: str) -> None:
    links = load(name)["links"]
    assert {link["url"] for link in links} == {
        f"/d/{load(other)['uid']}" for other in NAMES if other != name
    }
    for link in links:
        assert link["type"] == "link"
        assert link["includeVars"] is link["keepTime"] is True
        assert link["title"]
        assert link["tooltip"]


@pytest.mark.parametrize("name", NAMES)
def test_cells_lead_to_a_dashboard_and_keep_what_is_chosen(name: str) -> None:
    uids = {load(other)["uid"]: other for other in NAMES}
    urls = {url for panel in panels(name) for url in links_of_cells(panel)}
    assert urls
    for url in urls:
        assert not urlsplit(url).netloc
        other = uids[urlsplit(url).path.removeprefix("/d/")]
        passed = {*re.findall(r"\${(\w+):queryparam}", url)}
        named = {key.removeprefix("var-") for key, _ in parse_qsl(urlsplit(url).query)}
        assert passed | {*named} == {"datasource", "cluster", "node", "model"}
        assert passed | {*named} <= variables(other).keys()
        assert "${__url_time_range}" in url


def test_what_the_linter_is_told_to_leave_out_has_a_reason() -> None:
    left_out = yaml.safe_load((FOLDER / "grafana" / ".lint").read_text())
    assert left_out.keys() == {"exclusions"}
    assert {rule: len(each["reason"]) > 20 for rule, each in left_out["exclusions"].items()} == {
        "template-job-rule": True,
        "template-instance-rule": True,
        "target-job-rule": True,
        "target-instance-rule": True,
        "target-counter-agg-rule": True,
    }
    there = {(load(name)["title"], panel["title"]) for name in NAMES for panel in panels(name)}
    for each in left_out["exclusions"]["target-counter-agg-rule"]["entries"]:
        assert (each["dashboard"], each["panel"]) in there


@pytest.mark.parametrize("name", NAMES)
def test_it_fits_into_a_config_map(name: str) -> None:
    assert (FOLDER / "grafana" / f"{name}.json").stat().st_size < LIMIT


@pytest.mark.parametrize("name", NAMES)
def test_no_envsubst_would_take_anything_out_of_its_queries(name: str) -> None:
    """`${…}` is what Flux and the like replace; our queries have no braces about their variables,
    and the rest is protected by an annotation."""
    assert not any("${" in asked.expr for asked in queries(name))
