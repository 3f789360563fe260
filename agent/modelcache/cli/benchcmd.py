"""modelcache bench load: how fast an engine would load from a volume, by read-ahead."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from modelcache.cli.options import Output, flag, settings
from modelcache.cli.output import Format, human_bytes, one_line, print_json, print_table
from modelcache.errors import ModelCacheError, UsageError
from modelcache.host.backing import Host, NoReadAhead
from modelcache.host.mounts import Mount, covering
from modelcache.host.readahead import ReadAhead, Records, why
from modelcache.loading import Cell, Done, Finding, ReadFailed, Study, carry_out, prepare
from modelcache.loading.plot import check_plot, plot
from modelcache.settings.bench import BenchLoadSettings
from modelcache.store.durable import Durable

_FORMER: Final = "former.json"
_ELSEWHERE: Final = Path("/run/modelcache")
"""Where former values are noted on a machine without a cache. A reboot makes both void."""

bench = typer.Typer(
    name="bench", help="Measure this machine.", rich_markup_mode=None, no_args_is_help=True
)
_flag = partial(flag, kind=BenchLoadSettings)


@bench.callback()
def _bench() -> None:
    """Measure this machine."""


@bench.command("load", short_help="How fast an engine would load from a volume.")
def load(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="A model's directory, or one large file.")
    ],
    read_ahead_values: Annotated[str | None, _flag("read_ahead_values", "KIB,...")] = None,
    read_ways: Annotated[str | None, _flag("read_ways", "WAY,...")] = None,
    recommend_for: Annotated[str | None, _flag("recommend_for", "WAY")] = None,
    measure_rounds: Annotated[int | None, _flag("measure_rounds", "NUMBER")] = None,
    measure_time: Annotated[str | None, _flag("measure_time", "TIME")] = None,
    measure_bytes: Annotated[str | None, _flag("measure_bytes", "SIZE")] = None,
    root: Annotated[Path | None, _flag("root", "DIRECTORY")] = None,
    tune_state: Annotated[Path | None, _flag("tune_state", "DIRECTORY")] = None,
    sys_: Annotated[Path | None, _flag("sys", "DIRECTORY")] = None,
    bdi: Annotated[Path | None, _flag("bdi", "DIRECTORY")] = None,
    picture: Annotated[
        Path | None,
        typer.Option(
            "--plot", metavar="FILE", help="Draw the result as .svg or .png; needs matplotlib."
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Don't ask before the device's read-ahead is changed.")
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """Measure how fast an engine would load from a volume, and recommend a read-ahead.

    Cold reads with several values of the device's read-ahead and in several ways. The files' own
    pages are dropped from memory before each, and the value is put back at the end. Without the
    right to set read-ahead (root has it) only the present value is measured.
    """
    found = settings(
        BenchLoadSettings,
        read_ahead_values=read_ahead_values,
        read_ways=read_ways,
        recommend_for=recommend_for,
        measure_rounds=measure_rounds,
        measure_time=measure_time,
        measure_bytes=measure_bytes,
        root=root,
        tune_state=tune_state,
        sys=sys_,
        bdi=bdi,
    )
    if picture is not None:
        check_plot(picture)
    host = Host(sys=found.sys, bdi=found.bdi)
    state = _state(found)
    ahead = ReadAhead(host, Records(state / _FORMER, Durable(state).write_file))
    if _may_write(state):
        ahead.end_trials()
    try:
        study = prepare(
            *(path, host),
            way=found.recommend_for,
            ways=found.read_ways,
            values=found.read_ahead_values,
            limits=found.limits,
        )
    except NoReadAhead as error:
        finding = Finding(None, f"nothing to gain: {error}", found.recommend_for)
        if output is Format.JSON:
            print_json("LoadBenchResult", {"path": str(path), **_plain(finding)})
        else:
            print(f"{path}: {one_line(finding.reason)}")
        return
    mount = covering(host.mounts(), PurePosixPath(Path(study.plan.parts[0].path).resolve()))
    assert mount is not None  # what reads ahead was found by it
    refused = _refusal(host, study, state)
    if refused:
        study = study.only_present()
    if output is Format.TABLE:
        _announce(study, mount, refused)
    _ask(study, yes=yes)
    if not refused:
        state.mkdir(exist_ok=True)
    with _ended_in_order(), _showing(study, output) as show:
        finding = _measure(study, host, None if refused else ahead, show)
    if picture is not None and finding.figures:
        plot(finding, f"{path}: {_storage(study, mount)}", picture)
    if output is Format.JSON:
        document = {"path": str(path), "storage": _plain_storage(study, mount)}
        print_json("LoadBenchResult", {**document, **_plain(finding)})
    else:
        _tell(study, mount, finding)


def _refusal(host: Host, study: Study, state: Path) -> str:
    """Why read-ahead can't be set; empty: it can."""
    file = host.bdi / study.backing.bdi / "read_ahead_kb"
    if not os.access(file, os.W_OK, effective_ids=True):
        return "there is no right to set it (root has it)"
    if not _may_write(state if state.exists() else state.parent):
        return f"what it was can't be noted in {state}"
    return ""


def _state(found: BenchLoadSettings) -> Path:
    """Where it is noted what devices had before."""
    tuner = found.tune_state or found.root / "tuner"
    return tuner if _may_write(tuner) else _ELSEWHERE


def _may_write(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK, effective_ids=True)


