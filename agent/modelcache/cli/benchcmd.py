"""modelcache bench load: how fast an engine would load from a volume, by read-ahead."""

from __future__ import annotations

import errno
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

from modelcache.cli.benchtelling import announce, plain, plain_storage, storage, tell
from modelcache.cli.options import Output, flag, settings
from modelcache.cli.output import Format, human_bytes, one_line, print_json
from modelcache.errors import ModelCacheError, UsageError
from modelcache.host.backing import Host, NoReadAhead
from modelcache.host.mounts import covering
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
            print_json("LoadBenchResult", {"path": str(path), "storage": None, **plain(finding)})
        else:
            print(f"{path}: {one_line(finding.reason)}")
        _draw(picture, finding, "")
        return
    mount = covering(host.mounts(), PurePosixPath(Path(study.plan.parts[0].path).resolve()))
    assert mount is not None  # what reads ahead was found by it
    refused = _refusal(host, study, state)
    if refused:
        study = study.only_present()
    asks = not yes and sys.stdin.isatty()
    if asks or output is Format.TABLE:
        announce(study, mount, refused)
    if asks:
        typer.confirm("Go on?", abort=True, err=True)
    elif not yes:
        _check_harmless(study)
    with _ended_in_order(), _showing(study, output) as show:
        if study.tried:
            state.mkdir(exist_ok=True)
        finding = _measure(study, host, ahead if study.tried else None, show)
    if output is Format.JSON:
        document = {"path": str(path), "storage": plain_storage(study, mount)}
        print_json("LoadBenchResult", {**document, **plain(finding)})
    else:
        tell(study, mount, finding)
    _draw(picture, finding, f"{path}: {storage(study, mount)}")


def _refusal(host: Host, study: Study, state: Path) -> str:
    """Why read-ahead can't be set; empty: it can."""
    file = host.bdi / study.backing.bdi / "read_ahead_kb"
    if os.statvfs(file).f_flag & os.ST_RDONLY:
        return why(OSError(errno.EROFS, ""))
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


def _check_harmless(study: Study) -> None:
    """See that nothing is changed, where nobody can be asked.

    Raises:
        UsageError
    """
    if study.tried:
        raise UsageError(
            f"this changes the read-ahead of {study.backing.name} for a while, and there is no"
            " terminal to ask on: give --yes"
        )


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Let signals end us so that the read-ahead is put back, whatever comes after the first. What
    was ignored before (nohup) still is."""
    before = {
        number: handler
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if (handler := signal.getsignal(number)) is not signal.SIG_IGN
    }

    def end(*_: object) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in before:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is end:  # else it ends now
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


def _draw(picture: Path | None, finding: Finding, title: str) -> None:
    """Draw, once the rest is told.

    Raises:
        typer.Exit: it can't be written.
    """
    if picture is None:
        return
    if not finding.figures:
        print(f"{one_line(str(picture))} is not drawn: nothing was measured", file=sys.stderr)
        return
    try:
        plot(finding, title, picture)
    except OSError as error:
        print(f"modelcache: {one_line(str(picture))}: {error.strerror}", file=sys.stderr)
        raise typer.Exit(1) from error
