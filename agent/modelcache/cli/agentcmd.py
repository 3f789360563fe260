"""modelcache agent: the daemon."""

from __future__ import annotations

import json
import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from modelcache.cli.display import Display
from modelcache.cli.options import (
    BandwidthOption,
    CaBundle,
    CapacityOption,
    Connections,
    HostConnections,
    IoPriority,
    KeepFreeOption,
    MirrorsOption,
    OriginBandwidth,
    Output,
    PrivateRedirects,
    Root,
    SecretsDir,
    flag,
    settings,
)
from modelcache.cli.output import Format
from modelcache.errors import EXIT_CODES, ModelCacheError, UsageError
from modelcache.origins import spare_metadata
from modelcache.service.agent import Agent
from modelcache.service.logs import configure_logs
from modelcache.service.progress import ProgressBook
from modelcache.settings import AgentSettings


def agent(
    root: Root = None,
    catalog: Annotated[Path | None, flag("catalog", "PATH")] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Try everything once, then end; 0 if all is ready.")
    ] = False,
    cluster: Annotated[bool | None, flag("cluster", "")] = None,
    kubeconfig: Annotated[Path | None, flag("kubeconfig", "PATH")] = None,
    namespace: Annotated[str | None, flag("namespace", "NAME")] = None,
    node_name: Annotated[str | None, flag("node_name", "NAME")] = None,
    node_labels: Annotated[str | None, flag("node_labels", "KEY=VALUE,...")] = None,
    file_roots: Annotated[str | None, flag("file_roots", "PATH,...")] = None,
    secrets_dir: SecretsDir = None,
    keep_free: KeepFreeOption = None,
    capacity: CapacityOption = None,
    connections: Connections = None,
    bandwidth: BandwidthOption = None,
    origin_bandwidth: OriginBandwidth = None,
    host_connections: HostConnections = None,
    io_priority: IoPriority = None,
    mirrors: MirrorsOption = None,
    ca_bundle: CaBundle = None,
    private_redirects: PrivateRedirects = None,
    models_at_once: Annotated[int | None, flag("models_at_once", "NUMBER")] = None,
    nodes_at_once: Annotated[int | None, flag("nodes_at_once", "NUMBER")] = None,
    start_jitter: Annotated[str | None, flag("start_jitter", "TIME")] = None,
    report_seconds: Annotated[float | None, flag("report_seconds", "SECONDS")] = None,
    residency_seconds: Annotated[float | None, flag("residency_seconds", "SECONDS")] = None,
    delete_unwanted_after: Annotated[str | None, flag("delete_unwanted_after", "TIME")] = None,
    high_watermark: Annotated[str | None, flag("high_watermark", "SHARE")] = None,
    low_watermark: Annotated[str | None, flag("low_watermark", "SHARE")] = None,
    adopt: Annotated[str | None, flag("adopt", "trust|size|full")] = None,
    scrub_every: Annotated[str | None, flag("scrub_every", "TIME")] = None,
    scrub_rate: Annotated[str | None, flag("scrub_rate", "SIZE")] = None,
    max_labels: Annotated[int | None, flag("max_labels", "NUMBER")] = None,
    trusted_keys: Annotated[Path | None, flag("trusted_keys", "PATH")] = None,
    signing_key: Annotated[Path | None, flag("signing_key", "PATH")] = None,
    compile_listen: Annotated[str | None, flag("compile_listen", "ADDRESS")] = None,
    compile_poll: Annotated[str | None, flag("compile_poll", "TIME")] = None,
    max_bundle_size: Annotated[str | None, flag("max_bundle_size", "SIZE")] = None,
    listen: Annotated[str | None, flag("listen", "ADDRESS")] = None,
    otlp_endpoint: Annotated[str | None, flag("otlp_endpoint", "URL")] = None,
    log_format: Annotated[str | None, flag("log_format", "FORMAT")] = None,
    log_level: Annotated[str | None, flag("log_level", "LEVEL")] = None,
    output: Output = Format.TABLE,
) -> int:
    """Keep this node's cache at what a catalog wants, until told to stop (SIGTERM).

    With -o json its last report is printed at the end; logs go to stderr in any case.
    """
    if once and listen is None:
        listen = ""  # nobody asks an agent that is about to end
    found = settings(
        AgentSettings,
        root=root,
        catalog=catalog,
        cluster=cluster,
        kubeconfig=kubeconfig,
        namespace=namespace,
        node_name=node_name,
        node_labels=node_labels,
        file_roots=file_roots,
        secrets_dir=secrets_dir,
        keep_free=keep_free,
        capacity=capacity,
        connections=connections,
        bandwidth=bandwidth,
        origin_bandwidth=origin_bandwidth,
        host_connections=host_connections,
        io_priority=io_priority,
        mirrors=mirrors,
        ca_bundle=ca_bundle,
        private_redirects=private_redirects,
        models_at_once=models_at_once,
        nodes_at_once=nodes_at_once,
        start_jitter=start_jitter,
        report_seconds=report_seconds,
        residency_seconds=residency_seconds,
        delete_unwanted_after=delete_unwanted_after,
        high_watermark=high_watermark,
        low_watermark=low_watermark,
        adopt=adopt,
        scrub_every=scrub_every,
        scrub_rate=scrub_rate,
        max_labels=max_labels,
        trusted_keys=trusted_keys,
        signing_key=signing_key,
        compile_listen=compile_listen,
        compile_poll=compile_poll,
        max_bundle_size=max_bundle_size,
        listen=listen,
        otlp_endpoint=otlp_endpoint,
        log_format=log_format,
        log_level=log_level,
    )
    console = Console(stderr=True)
    people = found.log_format == "console" or (found.log_format == "auto" and console.is_terminal)
    configure_logs(as_json=not people, level=found.log_level)
    spare_metadata()
    book = ProgressBook() if people and console.is_terminal else None
    daemon = Agent(found, once=once, progress=book)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: daemon.stop())
    with nullcontext() if book is None else Display(book, console):
        report = daemon.run()
    if output is Format.JSON:
        if report is None:
            raise ModelCacheError("stopped before there was anything to report")
        print(json.dumps(report.to_document(), indent=2))
    return _exit_code(daemon) if once else 0


def _exit_code(daemon: Agent) -> int:
    """0 when every wanted model is ready, else the code of the first one's reason."""
    if not daemon.catalog_is_good:
        return UsageError.exit_code
    if not daemon.missing:
        return 0
    reason = daemon.missing[0].reason
    return EXIT_CODES[reason] if reason else 1
