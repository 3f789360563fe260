"""modelcache warm: models in memory, before the pod comes."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import typer
from rich.console import Console

from modelcache.api import ModelReport, PageCache
from modelcache.cli.bars import byte_bars
from modelcache.cli.options import Output, Root, flag, settings
from modelcache.cli.output import Format, human_bytes, print_json, print_notes, print_table
from modelcache.errors import ModelCacheError, UsageError
from modelcache.host import ioprio
from modelcache.host.memory import machine_memory, memory_limit
from modelcache.planning.warming import Candidate, choose
from modelcache.planning.wording import share
from modelcache.service.logs import configure_logs
from modelcache.service.reporting import read_node_report
from modelcache.service.warmer import Warmer
from modelcache.service.warming import (
    Budget,
    candidate_of,
    drop_model,
    find_budget,
    pick,
    resident_in,
    warm_model,
)
from modelcache.settings import WarmSettings
from modelcache.store import Content, Layout

_flag = partial(flag, kind=WarmSettings)


@dataclass
class _Result:
    """What became of one model."""

    model: Candidate
    resident: int = 0
    read: int = 0
    dropped: int = 0
    seconds: float = 0.0
    missing: int = 0
    message: str = ""

    @property
    def whole(self) -> bool:
        return not self.message


def warm(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME...",
            help="Models; without any, those whose object says pageCache: Warm (with --drop: all).",
        ),
    ] = None,
    memory: Annotated[str | None, _flag("memory", "SIZE")] = None,
    daemon: Annotated[
        bool, typer.Option("--daemon", help="Keep them warm until told to stop (SIGTERM).")
    ] = False,
    drop: Annotated[
        bool, typer.Option("--drop", help="Drop them from memory instead; what is in use stays.")
    ] = False,
    root: Root = None,
    keep_memory: Annotated[str | None, _flag("keep_memory", "SIZE")] = None,
    io_priority: Annotated[
        str | None, _flag("warm_io_priority", "PRIORITY", "--io-priority")
    ] = None,
    warm_seconds: Annotated[float | None, _flag("warm_seconds", "SECONDS", "--seconds")] = None,
    listen: Annotated[str | None, _flag("warm_listen", "ADDRESS", "--listen")] = None,
    log_format: Annotated[str | None, _flag("log_format", "FORMAT")] = None,
    log_level: Annotated[str | None, _flag("log_level", "LEVEL")] = None,
    output: Output = Format.TABLE,
) -> int:
    """Bring models of the cache into the page cache, whole ones by priority.

    It reads what is not there yet, as fast as the disk gives it. What it brings in is charged to
    its own memory limit, so that limit is the budget. Run it as the user that the agent runs as.
    Exit code 1 when a model didn't fit or couldn't be read.
    """
    found = settings(
        WarmSettings,
        root=root,
        memory=memory,
        keep_memory=keep_memory,
        warm_io_priority=io_priority,
        warm_seconds=warm_seconds,
        warm_listen=listen,
        log_format=log_format,
        log_level=log_level,
    )
    if daemon and (names or drop):
        raise UsageError("--daemon takes neither names nor --drop: the catalog says what is warm")
    machine = machine_memory()

    def budget_now() -> Budget:
        return find_budget(found.memory, memory_limit(), machine)

    if daemon:
        _keep_warm(found, budget_now)
        if output is Format.JSON:
            print_json("WarmResult", {"models": []})
        return 0
    budget = None if drop else budget_now()
    content = Content(found.root)
    asked = _asked(content, names or [], drop=drop)
    if budget is None:
        results = [_drop(content.layout, model) for model in asked]
    else:
        if budget.size > machine.available:
            budget = Budget(machine.available, "the memory that is available")
        with ioprio.io_priority(found.warm_io_priority):
            results = _warm(content.layout, asked, budget, bars=output is Format.TABLE)
    _tell(results, budget, output)
    return 0 if all(result.whole for result in results) else ModelCacheError.exit_code


def _keep_warm(found: WarmSettings, budget: Callable[[], Budget]) -> None:
    people = found.log_format == "console" or (
        found.log_format == "auto" and Console(stderr=True).is_terminal
    )
    configure_logs(as_json=not people, level=found.log_level)
    warmer = Warmer(found, budget)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: warmer.stop())
    warmer.run()


def _asked(content: Content, names: list[str], *, drop: bool) -> list[Candidate]:
    """The models that are meant, in order of their names."""
    report = read_node_report(content.layout)
    told: dict[str, ModelReport] = {
        model.name: model for model in (report.status.models if report and report.status else ())
    }
    shown = content.shown()
    if names:
        shown = pick(shown, names)
    elif not drop:
        wanted = {n for n, m in told.items() if m.wanted and m.page_cache is PageCache.WARM}
        shown = {name: manifest for name, manifest in shown.items() if name in wanted}
    return [candidate_of(manifest, told.get(name)) for name, manifest in sorted(shown.items())]


def _drop(layout: Layout, model: Candidate) -> _Result:
    result = _Result(model)
    try:
        result.dropped = drop_model(layout, model)
        result.resident = resident_in(layout, model)
    except (OSError, UsageError) as error:
        result.message = str(error)
    return result


def _warm(layout: Layout, asked: list[Candidate], budget: Budget, *, bars: bool) -> list[_Result]:
    choice = choose(asked, budget.size)
    results = []
    with byte_bars(wanted=bars) as progress:
        for model in choice.warm:
            task = progress.add_task(model.name, total=model.size)
            result = _Result(model)
            began = time.monotonic()
            try:
                result.read = warm_model(
                    layout,
                    model,
                    on_bytes=lambda size, _, task=task: progress.advance(task, size),  # type: ignore[misc]
                )
                result.resident = resident_in(layout, model)
            except (OSError, UsageError) as error:
                result.message = str(error)
            result.seconds = time.monotonic() - began
            results.append(result)
    for model in asked:
        if model.name in choice.missing:
            missing = choice.missing[model.name]
            message = f"does not fit: {human_bytes(missing)} more than {budget.reason} leaves"
            result = _Result(model, missing=missing, message=message)
            with suppress(OSError, UsageError):  # that it does not fit is enough to say
                result.resident = resident_in(layout, model)
            results.append(result)
    return results


def _tell(results: list[_Result], budget: Budget | None, output: Format) -> None:
    if output is Format.JSON:
        content: dict[str, object] = {"models": [_plain(result) for result in results]}
        if budget is not None:
            content = {"budgetBytes": budget.size, "budgetReason": budget.reason} | content
        print_json("WarmResult", content)
        return
    if not results:
        print("No model of the cache is asked for: give names, or set pageCache: Warm.")
        return
    if budget is None:
        columns = ["NAME", "SIZE", "MEMORY", "DROPPED"]
        rows = [[*_place(each), human_bytes(each.dropped)] for each in results]
    else:
        columns = ["NAME", "SIZE", "MEMORY", "READ", "SECONDS"]
        rows = [[*_place(r), human_bytes(r.read), f"{r.seconds:.1f}"] for r in results]
    print_table(columns, rows)
    print_notes({each.model.name: each.message for each in results if each.message})


def _place(result: _Result) -> list[str]:
    size = result.model.size
    part = share(result.resident, size) if size else "100%"
    return [result.model.name, human_bytes(size), part]


def _plain(result: _Result) -> dict[str, object]:
    return {
        "name": result.model.name,
        "bytes": result.model.size,
        "residentBytes": result.resident,
        "readBytes": result.read,
        "droppedBytes": result.dropped,
        "seconds": round(result.seconds, 3),
        "missingBytes": result.missing,
        "message": result.message,
    }
