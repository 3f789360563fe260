"""modelcache tune: the read-ahead of the devices that models are read from."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from modelcache.cli.options import Output, flag, settings
from modelcache.cli.output import Format, one_line, print_json, print_notes, print_table
from modelcache.errors import UsageError
from modelcache.host.readahead import Change, Outcome
from modelcache.loading import best_read_ahead
from modelcache.service.logs import configure_logs
from modelcache.service.tuner import TunerDaemon
from modelcache.service.tuning import Round, Tuner, plain
from modelcache.settings import TuneSettings

_flag = partial(flag, kind=TuneSettings)


def tune(
    root: Annotated[Path | None, _flag("root", "DIRECTORY")] = None,
    read_ahead: Annotated[str | None, _flag("read_ahead", "RULES")] = None,
    restore: Annotated[
        bool, typer.Option("--restore", help="Put back what devices had before.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what would be done, and change nothing.")
    ] = False,
    daemon: Annotated[
        bool, typer.Option("--daemon", help="Keep it so, until told to stop (SIGTERM).")
    ] = False,
    tune_interval: Annotated[str | None, _flag("tune_interval", "TIME")] = None,
    tune_state: Annotated[Path | None, _flag("tune_state", "DIRECTORY")] = None,
    sys_: Annotated[Path | None, _flag("sys", "DIRECTORY")] = None,
    bdi: Annotated[Path | None, _flag("bdi", "DIRECTORY")] = None,
    mountinfo: Annotated[Path | None, _flag("mountinfo", "FILE")] = None,
    listen: Annotated[str | None, _flag("tune_listen", "ADDRESS", "--listen")] = None,
    log_format: Annotated[str | None, _flag("log_format", "FORMAT")] = None,
    log_level: Annotated[str | None, _flag("log_level", "LEVEL")] = None,
    output: Output = Format.TABLE,
) -> int:
    """Set how much the kernel reads ahead of who reads a file, for devices that rules select.

    What they had before is written down, and --restore puts it back. Exit code 1 if a device is not
    as it is wanted.
    """
    found = settings(
        TuneSettings,
        root=root,
        read_ahead=read_ahead,
        tune_interval=tune_interval,
        tune_state=tune_state,
        sys=sys_,
        bdi=bdi,
        mountinfo=mountinfo,
        tune_listen=listen,
        log_format=log_format,
        log_level=log_level,
    )
    if daemon:
        if restore or dry_run:
            raise UsageError("--daemon goes with neither --restore nor --dry-run")
        _keep(found)
        return 0
    tuner = Tuner(
        found, best_read_ahead, tell=lambda line: print(line, file=sys.stderr, flush=True)
    )
    if restore:
        done = tuner.restore(dry_run=dry_run)
    else:
        if not dry_run:
            tuner.prepare()
        done = tuner.round(dry_run=dry_run)
    if output is Format.JSON:
        content = {
            "devices": plain(done.changes),
            "unmatched": [str(rule) for rule in done.unmatched],
            "problems": list(done.problems),
        }
        print_json("TuneResult", {"dryRun": dry_run, **content})
    else:
        _tell(done, restore=restore)
    return 1 if done.failed else 0


def _keep(found: TuneSettings) -> None:
    people = found.log_format == "console" or (
        found.log_format == "auto" and Console(stderr=True).is_terminal
    )
    configure_logs(as_json=not people, level=found.log_level)
    tuner = TunerDaemon(found, best_read_ahead)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: tuner.stop())
    tuner.run()


def _tell(done: Round, *, restore: bool) -> None:
    named = _named(done.changes)
    if done.changes:
        columns = ["DEVICE", "MODEL", "MOUNTED AT", "SELECTOR", "KIB", "OUTCOME"]
        print_table(columns, [[name, *_row(each)] for name, each in named.items()])
    else:
        print("There is nothing to put back." if restore else "No device is selected.")
    notes = {name: each.message for name, each in named.items() if each.message}
    for rule in done.unmatched:
        notes[str(rule)] = "selects nothing, or only what an earlier rule does"
    print_notes(notes)
    for problem in done.problems:
        print(f"modelcache: {one_line(problem)}", file=sys.stderr)


def _named(changes: Sequence[Change]) -> dict[str, Change]:
    """By what each device is called. Mounts of FUSE and NFS may have one source."""
    names = [change.name for change in changes]
    return {
        one_line(c.name if names.count(c.name) == 1 else f"{c.name} ({c.bdi})"): c for c in changes
    }


def _row(change: Change) -> list[str]:
    first, more = next(iter(change.points), ""), len(change.points) - 1
    point = f"{first} and {more} more" if more > 0 else str(first)
    before, after = ("?" if kib is None else str(kib) for kib in (change.before, change.after))
    shown = before
    if change.outcome in (Outcome.SET, Outcome.RESTORED):
        shown = f"{before} → {change.wanted}"
    elif change.outcome is Outcome.FAILED and change.wanted is not None:
        shown = f"{after}, not {change.wanted}"
    cells = [change.model, point, change.rule, shown, change.outcome.value]
    return [one_line(cell) for cell in cells]
