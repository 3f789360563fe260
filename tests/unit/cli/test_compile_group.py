"""modelcache compile: a group whose commands are imported when they are asked for."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest
import typer

from modelcache.cli import compilecmd
from modelcache.cli.output import Format
from tests.unit.cli.conftest import Command

LOADED = "import sys; from modelcache.cli.main import run; run({!r}); print(*sys.modules)"


def _greet(name: str, output: Format = Format.TABLE) -> None:
    """Greet."""
    print(f"hello {name} {output}")


@pytest.fixture
def _two_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that works, and one whose module isn't there."""
    module = ModuleType("modelcache.cli.greeting")
    module.__dict__["greet"] = _greet
    monkeypatch.setitem(sys.modules, "modelcache.cli.greeting", module)
    monkeypatch.setitem(compilecmd.COMMANDS, "greet", ("greeting:greet", "Greets."))
    monkeypatch.setitem(compilecmd.COMMANDS, "broken", ("not_there:broken", "Is not there."))


@pytest.mark.usefixtures("_two_commands")
def test_only_the_command_that_is_asked_for_is_imported(command: Command) -> None:
    assert command("compile", "greet", "you").out == "hello you table\n"
    assert "modelcache compile greet" in command("compile", "greet", "-h").out
    assert command("compile", "broken").code == 1


@pytest.mark.usefixtures("_two_commands")
def test_a_mistyped_command(command: Command) -> None:
    told = command("compile", "gret", "you")
    assert (told.code, "Did you mean 'greet'?" in told.mistake) == (2, True)


def test_alone_it_shows_its_commands(command: Command) -> None:
    alone, asked = command("compile"), command("compile", "--help")
    assert alone.code == asked.code == 0
    assert alone.out == asked.out
    for name in compilecmd.COMMANDS:
        assert f"\n  {name} " in alone.out


@pytest.mark.parametrize("name", [*compilecmd.COMMANDS])
def test_each_command_is_a_function(name: str) -> None:
    context = typer.Context(typer.main.get_command(compilecmd.group))
    group = context.command
    found = group.get_command(context, name)  # type: ignore[attr-defined]
    assert found.name == name
    assert found.callback is not None


@pytest.mark.parametrize("name", ["key", "seed"])
def test_who_asks_no_place_and_no_cluster_waits_for_none(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED.format(["compile", name, "--help"])],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not {"kubernetes", "boto3", "google.cloud.storage"} & {*done.stdout.split()}
