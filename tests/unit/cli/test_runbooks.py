"""What runbooks say to type can be typed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.rules import RUNBOOKS
from tests.unit.cli.conftest import Command

RUNBOOK_PAGES = sorted(RUNBOOKS.glob("*.md"))


def commands(text: str) -> set[str]:
    """The command lines of ours that a page shows."""
    indented = "\n".join(re.findall(r"^    .+$", text, re.MULTILINE))
    quoted = "\n".join(re.findall(r"`([^`\n]+)`", text))
    return {*re.findall(r"(?:^|-- |\s)modelcache ([a-z][^|\n]*)", f"{indented}\n{quoted}")}


@pytest.mark.parametrize("page", RUNBOOK_PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_runbook_are_real(page: Path, command: Command) -> None:
    for line in commands(page.read_text()):
        words = line.split()
        shown = command(*words[: 2 if words[0] == "compile" else 1], "--help")
        assert shown.code == 0, line
        for flag in re.findall(r"--[a-z-]+", line):
            assert re.search(rf"{flag}\b", shown.out), line


def test_commands_are_found() -> None:
    page = (
        "    kubectl exec POD -c agent -- modelcache gc --dry-run\n`modelcache ls`, `a modelcache`"
    )
    assert commands(page) == {"gc --dry-run", "ls"}
