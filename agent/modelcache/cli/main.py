"""modelcache: the command, and how it ends."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from modelcache import __version__
from modelcache.cli.agentcmd import agent
from modelcache.cli.inspecting import labels, ls, show
from modelcache.cli.keeping import evict, verify
from modelcache.cli.output import Format, print_error
from modelcache.cli.prefetch import prefetch
from modelcache.cli.validating import validate
from modelcache.errors import ModelCacheError, UsageError

app = typer.Typer(
    name="modelcache",
    help="Keeps LLM weights on this node's local disk: fetched, verified, visible.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
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
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    pass


for command in (agent, prefetch, ls, show, verify, evict, validate, labels):
    app.command()(command)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; its exit code. Errors are told in one line, never as a traceback."""
    output = Format.TABLE
    for option, value in zip(arguments, [*arguments[1:], ""], strict=True):
        if (option in ("-o", "--output") and value == "json") or option in (
            "-ojson",
            "--output=json",
        ):
            output = Format.JSON
    try:
        code = app(list(arguments), standalone_mode=False)
    except ModelCacheError as error:
        print_error(error, output)
        return error.exit_code
    except typer.TyperException as error:
        hint = f"{error.format_message().rstrip('.')}. See modelcache --help"
        print_error(UsageError(hint), output)
        return UsageError.exit_code
    except (KeyboardInterrupt, typer.Abort):
        print_error(ModelCacheError("stopped"), output)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    return code if isinstance(code, int) else 0


def main() -> None:
    """The entry point."""
    sys.exit(run(sys.argv[1:]))
