"""Where the panels are: Grafana can't be had here to look at them."""

from __future__ import annotations

from itertools import pairwise

import pytest

from dashboards.boards import Row, band, place
from dashboards.panels import number
from tests.support.dashboards import NAMES, Json, load, panels

WIDTH = 24


def cells(panel: Json) -> set[tuple[int, int]]:
    at = panel["gridPos"]
    return {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}


@pytest.mark.parametrize("name", NAMES)
def test_the_grid_is_full_and_nothing_overlaps(name: str) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in load(name)["panels"]:
        for cell in cells(panel):
            assert cell not in taken, f"{panel['title']} lies on {taken[cell]}"
            taken[cell] = panel["title"]
    height = max(y for _, y in taken) + 1
    assert taken.keys() == {(x, y) for x in range(WIDTH) for y in range(height)}


@pytest.mark.parametrize("name", NAMES)
def test_panels_stand_in_the_order_in_which_they_are_read(name: str) -> None:
    at = [(each["gridPos"]["y"], each["gridPos"]["x"]) for each in load(name)["panels"]]
    assert all(first < second for first, second in pairwise(at))


@pytest.mark.parametrize("name", NAMES)
def test_the_first_row_answers_and_fits_onto_a_screen(name: str) -> None:
    rows = [each for each in load(name)["panels"] if each["type"] == "row"]
    assert rows[0]["title"] == "At a glance"
    first = [each for each in panels(name) if each["gridPos"]["y"] < rows[1]["gridPos"]["y"]]
    assert {each["type"] for each in first} == {"stat"}
    # 38 px for each unit of height; of 1080 the browser and Grafana's bar take some.
    assert rows[1]["gridPos"]["y"] * 38 <= 800


@pytest.mark.parametrize("name", NAMES)
def test_the_other_rows_ask_the_questions_that_they_answer(name: str) -> None:
    rows = [each["title"] for each in load(name)["panels"] if each["type"] == "row"]
    assert len(rows) > 4
    if name != "cold-start":
        assert all(title.endswith("?") for title in rows[1:])


@pytest.mark.parametrize("name", NAMES)
def test_panels_are_large_enough_for_what_they_show(name: str) -> None:
    for panel in panels(name):
        at, columns = panel["gridPos"], len(panel["targets"])
        if panel["type"] == "stat":
            # A title has about seven pixels a letter, a column of a wide screen about 75.
            assert len(panel["title"]) * 7 <= at["w"] * 75 - 20, panel["title"]
            assert at["h"] >= 3
        elif panel["type"] == "state-timeline":
            assert at["h"] >= 4
        else:
            assert (at["w"], at["h"]) >= (6, 6), panel["title"]
        if panel["type"] == "table" and columns > 4:
            assert at["w"] >= 10 + (columns - 4) // 2, panel["title"]


def test_a_band_that_is_not_full_is_noticed() -> None:
    panel = number("Number", "A number.", "up")
    with pytest.raises(AssertionError, match="20 columns"):
        place([Row("Row", [band(4, (20, panel))])])
