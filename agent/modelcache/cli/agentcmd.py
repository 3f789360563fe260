"""modelcache agent: the daemon."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from modelcache.api import ModelState, NodeCache
from modelcache.cli.display import Display
from modelcache.cli.options import (
    BandwidthOption,
    Connections,
    KeepFreeOption,
    Root,
    SecretsDir,
    flag,
    settings,
)
from modelcache.errors import EXIT_CODES
from modelcache.service.agent import Agent
from modelcache.service.logs import configure_logs
from modelcache.settings import AgentSettings


def agent(
    root: Root = None,
    catalog: Annotated[Path | None, flag("catalog")] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Try everything once, then end; 0 if all is ready.")
    ] = False,
    node_name: Annotated[str | None, flag("node_name")] = None,
    node_labels: Annotated[str | None, flag("node_labels")] = None,
    file_roots: Annotated[str | None, flag("file_roots")] = None,
    secrets_dir: SecretsDir = None,
    keep_free: KeepFreeOption = None,
    connections: Connections = None,
    bandwidth: BandwidthOption = None,
    models_at_once: Annotated[int | None, flag("models_at_once")] = None,
    max_labels: Annotated[int | None, flag("max_labels")] = None,
    listen: Annotated[str | None, flag("listen")] = None,
    log_format: Annotated[str | None, flag("log_format")] = None,
    log_level: Annotated[str | None, flag("log_level")] = None,
) -> None:
    """Keep this node's cache at what the catalog wants, until told to stop (SIGTERM)."""
    if once and listen is None:
        listen = ""  # nobody asks an agent that is about to end
    found = settings(
        AgentSettings,
        root=root,
        catalog=catalog,
        node_name=node_name,
        node_labels=node_labels,
        file_roots=file_roots,
        secrets_dir=secrets_dir,
        keep_free=keep_free,
        connections=connections,
        bandwidth=bandwidth,
        models_at_once=models_at_once,
        max_labels=max_labels,
        listen=listen,
        log_format=log_format,
        log_level=log_level,
    )
    console = Console(stderr=True)
    people = found.log_format == "console" or (found.log_format == "auto" and console.is_terminal)
    configure_logs(as_json=not people, level=found.log_level, stream=sys.stderr)
    daemon = Agent(found, once=once)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: daemon.stop())
    bars = Display(daemon.progress, console) if people and console.is_terminal else nullcontext()
    with bars:
        report = daemon.run()
    code = _exit_code(report) if once else 0
    _leave(code)


def _exit_code(report: NodeCache) -> int:
    """0 when every wanted model is ready, else the code of the first one's reason."""
    assert report.status is not None
    missing = [m for m in report.status.models if m.wanted and m.state is not ModelState.READY]
    if report.status.catalog.problem_count:
        return 2
    if not missing:
        return 0
    return EXIT_CODES[missing[0].reason] if missing[0].reason else 1


def _leave(code: int) -> None:
    """End the process. Threads that hang in a library's call are not waited for."""
    sys.stdout.flush()
    sys.stderr.flush()
    if threading.active_count() > 1:
        os._exit(code)
    raise typer.Exit(code)
