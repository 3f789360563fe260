"""The webhook: pods that ask for models or compile caches are injected as they are created.

Each replica answers for itself, from what it watches. Nothing that is missing here keeps a pod from
being created: it comes into being with a warning, and with less.
"""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from typing import Final

import structlog

from modelcache import __version__
from modelcache.api import parse_uri
from modelcache.cluster.admission import review
from modelcache.cluster.client import (
    CACHED_MODELS,
    COMPILE_CACHES,
    NAMESPACES,
    PODS,
    Client,
    Object,
)
from modelcache.cluster.failures import Failures
from modelcache.cluster.injection import Config, Injected, Level, inject
from modelcache.cluster.reading import read_cache
from modelcache.cluster.watching import Mirror
from modelcache.errors import ClusterError, UsageError
from modelcache.metrics import CONTENT_TYPE, WebhookMetrics, WebhookState
from modelcache.service.certificates import ends_at, service_names
from modelcache.service.certifying import CertificateFiles, OwnCertificate
from modelcache.service.endpoints import Answer, Endpoints, document, host_and_port, text
from modelcache.service.heartbeats import Task, Tasks
from modelcache.service.tlsserving import TlsServer
from modelcache.settings import WebhookSettings
from modelcache.transfer import Cancel

log = structlog.get_logger(__name__)

CONTAINER: Final = "webhook"
"""Our container in the controller's pods."""

LEVEL_LABEL: Final = "pod-security.kubernetes.io/enforce"

_WATCH_LATE_SECONDS: Final = 1200.0
_LATE_SECONDS: Final = 300.0
_END_SECONDS: Final = 2.0
_ASK_SECONDS: Final = 0.7
"""What an answer may wait for the API server, which itself waits for two seconds for us."""
_VERSION_SECONDS: Final = 3600.0
"""How often it is asked for its version: it is upgraded while we run."""
_NATIVE_SIDECARS: Final = (1, 29)
"""https://kubernetes.io/docs/concepts/workloads/pods/sidecar-containers/"""