def _announce(study: Study, mount: Mount, refused: str) -> None:
    """Say what is going to be done, before it is done."""
    plan = study.plan
    values = sorted({c.read_ahead_kb for c in plan.cells if c.read_ahead_kb is not None})
    ahead = f"{', '.join(map(str, values))} KiB are tried, {study.present_kb} are put back"
    if refused:
        ahead = f"stays at {study.present_kb} KiB: {refused}"
    files = "1 file" if len(plan.parts) == 1 else f"{len(plan.parts)} files"
    reads = f"{human_bytes(plan.cell_size)} of {files} at a time, {human_bytes(plan.all_size)}"
    for line in (
        f"{_storage(study, mount)}, mounted at {mount.point}",
        f"  read-ahead of bdi {study.backing.bdi}: {ahead}",
        f"  reads {reads} and {max(1, round(plan.all_seconds / 60))} min in all at most",
        f"  drops {files} from the page cache before each reading, and nothing else",
    ):
        print(_plain_line(line), file=sys.stderr, flush=True)


def _plain_line(line: str) -> str:
    """A line without what a terminal takes for a command; its indentation stays."""
    return line[: len(line) - len(line.lstrip())] + one_line(line)


def _ask(study: Study, *, yes: bool) -> None:
    """Have it confirmed.

    Raises:
        UsageError: nobody can be asked, and the device would be changed.
        typer.Abort: no.
    """
    if yes:
        return
    if sys.stdin.isatty():
        typer.confirm("Go on?", abort=True, err=True)
    elif any(c.read_ahead_kb not in (None, study.present_kb) for c in study.plan.cells):
        raise UsageError(
            f"this changes the read-ahead of {study.backing.name} for a while, and there is no"
            " terminal to ask on: give --yes"
        )


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Let those signals end us as Ctrl-C does, which puts the read-ahead back."""
    before = {
        number: signal.signal(number, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _showing(study: Study, output: Format) -> Iterator[Any]:
    """Tells of each reading on a terminal."""
    console = Console(stderr=True)
    if output is Format.JSON or not console.is_terminal:
        yield lambda _cell, _done: None
        return
    all_of_them = study.plan.rounds * len(study.plan.cells)
    number = 0
    with console.status("measuring") as status:

        def show(cell: Cell, done: Done) -> None:
            nonlocal number
            number += 1
            at = "" if cell.read_ahead_kb is None else f" at {cell.read_ahead_kb} KiB"
            speed = f"{human_bytes(done.rate)}/s"
            status.update(f"{number} of {all_of_them}: {cell.way}{at}, {speed}")

        yield show


def _measure(study: Study, host: Host, ahead: ReadAhead | None, show: Any) -> Finding:
    """Measure, and put back.

    Raises:
        ModelCacheError
    """
    if ahead is None:
        return carry_out(study, host, None, on_reading=show)
    try:
        with ahead.trial(study.backing) as set_read_ahead:
            return carry_out(study, host, set_read_ahead, on_reading=show)
    except OSError as error:
        if isinstance(error.__context__, ModelCacheError):  # it could not be put back afterwards
            raise ReadFailed(f"{error.__context__}; its read-ahead: {why(error)}") from error
        raise ReadFailed(f"the read-ahead of {study.backing.name}: {why(error)}") from error


def _tell(study: Study, mount: Mount, finding: Finding) -> None:
    rounds = max((len(figure.rates) for figure in finding.figures), default=0)
    print(f"{_storage(study, mount)}: MiB/s, median of {rounds}, ± half of slowest to fastest\n")
    ways = list(dict.fromkeys(figure.way for figure in finding.figures))
    values = sorted(
        {f.read_ahead_kb for f in finding.figures},
        key=lambda kib: (kib is None, kib or 0),
    )
    cells = {
        (f.read_ahead_kb, f.way): f"{f.median / 2**20:.0f} ±{f.spread / 2**20:.0f}"
        for f in finding.figures
    }
    print_table(
        ["READ-AHEAD", *(way.value for way in ways)],
        [[_value(kib, finding), *(cells.get((kib, way), "") for way in ways)] for kib in values],
    )
    print()
    for note in finding.notes:
        print(f"Note: {one_line(note)}.")
    if finding.read_ahead_kb is None:
        print(f"Nothing recommended: {one_line(finding.reason)}.")
    else:
        print(f"Recommended: {finding.read_ahead_kb} KiB, since {one_line(finding.reason)}.")
        print(f"Set it: modelcache tune --read-ahead 'path:{mount.point}={finding.read_ahead_kb}'")


def _value(kib: int | None, finding: Finding) -> str:
    if kib is None:
        return "plays no part"
    if kib == finding.present_kb:
        return f"{kib} KiB, now"
    return f"{kib} KiB, best" if kib == finding.read_ahead_kb else f"{kib} KiB"


def _storage(study: Study, mount: Mount) -> str:
    """`Amazon EC2 NVMe Instance Storage (nvme1n1, ext4)`."""
    backing = study.backing
    inside = f"{backing.name}, {mount.fs_type}"
    return f"{backing.model} ({inside})" if backing.model else inside


def _plain_storage(study: Study, mount: Mount) -> dict[str, Any]:
    backing = study.backing
    return {
        "bdi": backing.bdi,
        "kind": backing.kind.value,
        "name": backing.name,
        "model": backing.model,
        "filesystem": mount.fs_type,
        "mountPoint": str(mount.point),
    }


def _plain(finding: Finding) -> dict[str, Any]:
    return {
        "presentReadAheadKb": finding.present_kb,
        "recommendedReadAheadKb": finding.read_ahead_kb,
        "recommendedFor": finding.way.value,
        "reason": finding.reason,
        "notes": list(finding.notes),
        "figures": [
            {
                "way": figure.way.value,
                "readAheadKb": figure.read_ahead_kb,
                "medianBytesPerSecond": round(figure.median),
                "spreadBytesPerSecond": round(figure.spread),
                "bytesPerSecond": [round(rate) for rate in figure.rates],
            }
            for figure in finding.figures
        ],
    }
