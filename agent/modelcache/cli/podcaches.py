"""modelcache compile seed, compile capture: compile caches beside an engine in a pod."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Annotated, Final, NoReturn

from modelcache.cli.options import Output, flag, settings
from modelcache.cli.output import Format, print_json
from modelcache.compilecache.engines.table import table
from modelcache.compilecache.pods.posting import Agent
from modelcache.compilecache.pods.seeding import Seeding
from modelcache.compilecache.pods.serving import Serving
from modelcache.compilecache.pods.sidecar import Sidecar
from modelcache.compilecache.starts.capturing import Patience
from modelcache.compilecache.trees.scanning import Limits
from modelcache.errors import Cancelled, UsageError
from modelcache.service.logs import configure_logs
from modelcache.settings.compilepods import CaptureSettings, SeedSettings
from modelcache.transfer.cancelling import Cancel

_seed = partial(flag, kind=SeedSettings)
_capture = partial(flag, kind=CaptureSettings)

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
# The C module alone: what waits for the rest of a pod's life is to take little memory.
_WAIT: Final = f"import _signal; _signal.sigwait({{{', '.join(str(int(n)) for n in _SIGNALS)}}})"


def seed(
    compile_name: Annotated[str | None, _seed("compile_name", "NAME", "--name")] = None,
    compile_bundles: Annotated[
        Path | None, _seed("compile_bundles", "DIRECTORY", "--bundles")
    ] = None,
    compile_cache_dir: Annotated[
        Path | None, _seed("compile_cache_dir", "DIRECTORY", "--cache-dir")
    ] = None,
    compile_work: Annotated[Path | None, _seed("compile_work", "DIRECTORY", "--work")] = None,
    compile_size: Annotated[str | None, _seed("compile_size", "SIZE", "--size")] = None,
    compile_seed_seconds: Annotated[
        float | None, _seed("compile_seed_seconds", "SECONDS", "--seed-seconds")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Fill a pod's cache directory from what its node holds, before its engine starts.

    The webhook and `modelcache inject` add an init container that runs this as the engine's user.
    Where there is nothing for it, or something is wrong with it, that is told, and is no failure:
    the engine then compiles.
    """
    found = settings(
        SeedSettings,
        compile_name=compile_name,
        compile_bundles=compile_bundles,
        compile_cache_dir=compile_cache_dir,
        compile_work=compile_work,
        compile_size=compile_size,
        compile_seed_seconds=compile_seed_seconds,
    )
    report = Seeding(
        name=_named(found.compile_name),
        bundles=found.compile_bundles,
        cache_dir=found.compile_cache_dir,
        work=found.compile_work,
        size=found.compile_size,
        seconds=found.compile_seed_seconds,
    ).run()
    if output is Format.JSON:
        print_json("SeedResult", report.to_document())
    else:
        print(f"{found.compile_cache_dir} {report.sentence}")


