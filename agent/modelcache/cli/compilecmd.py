"""modelcache compile: compile caches, by hand and beside an engine."""

from __future__ import annotations

from importlib import import_module
from typing import Final

import typer

COMMANDS: Final[dict[str, tuple[str, str]]] = {}
"""Each command of the group: the module below `cli` and the function there, and what it does."""


def make_group() -> typer.Typer:
    """The group, with all its commands."""
    group = typer.Typer(help="Compile caches: keys, bundles, starts.", no_args_is_help=True)
    for name, (place, summary) in COMMANDS.items():
        module, _, function = place.partition(":")
        command = getattr(import_module(f"modelcache.cli.{module}"), function)
        group.command(name, short_help=summary)(command)
    return group
