"""Each promise has a mutation, and each mutation still applies."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.mutations import FOLDER, Mutation, mutations

CHECKOUT = Path(__file__).parents[2]


def promises() -> dict[str, tuple[str, str]]:
    """The rows of the table: tests and mutations by promise."""
    text = (CHECKOUT / "docs" / "reliability.md").read_text()
    _, _, table = text.partition("\n| promise | test | mutations |\n|---|---|---|\n")
    rows = [line.strip("| ").split(" | ") for line in table.partition("\n\n")[0].splitlines()]
    return {promise: (tests, names) for promise, tests, names in rows}


def test_each_promise_names_its_mutations() -> None:
    for promise, (_, names) in promises().items():
        known = [f"`{m.name}`" for m in mutations() if m.promise == promise]
        assert known, f"nothing breaks: {promise}"
        assert names == ", ".join(known)
    assert {mutation.promise for mutation in mutations()} == promises().keys()


@pytest.mark.parametrize("mutation", mutations(), ids=lambda mutation: mutation.name)
def test_it_applies_and_its_tests_are_those_of_the_promise(mutation: Mutation) -> None:
    patch = FOLDER / f"{mutation.name}.patch"
    subprocess.run(["git", "apply", "--check", str(patch)], cwd=CHECKOUT, check=True)
    tests, _ = promises()[mutation.promise]
    for test in mutation.tests:
        path, _, name = test.partition("::")
        named = path.removeprefix("tests/")
        folders = [named[: i + 1] for i, c in enumerate(named) if c == "/"]
        assert any(f"`{each}`" in tests for each in (named, Path(path).name, *folders)), test
        assert f"def {name.partition('[')[0]}(" in (CHECKOUT / path).read_text() or not name