def capture(
    compile_name: Annotated[str | None, _capture("compile_name", "NAME", "--name")] = None,
    compile_engine: Annotated[str | None, _capture("compile_engine", "NAME", "--engine")] = None,
    compile_cache_dir: Annotated[
        Path | None, _capture("compile_cache_dir", "DIRECTORY", "--cache-dir")
    ] = None,
    compile_work: Annotated[Path | None, _capture("compile_work", "DIRECTORY", "--work")] = None,
    compile_ranks: Annotated[int | None, _capture("compile_ranks", "NUMBER", "--ranks")] = None,
    compile_health: Annotated[str | None, _capture("compile_health", "URL", "--health")] = None,
    compile_publish: Annotated[
        bool | None, _capture("compile_publish", "", "--publish/--no-publish")
    ] = None,
    compile_stay: Annotated[bool | None, _capture("compile_stay", "", "--stay/--no-stay")] = None,
    host_ip: Annotated[str | None, _capture("host_ip", "ADDRESS")] = None,
    pod_ip: Annotated[str | None, _capture("pod_ip", "ADDRESS")] = None,
    compile_pod: Annotated[str | None, _capture("compile_pod", "NAMESPACE/NAME", "--pod")] = None,
    compile_port: Annotated[int | None, _capture("compile_port", "PORT", "--port")] = None,
    compile_token_file: Annotated[
        Path | None, _capture("compile_token_file", "FILE", "--token-file")
    ] = None,
    compile_max_size: Annotated[
        str | None, _capture("compile_max_size", "SIZE", "--max-size")
    ] = None,
    compile_quiet: Annotated[str | None, _capture("compile_quiet", "TIME", "--quiet")] = None,
    compile_ready_seconds: Annotated[
        str | None, _capture("compile_ready_seconds", "TIME", "--ready-seconds")
    ] = None,
    compile_settle_seconds: Annotated[
        str | None, _capture("compile_settle_seconds", "TIME", "--settle-seconds")
    ] = None,
    compile_deliver_seconds: Annotated[
        str | None, _capture("compile_deliver_seconds", "TIME", "--deliver-seconds")
    ] = None,
    compile_look_seconds: Annotated[
        float | None, _capture("compile_look_seconds", "SECONDS", "--look-seconds")
    ] = None,
    log_format: Annotated[str | None, _capture("log_format", "FORMAT")] = None,
    log_level: Annotated[str | None, _capture("log_level", "LEVEL")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Judge a pod's start by its files, capture what it compiled, and hand it to the node's agent.

    The webhook and `modelcache inject` add a sidecar that runs this as the engine's user. What it
    finds is in its log; it ends without a failure whatever that is.
    """
    found = settings(
        CaptureSettings,
        compile_name=compile_name,
        compile_engine=compile_engine,
        compile_cache_dir=compile_cache_dir,
        compile_work=compile_work,
        compile_ranks=compile_ranks,
        compile_health=compile_health,
        compile_publish=compile_publish,
        compile_stay=compile_stay,
        host_ip=host_ip,
        pod_ip=pod_ip,
        compile_pod=compile_pod,
        compile_port=compile_port,
        compile_token_file=compile_token_file,
        compile_max_size=compile_max_size,
        compile_quiet=compile_quiet,
        compile_ready_seconds=compile_ready_seconds,
        compile_settle_seconds=compile_settle_seconds,
        compile_deliver_seconds=compile_deliver_seconds,
        compile_look_seconds=compile_look_seconds,
        log_format=log_format,
        log_level=log_level,
    )
    as_json = found.log_format == "json" or (found.log_format == "auto" and not sys.stderr.isatty())
    configure_logs(as_json=as_json, level=found.log_level)
    sidecar = _sidecar(found)
    cancel = Cancel()
    stopped = threading.Event()

    def stop(*_: object) -> None:
        stopped.set()
        # In a thread of its own: a signal may arrive while this one holds a lock of `cancel`.
        threading.Thread(target=cancel.set, daemon=True).start()

    for number in _SIGNALS:
        signal.signal(number, stop)
    try:
        report = sidecar.run(cancel)
    except Cancelled:
        return
    if output is Format.JSON:
        print_json("CaptureResult", report.to_document())
    if found.compile_stay:
        _stay(stopped)


def _sidecar(found: CaptureSettings) -> Sidecar:
    engines = table(None)
    if found.compile_engine not in engines:
        raise UsageError(
            f"there is no engine {found.compile_engine!r}: {', '.join(engines)} are known"
        )
    name = _named(found.compile_name)
    if found.compile_work is None:
        raise UsageError("--work (or MODELCACHE_COMPILE_WORK) is needed: a directory of its own")
    if not found.host_ip:
        raise UsageError("--host-ip (or MODELCACHE_HOST_IP) is needed: the node's address")
    if not re.fullmatch(r"[^/]+/[^/]+", found.compile_pod):
        raise UsageError(
            "--pod (or MODELCACHE_COMPILE_POD) NAMESPACE/NAME is needed, or POD_NAMESPACE and"
            " POD_NAME from the environment"
        )
    return Sidecar(
        name=name,
        pod=found.compile_pod,
        engine=engines[found.compile_engine],
        cache_dir=found.compile_cache_dir,
        work=found.compile_work,
        agent=Agent(found.host_ip, found.compile_port, found.compile_token_file),
        serving=Serving.of(found.compile_health, found.pod_ip) if found.compile_health else None,
        publish=found.compile_publish,
        ranks=found.compile_ranks,
        patience=Patience(
            quiet=found.compile_quiet,
            look=found.compile_look_seconds,
            ready=found.compile_ready_seconds,
            settle=found.compile_settle_seconds,
        ),
        deliver_seconds=found.compile_deliver_seconds,
        limits=Limits(bytes=found.compile_max_size),
    )


def _named(name: str) -> str:
    if not name:
        raise UsageError("--name (or MODELCACHE_COMPILE_NAME) is needed: which CompileCache?")
    return name


def _stay(stopped: threading.Event) -> NoReturn:
    """Wait for the end of the pod, as a program of some mebibytes.

    A signal that comes now is kept until that one waits for it: as process 1 of its container it
    would otherwise pass it over.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    if stopped.is_set():
        sys.exit(0)
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", _WAIT])  # noqa: S606
