"""modelcache: the command, and how it ends."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from modelcache import __version__
from modelcache.cli.agentcmd import agent
from modelcache.cli.cleaning import cleanup
from modelcache.cli.controllercmd import controller
from modelcache.cli.injecting import inject_manifests
from modelcache.cli.inspecting import labels, ls, show
from modelcache.cli.keeping import evict, verify
from modelcache.cli.linking import link
from modelcache.cli.output import Format, print_error
from modelcache.cli.prefetch import prefetch
from modelcache.cli.preparing import prepare_root
from modelcache.cli.validating import validate
from modelcache.cli.webhookcmd import webhook, webhook_certificate
from modelcache.errors import ModelCacheError, UsageError

_STOPPED = 130
"""What a shell reports of a command that SIGINT ended."""

app = typer.Typer(
    name="modelcache",
    help="Keeps LLM weights on this node's local disk: fetched, verified, visible.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # brackets in help texts are brackets
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 2 usage or invalid catalog, 3 authentication, 4 not found,"
    " 5 integrity, 6 no space, 7 origin unavailable, 1 anything else.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"modelcache {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    pass


for command, summary in (
    (agent, "Keep the cache at what a catalog wants."),
    (controller, "Sum up a cluster's nodes."),
    (webhook, "Inject pods that ask for models."),
    (webhook_certificate, "Print a certificate for the webhook."),
    (prefetch, "Fetch models into the cache now."),
    (ls, "List the models of the cache."),
    (show, "Show one model and its files."),
    (verify, "Read models back, compare every byte."),
    (evict, "Remove a model from the cache."),
    (validate, "Check catalog files."),
    (labels, "Print the labels that the node carries."),
    (link, "Link a node's models into a pod."),
    (prepare_root, "Make a directory of the node the agent's."),
    (cleanup, "Take everything of ours off a cluster's nodes."),
):
    app.command(short_help=summary)(command)
app.command("inject", short_help="Inject pods in a manifest.")(inject_manifests)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; its exit code. Errors are told in one line, never as a traceback."""
    output = _asked_output(arguments)
    try:
        try:
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
        hint = f"{error.format_message().rstrip('.')}. See modelcache --help"
        return UsageError(hint), UsageError.exit_code
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
    if threading.active_count() > 1:
        # Threads that hang in a library's call are not waited for.
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
