"""modelcache compile: compile caches, by hand and beside an engine."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    # Keys.
    "key": ("compilekeys:key", "What a compile cache is compiled for."),
    "diff": ("compilekeys:diff", "In which part two keys differ."),
    # Bundles.
    "keygen": ("compilebundles:keygen", "Make a key to sign bundles with."),
    "pack": ("compilebundles:pack", "Pack a cache directory into a bundle."),
    "inspect": ("compilebundles:inspect", "Show what a bundle says of itself."),
    "verify": ("compilebundles:verify", "Check a bundle's signature and content."),
    "import-mcv": ("compilebundles:import_mcv", "Unpack an image that GKM's MCV made."),
    # Places.
    "publish": ("compileplaces:publish", "Bring a bundle to a place."),
    "pull": ("compileplaces:pull", "Fetch a bundle from a place."),
    "ls": ("compileplaces:list_place", "List the bundles of a place."),
    # Starts.
    "run": ("compilestarts:run", "Run an engine with its compile cache."),
    "explain": ("compileexplain:explain_cache", "Why a start was seeded, or not."),
    # In pods.
    "seed": ("podcaches:seed", "Fill a pod's cache directory."),
    "capture": ("podcaches:capture", "Capture a pod's compile cache."),
}
"""Each command of the group: the module below `cli` and the function there, and what it does in a
few words."""


class _Group(TyperGroup):
    """Imports a command's module when it is asked for, and no other's: an init container is not to
    wait for the SDKs of the places that it never speaks to."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        # The names, for the list and for what is said of a mistyped one.
        self.commands = dict.fromkeys(COMMANDS, TyperCommand(None))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command, or None where there is none of this name."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        place, summary = COMMANDS[cmd_name]
        module, _, function = place.partition(":")
        alone = typer.Typer(add_completion=False, rich_markup_mode=None)
        alone.command(cmd_name, short_help=summary)(
            getattr(import_module(f"modelcache.cli.{module}"), function)
        )
        return typer.main.get_command(alone)


group = typer.Typer(
    name="compile",
    help="Compile caches: what each was compiled for, bundles of them, and starts from them.",
    cls=_Group,
    rich_markup_mode=None,
)


@group.callback(invoke_without_command=True)
def _group(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())
