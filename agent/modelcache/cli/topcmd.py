"""modelcache top: what nodes hold and do, live."""

from __future__ import annotations

import io
import json
import sys
import threading
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from modelcache.api import API_VERSION
from modelcache.cli.nodes.frames import Wish, frame
from modelcache.cli.nodes.looking import SLOW_SECONDS, Looking
from modelcache.cli.nodes.plain import document, lines
from modelcache.cli.nodes.screen import Key, Screen
from modelcache.cli.nodes.sources import Source, ThisNode
from modelcache.cli.options import Output, Root, flag, settings
from modelcache.cli.output import Format
from modelcache.errors import UsageError
from modelcache.service.logs import configure_logs
from modelcache.settings import StatusSettings

_flag = partial(flag, kind=StatusSettings)

Agent = Annotated[str | None, _flag("listen", "ADDRESS", "--agent")]
ClusterWide = Annotated[
    bool, typer.Option("--cluster", help="All nodes, as the API server knows them.")
]
Kubeconfig = Annotated[Path | None, _flag("kubeconfig", "PATH")]
Namespace = Annotated[str | None, _flag("namespace", "NAME")]

_LEAST_SECONDS: Final = 0.2
_MOST_SECONDS: Final = 3600.0


def top(
    cluster: ClusterWide = False,
    every: Annotated[
        float, typer.Option("--every", metavar="SECONDS", help="How often to look anew.")
    ] = 2.0,
    root: Root = None,
    agent: Agent = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = None,
    output: Output = Format.TABLE,
) -> None:
    """Show what this node, or all nodes, hold and fetch, live: states, bars, rates, time left.

    Keys: q quits, s sorts by something else, v shows nodes or models (with --cluster), arrows and
    page keys scroll. In a pipe it prints lines; with -o json one document a line.
    """
    if not _LEAST_SECONDS <= every <= _MOST_SECONDS:
        raise UsageError(f"--every: {_LEAST_SECONDS:g} to {_MOST_SECONDS:g} seconds")
    found = settings(
        StatusSettings, root=root, listen=agent, kubeconfig=kubeconfig, namespace=namespace
    )
    # What a watch logs would stand in the middle of the picture; it is told there as well.
    configure_logs(as_json=False, level="critical", stream=io.StringIO())
    with closing(_source(found, cluster=cluster)) as source:
        console = Console(highlight=False)
        if output is Format.TABLE and _is_screen(console):
            _live(Looking(source, every), console, every)
        else:
            _listed(Looking(source, every), output)


def _source(found: StatusSettings, *, cluster: bool) -> Source:
    if not cluster:
        return ThisNode(found, root_given=is_given(found))
    # The client of the API server takes half a second to be imported.
    from modelcache.cli.nodes.fleet import WatchedFleet

    return WatchedFleet(found)


def is_given(found: StatusSettings) -> bool:
    """Whether somebody has named the root, by a flag or in the environment."""
    return "root" in found.model_fields_set


def _is_screen(console: Console) -> bool:
    """Whether there is a terminal that can be drawn on, and keys that can be read."""
    return console.is_terminal and sys.stdin.isatty() and not console.is_dumb_terminal


def _live(looking: Looking, console: Console, every: float) -> None:
    wish = Wish()
    with Screen(console) as screen, looking:
        looking.on_look = screen.wake
        while True:
            seen = looking.seen
            width, height = screen.size
            drawn = frame(
                console,
                seen.look,
                seen.rows,
                wish,
                width=width,
                height=height,
                time=time.strftime("%H:%M:%S", time.localtime(seen.at)),
            )
            screen.show(drawn.lines)
            # What was scrolled further than there is anything is forgotten.
            wish = wish.scrolled(drawn.skipped - wish.skipped)
            for key in screen.wait(min(every, SLOW_SECONDS)):
                if key is Key.QUIT:
                    return
                wish = _changed(wish, key, max(1, drawn.shown - 1), len(seen.rows))


def _changed(wish: Wish, key: Key, page: int, count: int) -> Wish:
    match key:
        case Key.SORT:
            return wish.next_order()
        case Key.VIEW:
            return wish.next_kind()
        case Key.TOP:
            return wish.scrolled(-wish.skipped)
        case Key.BOTTOM:
            return wish.scrolled(count)
        case _:
            lines = {Key.UP: -1, Key.DOWN: 1, Key.PAGE_UP: -page, Key.PAGE_DOWN: page}
            return wish.scrolled(lines.get(key, 0))


def _listed(looking: Looking, output: Format) -> None:
    """Lines, or a document a line, until somebody ends it."""
    more = threading.Event()
    looking.on_look = more.set
    with looking:
        while True:
            seen = looking.seen
            if output is Format.JSON:
                content = document(seen.look, seen.rows, seen.at)
                head = {"apiVersion": API_VERSION, "kind": "Status"}
                print(json.dumps({**head, **content}), flush=True)
            else:
                print("\n".join(lines(seen.look, seen.rows, seen.at)), flush=True)
            while not more.wait(SLOW_SECONDS) and looking.waited < SLOW_SECONDS:
                pass
            more.clear()
