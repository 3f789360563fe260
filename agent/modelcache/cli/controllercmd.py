"""modelcache controller: what one process does for a whole cluster."""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path
from typing import Annotated

from rich.console import Console

from modelcache.cli.options import Output, flag, settings
from modelcache.cli.output import Format, print_json
from modelcache.origins import spare_metadata
from modelcache.service.controller import Controller
from modelcache.service.logs import configure_logs
from modelcache.settings import ControllerSettings

_flag = partial(flag, kind=ControllerSettings)


def controller(
    kubeconfig: Annotated[Path | None, _flag("kubeconfig", "PATH")] = None,
    namespace: Annotated[str | None, _flag("namespace", "NAME")] = None,
    identity: Annotated[str | None, _flag("identity", "NAME")] = None,
    startup_taint: Annotated[str | None, _flag("startup_taint", "KEY")] = None,
    startup_deadline: Annotated[str | None, _flag("startup_deadline", "TIME")] = None,
    status_seconds: Annotated[float | None, _flag("status_seconds", "SECONDS")] = None,
    listen: Annotated[str | None, _flag("listen", "ADDRESS")] = None,
    log_format: Annotated[str | None, _flag("log_format", "FORMAT")] = None,
    log_level: Annotated[str | None, _flag("log_level", "LEVEL")] = None,
    output: Output = Format.TABLE,
) -> int:
    """Sum up the nodes in the CachedModels' status, and take startup taints off ready nodes.

    Runs until told to stop (SIGTERM). Of several, one leads and writes; the others stand by.
    """
    found = settings(
        ControllerSettings,
        kubeconfig=kubeconfig,
        namespace=namespace,
        identity=identity,
        startup_taint=startup_taint,
        startup_deadline=startup_deadline,
        status_seconds=status_seconds,
        listen=listen,
        log_format=log_format,
        log_level=log_level,
    )
    people = found.log_format == "console" or (
        found.log_format == "auto" and Console(stderr=True).is_terminal
    )
    configure_logs(as_json=not people, level=found.log_level)
    spare_metadata()
    daemon = Controller(found)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: daemon.stop())
    daemon.run()
    if output is Format.JSON:
        print_json("ControllerResult", {"identity": found.identity, "led": daemon.led})
    return 0
