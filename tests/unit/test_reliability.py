"""The table of docs/reliability.md says what the tests of the fault matrix expect."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from tests.component.origins import test_fault_matrix
from tests.component.origins.faultmatrix import MATRIX, ORIGINS

DOCS = Path(__file__).parents[2] / "docs" / "reliability.md"


def table() -> list[list[str]]:
    """The rows of the table, its head first."""
    _, _, section = DOCS.read_text().partition("\n## Each fault at each origin\n")
    section, _, _ = section.partition("\n## ")
    lines = [line for line in section.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert set(rows.pop(1)) == {"---"}
    return rows


def test_the_table_says_what_the_tests_expect() -> None:
    head, *rows = table()
    assert head == ["fault", *(f"`{origin}://`" for origin in ORIGINS), "test"]
    assert rows == [
        [row.fault, *(text or "-" for text in row.cells), f"`{row.test}`"] for row in MATRIX
    ]


def test_each_cell_has_one_test_that_runs() -> None:
    wanted = Counter(
        (row.test, row.fault, origin)
        for row in MATRIX
        for origin, text in zip(ORIGINS, row.cells, strict=True)
        if text
    )
    found: Counter[tuple[str, ...]] = Counter()
    for name, function in vars(test_fault_matrix).items():
        test = re.match("test_(passing|lasting|resolving|credentials|changed|disk|file)", name)
        for mark in getattr(function, "pytestmark", ()) if test else ():
            if mark.name == "parametrize":
                found.update((test[0], *given.values) for given in mark.args[1] if test)
    assert found == wanted
    assert max(found.values()) == 1
    assert len({row.fault for row in MATRIX}) == len(MATRIX)


def test_a_row_has_a_cell_for_each_origin() -> None:
    for row in MATRIX:
        assert len(row.cells) == len(ORIGINS), row.fault
        assert any(row.cells), row.fault
        for text in filter(None, row.cells):
            assert re.fullmatch(r"healed|[A-Z]\w+, (kept|dropped|unused|nothing)", text), text
