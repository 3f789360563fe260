"""A real Prometheus watches a story: what it scraped answers what dashboards and alerts ask."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from modelcache.metrics.contract import FAMILIES, Family
from tests.e2e.monitoring.conftest import RULES
from tests.e2e.monitoring.story import AT_THE_END, FOR_A_WHILE, LOW, MIB, SIZES, Story, alert_of
from tests.support import dashboards, grafana
from tests.support.prometheus import SECONDS_BETWEEN_SCRAPES, Series
from tests.support.promql import compared, selectors, written

STEP = 2.0
"""Seconds between two points of a graph; as Grafana has it where it shows a quarter of an hour."""


def rules(kind: str) -> list[dict[str, Any]]:
    """The recording rules (`record`) or the alerts (`alert`), as they are committed."""
    return [
        rule
        for path in sorted(RULES.glob("*.yaml"))
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
        if kind in rule
    ]


def over_the_story(story: Story, expression: str) -> list[Series]:
    """What a graph of it would show, of the whole story."""
    found = story.world.prometheus.query_range(expression, story.began, story.ended, STEP)
    return [series for series in found if series.says_something]


def values(story: Story, dashboard: str) -> dict[str, str]:
    """What a dashboard's variables stand for: all of each, or the first of one that is chosen."""
    seconds = story.ended - story.began
    known = grafana.built_in(STEP, seconds, scrape_interval=SECONDS_BETWEEN_SCRAPES)
    for name, variable in dashboards.variables(dashboard).items():
        if variable["type"] == "query":
            all_of_them = variable.get("allValue") if variable.get("includeAll") else None
            known[name] = all_of_them or asked(story, variable, known)[0]
    return known


def asked(story: Story, variable: dashboards.Json, known: Mapping[str, str]) -> list[str]:
    """The values that can be chosen of a variable, given those before it."""
    series, label = grafana.label_values(variable["query"])
    return story.world.prometheus.label_values(label, grafana.filled(series, known))


def test_every_program_was_scraped_without_an_error(story: Story) -> None:
    ups = story.world.prometheus.query(f"last_over_time(up[{story.seconds}s])")
    assert {(each.labels["job"], each.labels["node"]) for each in ups} == story.world.scraped
    samples = story.world.prometheus.query(
        f"max_over_time(scrape_samples_scraped[{story.seconds}s]) < 5"
    )
    assert samples == []
    assert story.world.prometheus.said == ""


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_the_story_has_every_family(story: Story, family: Family) -> None:
    known = {*story.world.prometheus.label_values("__name__", '{__name__=~"modelcache_.*"}')}
    assert {*family.exposed} - known == set()


@pytest.mark.parametrize("dashboard", dashboards.NAMES)
def test_every_variable_has_values(story: Story, dashboard: str) -> None:
    known = values(story, dashboard)
    for name, variable in dashboards.variables(dashboard).items():
        if variable["type"] == "query":
            assert asked(story, variable, known), name


@pytest.mark.parametrize("query", [*dashboards.queries()], ids=str)
def test_every_query_of_every_panel_has_data(story: Story, query: dashboards.Asked) -> None:
    expression = grafana.filled(query.expr, values(story, query.dashboard))
    assert over_the_story(story, expression), expression


@pytest.mark.parametrize("rule", rules("record"), ids=lambda rule: rule["record"])
def test_every_recorded_rule_has_data(story: Story, rule: dict[str, Any]) -> None:
    assert over_the_story(story, rule["record"])


@pytest.mark.parametrize("rule", rules("alert"), ids=lambda rule: rule["alert"])
def test_all_that_an_alert_asks_for_is_there(story: Story, rule: dict[str, Any]) -> None:
    """Of one that doesn't fire in the story, too: its series, and what it compares."""
    asked_for = [written(selector) for selector, _ in selectors(rule["expr"])]
    asked_for += compared(rule["expr"])
    assert [each for each in asked_for if not over_the_story(story, each)] == []


def test_rules_are_evaluated_without_an_error(story: Story) -> None:
    found = story.world.prometheus.rules()
    assert {rule["name"] for rule in found} == {
        rule.get("record") or rule["alert"] for kind in ("record", "alert") for rule in rules(kind)
    }
    assert {rule["name"]: rule["lastError"] for rule in found if rule["health"] != "ok"} == {}


def test_what_is_to_fire_fires_and_nothing_else(story: Story) -> None:
    fired, wanted = story.fired(), {*AT_THE_END, *FOR_A_WHILE}
    assert (fired - wanted, wanted - fired) == (set(), set())


def test_what_is_over_fires_no_more(story: Story) -> None:
    firing = {
        alert_of(alert["labels"])
        for alert in story.world.prometheus.alerts()
        if alert["state"] == "firing"
    }
    assert firing == {*AT_THE_END}


def test_no_sentence_of_an_alert_has_a_gap(story: Story) -> None:
    """As where a label isn't there, or a template says nothing."""
    texts = [
        text for alert in story.world.prometheus.alerts() for text in alert["annotations"].values()
    ]
    assert len(texts) >= 3 * len(AT_THE_END)
    assert [text for text in texts if re.search(r"\s[.,:;]|\s\s|^\s|\s$|\(\)|''", text)] == []


ANSWERS = {
    # Nine are wanted where an agent is still asked; one of them nobody may fetch.
    ("fleet", "Wanted copies that are ready", "A"): 8 / 9,
    ("fleet", "Copies still to come", "A"): 0,
    ("fleet", "Copies still to come", "B"): 0,
    ("fleet", "Copies that fail", "A"): 1,
    ("fleet", "Copies that fail", "B"): 0,
    ("fleet", "Fetching now", "A"): 0,
    ("fleet", "Agents that answer", "A"): 1,
    ("fleet", "Agents that answer", "B"): 2,
    ("fleet", "Room that is missing", "A"): 0,
    ("fleet", "Evictions that hurt", "A"): len(LOW),
    ("fleet", "Damaged files found", "A"): 1,
    ("fleet", "Bytes not fetched again", "A"): SIZES["llama"] * MIB,
    # One of a miss, a hit, and three that had nothing to find.
    ("fleet", "Compile caches that hit", "A"): 1 / 5,
    ("fleet", "Time not waited", "B"): 40,
    ("fleet", "Devices with other read-ahead", "A"): 1,
    ("fleet", "Sick disks", "A"): 0,
    ("fleet", "Problems in catalogs", "A"): 1,
    ("cold-start", "Compiling, without the cache", "A"): 40,
}
"""What the dashboards say when the story is over."""


@pytest.mark.parametrize("panel", ANSWERS, ids=": ".join)
def test_the_answers_are_those_of_the_story(story: Story, panel: tuple[str, str, str]) -> None:
    dashboard, title, ref = panel
    (query,) = (
        each for each in dashboards.queries(dashboard) if (each.panel, each.ref) == (title, ref)
    )
    expression = grafana.filled(query.expr, values(story, dashboard))
    (found,) = story.world.prometheus.query(expression, story.ended)
    # `increase` looks a little beyond what it was given.
    assert found.value == pytest.approx(ANSWERS[panel], rel=0.1)
