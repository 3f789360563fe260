"""The command line as a whole."""

from __future__ import annotations

import subprocess
import sys

import pytest

from modelcache.cli.main import COMMANDS, make_app

LOADED = "import sys; from modelcache.cli.main import run; run({!r}); print(*sys.modules)"


def test_every_command_is_what_its_place_says() -> None:
    app = make_app()
    commands = {command.name: command.callback for command in app.registered_commands}
    groups = {group.name: group.typer_instance for group in app.registered_groups}
    assert {*commands, *groups} == {*COMMANDS}
    for name in COMMANDS:
        alone = make_app(name)
        assert [c.callback for c in alone.registered_commands] == [
            commands[name] for _ in range(name in commands)
        ]
        assert [g.typer_instance for g in alone.registered_groups] == [
            groups[name] for _ in range(name in groups)
        ]


@pytest.mark.parametrize("command", ["prefetch", "ls", "validate"])
def test_who_asks_no_cluster_does_not_wait_for_its_client(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED.format([command, "--help"])],
        capture_output=True,
        text=True,
        check=True,
    )
    modules = done.stdout.split()
    assert "typer" in modules
    assert "kubernetes" not in modules
