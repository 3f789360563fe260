"""The alerts and recording rules as they are committed, their cases, and their runbooks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import yaml

from dashboards.rulefiles import FOLDER, groups
from tests.support.promql import labels_of

CASES: Final = FOLDER / "tests"
RUNBOOKS: Final = FOLDER.parents[1] / "docs" / "runbooks"

Rule = Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """One test of promtool's for one alert.

    `series` are what it is given; `fires` whether the alert is to.
    """

    alert: str
    name: str
    series: Sequence[str]
    fires: bool


def recording() -> Sequence[Rule]:
    """The recording rules, in the order in which they are evaluated."""
    return [rule for group in groups() for rule in group["rules"] if "record" in rule]


def alerting() -> Sequence[Rule]:
    """The alerting rules; two of them may make one alert, of two severities."""
    return [rule for group in groups() for rule in group["rules"] if "alert" in rule]


ALERTS: Final = tuple(dict.fromkeys(rule["alert"] for rule in alerting()))


@cache
def recorded() -> Mapping[str, frozenset[str]]:
    """The labels of each recorded series.

    Raises:
        ValueError: one asks for what there isn't.
    """
    found: dict[str, frozenset[str]] = {}
    for rule in recording():
        found[rule["record"]] = labels_of(rule["expr"], found)
    return found


def cases(alert: str) -> Iterator[Case]:
    """What promtool tests of an alert."""
    for test in yaml.safe_load((CASES / f"{alert}.yaml").read_text())["tests"]:
        for asked in test["alert_rule_test"]:
            series = [each["series"] for each in test["input_series"]]
            yield Case(asked["alertname"], test["name"], series, bool(asked["exp_alerts"]))


def asked_in_texts(rule: Rule) -> Sequence[tuple[str, str]]:
    """The queries in a rule's texts, with any values for what stands in them, and which label of
    their answers is told."""
    asked = r"printf `([^`]+)`[^}]*\| query.*?label \"(\w+)\""
    found = re.findall(asked, " ".join(rule["annotations"].values()))
    return [(query.replace("%q", '"x"'), label) for query, label in found]


def labels_told(rule: Rule) -> set[str]:
    """The labels that a rule's texts name."""
    return {*re.findall(r"\$labels\.(\w+)", str(rule["annotations"]))}
