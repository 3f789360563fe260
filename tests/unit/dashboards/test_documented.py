"""docs/dashboards.md says which panel answers which question."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from tests.support.dashboards import FOLDER, NAMES, load, panels

PAGE = (Path(__file__).parents[3] / "docs" / "dashboards.md").read_text()
SHORT = {load(name)["title"].partition(" / ")[2]: name for name in NAMES}

# What an operator is to learn without reading logs.
QUESTIONS = (
    "Which nodes have which models?",
    "What is being fetched, how fast, how long still?",
    "Why is this one not ready?",
    "Is the disk full?",
    "What was evicted, did that hurt anyone?",
    "What did the cache save (bytes and minutes)?",
    "Are compile caches hitting?",
    "Is read-ahead as wanted?",
    "Is the agent itself well?",
)


def answers() -> dict[str, list[list[tuple[str, str]]]]:
    """Of each question the dashboards and panels of both columns."""
    found = {}
    for row in re.findall(r"^\| ([^|]+\?) \| ([^|]+) \| ([^|]+) \|$", PAGE, re.MULTILINE):
        columns = []
        for column in row[1:]:
            named = []
            for part in column.split(";"):
                dashboard, _, titles = part.strip().partition(":")
                named += [(SHORT[dashboard], title) for title in re.findall(r"\*([^*]+)\*", titles)]
            columns.append(named)
        found[row[0]] = columns
    return found


def test_each_question_has_its_panels() -> None:
    found = answers()
    assert {*QUESTIONS} <= {*found}
    titles = {name: [panel["title"] for panel in panels(name)] for name in NAMES}
    for question, columns in found.items():
        assert all(columns), question
        for name, title in (each for column in columns for each in column):
            assert title in titles[name], question


def test_what_is_at_a_glance_is_in_the_first_row() -> None:
    for glance, _ in answers().values():
        for name, title in glance:
            below = [each for each in load(name)["panels"] if each["type"] == "row"][1]
            (panel,) = (each for each in panels(name) if each["title"] == title)
            assert panel["gridPos"]["y"] < below["gridPos"]["y"], title


def test_the_dashboards_are_those_of_the_page() -> None:
    for name in NAMES:
        assert f"`{load(name)['title']}`" in PAGE


def test_the_sidecar_is_told_of_the_label_and_the_annotation_that_we_set() -> None:
    component = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    blocks = [yaml.safe_load(each) for each in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]
    (sidecar,) = (each["grafana"]["sidecar"]["dashboards"] for each in blocks if "grafana" in each)
    options = component["generatorOptions"]
    assert sidecar["label"] in options["labels"]
    assert sidecar["folderAnnotation"] in options["annotations"]
    assert [each["files"] for each in component["configMapGenerator"]] == [
        [f"grafana/{name}.json"] for name in ("fleet", "node", "cold-start")
    ]
