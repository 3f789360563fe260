"""The controller: the one place where its parts are put together.

Of its replicas one leads and writes; the others watch the same, and take over within seconds.
"""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import Final

import structlog

from modelcache import __version__
from modelcache.cluster.client import (
    CACHED_MODELS,
    COMPILE_CACHES,
    NODE_CACHES,
    NODES,
    Client,
)
from modelcache.cluster.election import Election
from modelcache.cluster.events import Recorder
from modelcache.cluster.leases import Leases
from modelcache.cluster.startuptaints import keep_node
from modelcache.cluster.tallying import keep_reports
from modelcache.cluster.watching import Mirror
from modelcache.metrics import CONTENT_TYPE, ControllerMetrics, ControllerState
from modelcache.service.endpoints import Answer, Endpoints, host_and_port, text
from modelcache.service.heartbeats import Task, Tasks
from modelcache.service.reporting import READY_CONDITION
from modelcache.service.statuswriting import (
    StatusWriter,
    compile_caches,
    keep_written,
    models,
)
from modelcache.service.tidying import Tidying
from modelcache.service.untainting import TaintRemover
from modelcache.settings import ControllerSettings
from modelcache.transfer import Cancel

log = structlog.get_logger(__name__)

LEASE: Final = "modelcache-controller"
"""The Lease of the replica that leads."""

_WATCH_LATE_SECONDS: Final = 1200.0
_LATE_SECONDS: Final = 300.0
_END_SECONDS: Final = 2.0
_RELEASE_SECONDS: Final = 1.5


class Controller:
    """One replica: `run` until `stop`."""

    def __init__(self, settings: ControllerSettings) -> None:
        """Listen. Nothing is asked of the API server yet.

        Raises:
            UsageError: there is no way to the API server, or the address can't be had.
        """
        self.led = False
        """Whether it has led at any time."""
        self._leads = False
        self._identity = settings.identity
        self._cancel = Cancel()
        self._metrics = ControllerMetrics(self._state)
        self._client = Client.connect(settings.kubeconfig, "controller", self._metrics.answered)
        self._mirrors = {
            resource.plural: Mirror(self._client, resource, keep=keep, paged=True)
            for resource, keep in (
                (CACHED_MODELS, keep_written),
                (COMPILE_CACHES, keep_written),
                (NODES, partial(keep_node, condition=READY_CONDITION)),
                (NODE_CACHES, keep_reports),
            )
        }
        cached_models, compiled, nodes, caches = self._mirrors.values()
        self._election = Election(
            Leases(self._client, settings.namespace, settings.identity), LEASE
        )
        recorder = Recorder(self._client, "modelcache.dev/controller", settings.identity)
        write = partial(
            StatusWriter,
            client=self._client,
            nodes=nodes,
            caches=caches,
            leading=self._leading,
            events=recorder,
            metrics=self._metrics,
            seconds=settings.status_seconds,
        )
        self._statuses = write(models(), things=cached_models)
        self._compile_statuses = write(compile_caches(), things=compiled)
        tidying = Tidying(
            client=self._client,
            namespace=settings.namespace,
            nodes=nodes,
            caches=caches,
            leading=self._leading,
            metrics=self._metrics,
        )
        cycles = {
            "election": self._election.cycle,
            "status": self._statuses.cycle,
            "compile-status": self._compile_statuses.cycle,
            "tidying": tidying.cycle,
            "events": recorder.cycle,
        }
        if settings.startup_taint:
            cycles["taints"] = TaintRemover(
                client=self._client,
                nodes=nodes,
                condition=READY_CONDITION,
                key=settings.startup_taint,
                deadline=settings.startup_deadline,
                leading=self._leading,
                events=recorder,
                metrics=self._metrics,
            ).cycle
        tasks = [
            Task(f"watch-{name}", mirror.cycle, late_after=_WATCH_LATE_SECONDS)
            for name, mirror in self._mirrors.items()
        ]
        tasks += [Task(name, cycle, late_after=_LATE_SECONDS) for name, cycle in cycles.items()]
        self._tasks = Tasks(tasks)
        self._metrics.follow(self._tasks.states)
        routes = {
            "/livez": self._tasks.livez,
            "/readyz": self._readyz,
            "/metrics": lambda: (200, CONTENT_TYPE, self._metrics.exposition()),
        }
        self._endpoints = Endpoints(settings.address, routes) if settings.address else None

    @property
    def address(self) -> tuple[str, int] | None:
        """Where the endpoints are."""
        return self._endpoints.address if self._endpoints else None

    def stop(self) -> None:
        """Have `run` return, within some seconds. May be called from a signal handler's thread."""
        # In a thread of its own: a signal may arrive while this thread holds one of our locks.
        threading.Thread(target=self._cancel.set, daemon=True).start()

    def run(self) -> None:
        """Work until `stop`."""
        log.info(
            "controller.started",
            version=__version__,
            server=self._client.server,
            identity=self._identity,
            listen=host_and_port(self.address) if self.address else None,
        )
        if self._endpoints:
            self._endpoints.start()
        for mirror in self._mirrors.values():
            self._cancel.add(mirror.stop)
        self._tasks.start(self._cancel)
        self._tasks.watch(self._cancel, self._tell_who_leads)
        self._end()

    def _tell_who_leads(self) -> None:
        if self._leading() != self._leads:
            self._leads = not self._leads
            self.led = True
            log.info("controller.leads" if self._leads else "controller.leads_no_more")

    def _end(self) -> None:
        left = self._tasks.join(time.monotonic() + _END_SECONDS)
        # Last: who takes over is to find nobody writing. In a thread of its own: nobody may answer.
        if "election" not in left:
            release = threading.Thread(target=self._election.release, daemon=True)
            release.start()
            release.join(_RELEASE_SECONDS)
        if self._endpoints:
            self._endpoints.close()
        log.info("controller.stopped")

    def _leading(self) -> bool:
        return self._election.leading and not self._cancel.is_set()

    # The endpoints

    def _state(self) -> ControllerState:
        return ControllerState(
            leading=self._leading(),
            objects={name: len(mirror.objects) for name, mirror in self._mirrors.items()},
            failing=[name for name, mirror in self._mirrors.items() if mirror.trouble is not None],
            models=self._statuses.counts,
            compile_caches=self._compile_statuses.counts,
        )

    def _readyz(self) -> Answer:
        """Once is enough: without an API server nobody needs this replica, and the webhook in the
        same pod is not to be taken out of its Service for our sake."""
        for name, mirror in self._mirrors.items():
            if mirror.listed_at is None:
                why = f": {mirror.trouble}" if mirror.trouble else ""
                return text(503, f"{name} were not listed yet{why}")
        return text(200, "ok")
