from __future__ import annotations

import re
from typing import get_args

import pytest

from modelcache.cli import compilecmd
from modelcache.settings import FetchSettings
from tests.unit.cli.conftest import Command

COMMANDS = [
    *(
        "agent",
        "controller",
        "prefetch",
        "adopt",
        "ls",
        "show",
        "verify",
        "evict",
        "validate",
        "labels",
    ),
    *("webhook", "webhook-certificate", "inject", "link", "prepare-root", "cleanup", "tune"),
    *("lease", "leases", "release", "gc", "explain", "status", "top"),
]
GROUPS = {"bench": ["load"], "compile": [*compilecmd.COMMANDS]}


@pytest.fixture(autouse=True)
def _eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def test_the_commands_are_listed_with_a_whole_sentence_each(command: Command) -> None:
    out = command("--help").out
    for name in (*COMMANDS, *GROUPS):
        (line,) = re.findall(rf"^  {name} .*$", out, re.MULTILINE)
        assert line.endswith(".")
    assert "Exit codes: 0 done" in out


@pytest.mark.parametrize(
    "name", [*COMMANDS, *(f"{group} {name}" for group, names in GROUPS.items() for name in names)]
)
def test_help_reads_well_at_eighty_columns(command: Command, name: str) -> None:
    ended = command(*name.split(), "--help")
    assert ended.code == 0
    assert max(map(len, ended.out.splitlines())) <= 80
    assert "-o, --output" in ended.out
    assert "<str>" not in ended.out.partition("Options:")[2]


def test_brackets_are_brackets(command: Command) -> None:
    out = " ".join(command("prefetch", "--help").out.split())
    assert "hf://org/name[@revision][/path]" in out
    assert "[default: 8; MODELCACHE_CONNECTIONS]" in out


@pytest.mark.parametrize("name", ["agent", "prefetch"])
def test_the_priorities_on_the_disk_are_named(command: Command, name: str) -> None:
    out = " ".join(command(name, "--help").out.split())
    _, _, about = out.partition("--io-priority")
    about, _, _ = about.partition("MODELCACHE_IO_PRIORITY")
    for priority in get_args(FetchSettings.model_fields["io_priority"].annotation):
        assert re.search(rf"\b{priority}\b", about.partition("[default")[0])
