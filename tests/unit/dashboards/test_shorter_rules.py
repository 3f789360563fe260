"""The rules in shorter time, as the story has them, are the same rules."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.support.grafana import built_in, filled, label_values
from tests.support.shorterrules import in_shorter_time, shorter

RULES = """
groups:
  - name: g
    interval: 30s
    rules:
      - record: a:b:rate5m
        expr: rate(b[5m])
      - alert: A
        expr: time() - x > 3600 and increase(y[1h30m] offset 1d) > 2.5
        for: 15m
        annotations: {summary: for 15m}
"""


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "rules.yaml"
    path.write_text(RULES)
    return path


def test_times_are_shorter_and_all_else_is_as_it_was(rules: Path, tmp_path: Path) -> None:
    written = shorter(rules, tmp_path / "out.yaml", 60, {"A": ("> 3600", "> 20")})
    (group,) = yaml.safe_load(written.read_text())["groups"]
    assert group == {
        "name": "g",
        "rules": [
            {"record": "a:b:rate5m", "expr": "rate(b[5000ms])"},
            {
                "alert": "A",
                "expr": "time() - x > 20 and increase(y[90000ms] offset 1440000ms) > 2.5",
                "for": "15000ms",
                "annotations": {"summary": "for 15m"},
            },
        ],
    }


@pytest.mark.parametrize("name", ["A", "a:b:rate5m"])
def test_what_is_replaced_has_to_be_there(rules: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(AssertionError, match="has no single '> 7200'"):
        shorter(rules, tmp_path / "out.yaml", 60, {name: ("> 7200", "> 20")})


def test_names_are_no_times_and_two_scrapes_are_left() -> None:
    assert in_shorter_time("x:y:deriv15m[1m] > 5", 90) == "x:y:deriv15m[3000ms] > 5"


def test_variables_are_filled_in_as_grafana_does_it() -> None:
    values = {**built_in(2, 60, scrape_interval=1), "node": ".*"}
    found = filled('rate(x{node=~"$node"}[$__rate_interval])+y[${__range}]', values)
    assert found == 'rate(x{node=~".*"}[4000ms])+y[60000ms]'
    assert built_in(30, 60, scrape_interval=15)["__rate_interval"] == "60000ms"
    assert built_in(60, 60, scrape_interval=15)["__rate_interval"] == "75000ms"
    with pytest.raises(KeyError):
        filled("$unknown", values)


def test_a_variable_asks_for_a_label_of_series() -> None:
    query = 'label_values(x{a=~"$a",b="c, d"}, node)'
    assert label_values({"query": query}) == ('x{a=~"$a",b="c, d"}', "node")
