"""Alerts ask for what there is, and each has its cases, its texts and its runbook."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from dashboards.rulefiles import FOLDER, NAMES, groups
from tests.support.promql import labels_of
from tests.support.rules import (
    ALERTS,
    CASES,
    RUNBOOKS,
    Rule,
    alerting,
    asked_in_texts,
    cases,
    labels_told,
    recorded,
    recording,
)

HEADINGS = [
    "What it means",
    "Who is hurt",
    "How to look",
    "What to do",
    "When to silence",
]
RUNBOOK_PAGES = sorted(RUNBOOKS.glob("*.md"))


def of(rule: Rule) -> str:
    return str(rule.get("alert") or rule["record"])


def test_there_are_alerts_for_all_that_was_promised() -> None:
    assert {
        *("ModelCacheModelNotReady", "ModelCacheFetchFailing", "ModelCacheDiskShort"),
        *("ModelCacheCorruptionFound", "ModelCacheDiskSick", "ModelCacheReadAheadDrifted"),
        *("ModelCacheCompileCacheMissing", "ModelCacheAgentDown", "ModelCacheAgentStuck"),
        *("ModelCacheCatalogInvalid", "ModelCacheEvictionsRegretted", "ModelCacheControllerDown"),
        "ModelCacheCertificateExpiring",
    } <= {*ALERTS}


def test_files_hold_what_their_names_say() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {*NAMES}
    for name, key in zip(NAMES, ("record", "alert"), strict=True):
        found = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())["groups"]
        assert all(key in rule for group in found for rule in group["rules"])
    named = [group["name"] for group in groups()]
    assert len({*named}) == len(named)
    assert all(group["interval"] for group in groups())  # Google's Rules want it


# What they ask for


def test_a_recorded_name_begins_with_the_labels_that_it_has() -> None:
    for name, labels in recorded().items():
        level, _, rest = name.partition(":")
        assert all(label in level for label in labels), name
        assert len(level) == len("_".join(labels)), name
        assert rest.startswith("modelcache_")


def test_what_is_recorded_is_of_use() -> None:
    """By an alert, another rule, or people, as docs/monitoring.md says."""
    page = (RUNBOOKS.parent / "monitoring.md").read_text()
    for rule in recording():
        assert f"`{rule['record']}`" in page


@pytest.mark.parametrize("rule", alerting(), ids=of)
def test_an_alert_asks_for_what_there_is(rule: Rule) -> None:
    labels = labels_of(rule["expr"], recorded())
    assert "cluster" in labels
    assert "instance" not in labels or "absent(" in rule["expr"]
    if missing := labels_told(rule) - labels:
        pytest.fail(f"its texts name {sorted(missing)}")


def test_an_alert_that_asks_for_what_there_is_not_is_noticed() -> None:
    for wrong in ("modelcache_model_wnated == 1", "sum by (nod) (modelcache_model_wanted)"):
        with pytest.raises(ValueError, match=r"no program exposes|are no labels"):
            labels_of(wrong, recorded())


def test_the_text_of_an_alert_asks_for_what_there_is() -> None:
    asked = [pair for rule in alerting() for pair in asked_in_texts(rule)]
    assert len(asked) == sum("| query" in str(rule["annotations"]) for rule in alerting())
    for query, label in asked:
        assert label in labels_of(query, recorded()), query


# What they say


@pytest.mark.parametrize("rule", alerting(), ids=of)
def test_an_alert_says_what_is_the_matter(rule: Rule) -> None:
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in ("critical", "warning")
    told = rule["annotations"]
    assert told.keys() == {"summary", "description", "runbook_url"}
    assert told["summary"].endswith(".")
    assert len(told["summary"]) <= 140
    assert told["description"].endswith(".")
    assert told["runbook_url"].endswith(f"/docs/runbooks/{rule['alert']}.md")
    assert rule["alert"].startswith("ModelCache")


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_has_a_case_that_fires_and_some_that_stay_silent(alert: str) -> None:
    found = list(cases(alert))
    assert {case.alert for case in found} == {alert}
    for case in found:
        assert case.name.startswith("fires: " if case.fires else "silent: "), case.name
        assert case.series or case.name == "silent: no data"
    assert len({case.name for case in found}) == len(found)
    silent = [case for case in found if not case.fires and case.series]
    assert len(silent) >= 2
    assert any(case.fires for case in found)


def test_there_are_no_cases_of_other_alerts() -> None:
    assert {path.stem for path in CASES.glob("*.yaml")} == {*ALERTS}


def test_an_alert_of_two_severities_has_a_case_for_each() -> None:
    for rule in alerting():
        told = f"severity: {rule['labels']['severity']}"
        assert told in (CASES / f"{rule['alert']}.yaml").read_text(), rule["alert"]


# Runbooks


def test_each_alert_has_a_runbook_and_each_runbook_an_alert() -> None:
    assert {path.stem for path in RUNBOOK_PAGES} == {*ALERTS}


@pytest.mark.parametrize("page", RUNBOOK_PAGES, ids=lambda page: page.stem)
def test_a_runbook_answers_what_is_asked_at_night(page: Path) -> None:
    text = page.read_text()
    assert text.startswith(f"# {page.stem}\n")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == HEADINGS
    for rule in alerting():
        if rule["alert"] == page.stem:
            assert f"*{rule['labels']['severity']}*" in text
    _, _, look = text.partition("## How to look\n")
    assert re.search(r"^    (kubectl|modelcache) ", look, re.MULTILINE)