class Webhook:
    """One replica: `run` until `stop`."""

    def __init__(self, settings: WebhookSettings) -> None:
        """Listen. Nothing is asked of the API server yet.

        Raises:
            UsageError: there is no way to the API server, or an address can't be had.
        """
        self._settings = settings
        self._cancel = Cancel()
        self._drained = threading.Event()
        self._metrics = WebhookMetrics(self._state)
        self._client = Client.connect(settings.kubeconfig, "webhook", self._metrics.answered)
        self._hasty = self._client.within(_ASK_SECONDS)
        self._models = Mirror(self._client, CACHED_MODELS, keep=keep_scheme)
        self._namespaces = Mirror(self._client, NAMESPACES, keep=keep_level)
        self._caches = Mirror(self._client, COMPILE_CACHES, keep=keep_cache)
        self._mirrors = {
            "cachedmodels": self._models,
            "namespaces": self._namespaces,
            "compilecaches": self._caches,
        }
        self._image = settings.image
        self._image_failures = Failures("webhook.image")
        self._image_asked = bool(settings.image) or not settings.pod_name
        self._version: tuple[int, int] | None = None
        self._version_failures = Failures("webhook.version")
        self._ends: float | None = None
        self._server = TlsServer(settings.address, "/mutate", self._mutate)
        cycles = {"certificate": self._certificate_keeper().cycle}
        if not self._image:
            cycles["image"] = self._look_up_image
        if settings.sidecars == "auto":
            cycles["version"] = self._look_up_version
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
        address = settings.plain_address
        self._endpoints = Endpoints(address, routes) if address else None

    def stop(self) -> None:
        """Have `run` return, once nobody asks any more. May be called from a signal handler."""
        # In a thread of its own: a signal may arrive while this thread holds one of our locks.
        threading.Thread(target=self._drain, daemon=True).start()

    def run(self) -> None:
        """Work until `stop`."""
        plain = self._endpoints.address if self._endpoints else None
        log.info(
            "webhook.started",
            version=__version__,
            server=self._client.server,
            listen=host_and_port(self._server.address),
            plain_listen=host_and_port(plain) if plain else None,
        )
        if self._endpoints:
            self._endpoints.start()
        self._server.start()
        for mirror in self._mirrors.values():
            self._cancel.add(mirror.stop)
        self._tasks.start(self._cancel)
        self._tasks.watch(self._cancel)
        self._end()

    def _drain(self) -> None:
        if self._drained.is_set():
            return
        self._drained.set()
        # No pod's end is known everywhere at once: until then requests come, and are answered.
        time.sleep(self._settings.drain_seconds)
        self._cancel.set()

    def _end(self) -> None:
        self._server.close()
        self._tasks.join(time.monotonic() + _END_SECONDS)
        if self._endpoints:
            self._endpoints.close()
        log.info("webhook.stopped")

    # The certificate, and our image

    def _certificate_keeper(self) -> OwnCertificate | CertificateFiles:
        settings = self._settings
        if settings.tls_dir is not None:
            return CertificateFiles(settings.tls_dir, self._show)
        return OwnCertificate(
            self._client,
            self._show,
            namespace=settings.namespace,
            names=(
                *service_names(settings.webhook_service, settings.namespace),
                *settings.certificate_names,
            ),
            lifetime=timedelta(seconds=settings.certificate_lifetime),
            configuration=settings.webhook_configuration,
        )

    def _show(self, chain: bytes, key: bytes) -> None:
        self._server.show(chain, key)
        ends = ends_at(chain)
        self._ends = ends.timestamp()
        log.info("webhook.certificate.shown", ends=ends.isoformat())

    def _look_up_image(self) -> float:
        """Our own image, by our own pod. It stays the same as long as we live."""
        if self._image or not self._settings.pod_name:
            return _LATE_SECONDS
        try:
            pod = self._client.get(PODS, self._settings.pod_name, self._settings.namespace)
        except ClusterError as error:
            self._image_asked = True
            return self._image_failures.failed(error)
        for container in pod["spec"]["containers"]:
            if container["name"] == CONTAINER:
                self._image = container["image"]
                log.info("webhook.image", image=self._image)
        self._image_asked = True
        return _LATE_SECONDS

    def _look_up_version(self) -> float:
        try:
            self._version = self._client.version()
        except ClusterError as error:
            return self._version_failures.failed(error)
        self._version_failures.settled()
        return _VERSION_SECONDS

    @property
    def _native_sidecars(self) -> bool:
        if self._settings.sidecars != "auto":
            return self._settings.sidecars == "native"
        # Until it is known, what every server takes.
        return self._version is not None and self._version >= _NATIVE_SIDECARS

    # Reviews

    def _mutate(self, body: bytes) -> Answer:
        began = time.monotonic()
        try:
            found = review(body, self._injected)
        except UsageError as error:
            self._metrics.reviewed("failed", 0, time.monotonic() - began)
            return text(400, str(error))
        seconds = time.monotonic() - began
        self._metrics.reviewed(found.outcome.value, len(found.warnings), seconds)
        log.debug(
            "webhook.reviewed",
            outcome=found.outcome.value,
            warnings=found.warnings,
            seconds=round(seconds, 4),
        )
        return document(found.answer)

    def _injected(self, pod: Object, namespace: str) -> Injected:
        level = self._level(namespace)
        known = None
        if self._models.listed_at is not None:
            known = {name: kept["scheme"] for name, kept in self._models.objects.items()}
        caches = None
        if self._caches.listed_at is not None:
            caches = {name: kept["spec"] for name, kept in self._caches.objects.items()}
        config = Config(
            root=str(self._settings.root),
            image=self._image,
            level=level or Level.BASELINE,
            namespace=namespace,
            compile_port=self._settings.compile_port,
            native_sidecars=self._native_sidecars,
        )
        found = inject(pod, known, config, caches)
        if level is not None:
            return found
        why = f"what Pod Security enforces in {namespace} can't be found out; baseline is assumed"
        return Injected(found.pod, (why, *found.warnings))

    def _level(self, namespace: str) -> Level | None:
        """What the namespace enforces; None: that can't be found out now."""
        kept = self._namespaces.objects.get(namespace)
        if kept is None:
            # So new that the watch has not told us.
            try:
                kept = keep_level(self._hasty.get(NAMESPACES, namespace))
            except ClusterError:
                return None
        level = kept["level"] or self._settings.pod_security
        # A word that Pod Security doesn't know it takes for its strictest.
        return Level(level) if level in set(Level) else Level.RESTRICTED

    # The endpoints

    def _state(self) -> WebhookState:
        return WebhookState(
            certificate_ends=self._ends,
            objects={name: len(mirror.objects) for name, mirror in self._mirrors.items()},
            failing=[name for name, mirror in self._mirrors.items() if mirror.trouble is not None],
        )

    def _readyz(self) -> Answer:
        """Once it knows what it needs, it stays ready: old knowledge is better than none."""
        if self._drained.is_set():
            return text(503, "it is ending")
        if not self._server.has_certificate:
            return text(503, "there is no certificate yet")
        for name, mirror in self._mirrors.items():
            # Without caches, as on a cluster whose CRDs are older, pods have their models.
            if mirror.listed_at is None and mirror is not self._caches:
                why = f": {mirror.trouble}" if mirror.trouble else ""
                return text(503, f"{name} were not listed yet{why}")
        if not self._image_asked:
            # Asked once is enough: without it pods are injected with less.
            return text(503, "its own image was not asked for yet")
        return text(200, "ok")


def keep_scheme(model: Object) -> Object:
    """What of a CachedModel is kept: the scheme of its source; empty where that can't be read."""
    uri = ((model.get("spec") or {}).get("source") or {}).get("uri")
    try:
        return {"scheme": parse_uri(uri).scheme if isinstance(uri, str) else ""}
    except UsageError:
        return {"scheme": ""}


def keep_cache(cache: Object) -> Object:
    """What of a CompileCache is kept: its spec, read; None where it can't be."""
    try:
        return {"spec": read_cache(cache).spec}
    except UsageError:
        return {"spec": None}


def keep_level(namespace: Object) -> Object:
    """What of a Namespace is kept: the level that its label has Pod Security enforce."""
    labels = namespace["metadata"].get("labels") or {}
    return {"level": labels.get(LEVEL_LABEL, "")}
