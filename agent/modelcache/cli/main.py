"""modelcache: the command, and how it ends."""

from __future__ import annotations

import gc
import os
import sys
import threading
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Final

import typer

from modelcache import __version__
from modelcache.cli.output import Format, print_error
from modelcache.errors import ModelCacheError, UsageError

_STOPPED = 130
"""What a shell reports of a command that SIGINT ended."""

COMMANDS: Final = {
    "agent": ("agentcmd:agent", "Keep the cache at what a catalog wants."),
    "controller": ("controllercmd:controller", "Sum up a cluster's nodes."),
    "webhook": ("webhookcmd:webhook", "Inject pods that ask for models."),
    "webhook-certificate": (
        "webhookcmd:webhook_certificate",
        "Print a certificate for the webhook.",
    ),
    "prefetch": ("prefetch:prefetch", "Fetch models into the cache now."),
    "adopt": ("adopting:adopt", "Take over models of a Hugging Face cache."),
    "ls": ("inspecting:ls", "List the models of the cache."),
    "show": ("inspecting:show", "Show one model and its files."),
    "status": ("statuscmd:status", "Say what this node, or all nodes, hold."),
    "top": ("topcmd:top", "Show what nodes hold and fetch, live."),
    "verify": ("keeping:verify", "Read models back, compare every byte."),
    "evict": ("keeping:evict", "Remove a model from the cache."),
    "gc": ("collectingcmd:gc", "Remove what nothing needs, or tell it."),
    "explain": ("explaincmd:explain", "Say why a model is here or isn't."),
    "lease": ("leasing:lease", "Hold a model, so that nothing removes it."),
    "leases": ("leasing:leases", "List who holds models."),
    "release": ("leasing:release", "End a lease."),
    "warm": ("warming:warm", "Bring models into the page cache."),
    "validate": ("validating:validate", "Check catalog files."),
    "labels": ("inspecting:labels", "Print the labels that the node carries."),
    "inject": ("injecting:inject_manifests", "Inject pods in a manifest."),
    "link": ("linking:link", "Link a node's models into a pod."),
    "tune": ("tuning:tune", "Set the read-ahead of models' devices."),
    "prepare-root": ("preparing:prepare_root", "Make a directory of the node the agent's."),
    "bench": ("benchcmd:bench", "Measure how fast models load."),
    "compile": ("compilecmd:group", "Keep what engines compiled."),
    "cleanup": ("cleaning:cleanup", "Take everything of ours off a cluster's nodes."),
}
"""Each command: the module below `cli` and the function there, and what it does in a few words."""


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"modelcache {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    pass


def make_app(wanted: str = "") -> typer.Typer:
    """The command line, with one command, or, if it hasn't got that, all of them.

    What one command needs is imported for nobody else: all of it together takes most of a second.
    """
    app = typer.Typer(
        name="modelcache",
        help="Keeps LLM weights on this node's local disk: fetched, verified, visible.",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # brackets in help texts are brackets
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog="Exit codes: 0 done, 2 usage or invalid catalog, 3 authentication, 4 not found,"
        " 5 integrity, 6 no space, 7 origin unavailable, 8 in use, 1 anything else.",
    )
    app.callback()(_options)
    if wanted == "--version":
        return app
    for name in [wanted] if wanted in COMMANDS else COMMANDS:
        place, summary = COMMANDS[name]
        module, _, function = place.partition(":")
        command = getattr(import_module(f"modelcache.cli.{module}"), function)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name, short_help=summary)
        else:
            app.command(name, short_help=summary)(command)
    return app


def run(arguments: Sequence[str]) -> int:
    """Run one command line; its exit code. Errors are told in one line, never as a traceback."""
    output = _asked_output(arguments)
    try:
        try:
            app = make_app(next(iter(arguments), ""))
            code = app(list(arguments) or ["--help"], prog_name="modelcache", standalone_mode=False)
            sys.stdout.flush()
            if code == _STOPPED:  # by SIGINT
                raise KeyboardInterrupt
        except BrokenPipeError:
            raise
        except SystemExit as end:  # typer's answer to a broken pipe, if it meets it first
            raise BrokenPipeError from end
        except Exception as error:  # noqa: BLE001 - the outermost line: told, not dumped
            told, code = _explain(error)
            print_error(told, output)
        except KeyboardInterrupt:
            code = _STOPPED
            print_error(ModelCacheError("stopped"), output)
        sys.stdout.flush()
    except BrokenPipeError:
        # Who read along has seen enough. What is left in the buffer goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code if isinstance(code, int) else 0


def _asked_output(arguments: Sequence[str]) -> Format:
    """How errors are to be told, also of a command line that can't be understood."""
    as_json = any(
        (option in ("-o", "--output") and value == "json")
        or option in ("-ojson", "-o=json", "--output=json")
        for option, value in zip(arguments, [*arguments, ""][1:], strict=True)
    )
    return Format.JSON if as_json else Format.TABLE


def _explain(error: Exception) -> tuple[ModelCacheError, int]:
    """What is to be said of an exception, and the exit code."""
    if isinstance(error, ModelCacheError):
        return error, error.exit_code
    if isinstance(error, typer.Abort):
        return ModelCacheError("stopped"), _STOPPED
    if isinstance(error, typer.TyperException):
        told = error.format_message()
        told = told if told.endswith(("?", "!")) else f"{told.rstrip('.')}."
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "modelcache"
        return UsageError(f"{told} See {command} --help"), UsageError.exit_code
    if isinstance(error, OSError):
        what = error.strerror or str(error)
        where = f"{error.filename}: " if error.filename else ""
        return ModelCacheError(f"{where}{what}"), ModelCacheError.exit_code
    place = traceback.extract_tb(error.__traceback__)[-1]
    found = ModelCacheError(
        f"a defect, please report it: {error!r} in {place.name}, line {place.lineno} of"
        f" {place.filename.rpartition('/')[2]}"
    )
    return found, found.exit_code


def main() -> None:
    """The entry point."""
    code = run(sys.argv[1:])
    gc.freeze()  # looking through everything once more at the end takes as long as a small fetch
    if threading.active_count() > 1:
        # Threads that hang in a library's call are not waited for.
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
