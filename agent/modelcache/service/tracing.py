"""Traces: where the time of a model's fetch went, as OpenTelemetry spans sent over OTLP.

Off unless `otlp_endpoint` is set, and then an optional extra: `pip install
'model-cache-agent[otel]'`. Two kinds of traces, both with the attribute `modelcache.model`:

- `resolve`: an origin was asked what a revision is.
- `fetch`, linked to the `resolve` that it follows, with one child for each of its steps: `transfer`
  until the last byte came, `verify` until every file was verified and durable after that (digests
  are computed while bytes come, so this is only what was left), `unpack` where there are archives,
  `commit`.

What was tried again is an event of the span in which it happened. A failure sets the span's status
to ERROR, with the reason's name. Names of OpenTelemetry's own conventions are used where there are
any; a span has no path, no URL and no message, so no secret can be in one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit, urlunsplit

import structlog

from modelcache import __version__
from modelcache.errors import Reason, UsageError
from modelcache.transfer.events import (
    BytesReceived,
    BytesResumed,
    Committing,
    Event,
    FetchEnded,
    FetchStarted,
    HostPaused,
    MirrorFailed,
    Resolved,
    Resolving,
    Retried,
    Unpacking,
)

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    from opentelemetry.trace import Span, SpanContext, Tracer

log = structlog.get_logger(__name__)

_EXPORT_SECONDS: Final = 5.0
_CLOSE_SECONDS: Final = 3.0
"""Who stops an agent waits for it; what an agent does in the end has about as long."""
_MOST_EVENTS: Final = 64
"""Of what was tried again in one span: a long night has thousands."""


@dataclass(slots=True)
class _Fetch:
    """One fetch under way. Times are Unix time in nanoseconds, as spans have them."""

    span: Span
    step: Span
    last_byte: int
    received: int = 0
    resumed: int = 0
    steps: set[str] = field(default_factory=set)


class Traces:
    """A listener that makes spans of what happens. Safe for threads."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer: Tracer = provider.get_tracer("modelcache", __version__)
        self._mutex = threading.Lock()
        self._resolving: dict[str, Span] = {}
        self._resolved: dict[str, SpanContext] = {}
        self._fetches: dict[str, _Fetch] = {}

    def __call__(self, event: Event) -> None:
        """Note an event."""
        now = time.time_ns()
        with self._mutex:
            if isinstance(event, Resolving):
                self._begin_to_resolve(event)
            elif isinstance(event, Resolved):
                self._end_resolving(event)
            elif isinstance(event, FetchStarted):
                self._begin(event, now)
            elif (fetch := self._fetches.get(event.model)) is not None:
                self._go_on(fetch, event, now)

    def forget(self, models: Collection[str]) -> None:
        """Models are gone: neither wanted nor here, and nothing runs for them."""
        with self._mutex:
            for model in models:
                self._resolved.pop(model, None)
                if (span := self._resolving.pop(model, None)) is not None:
                    span.end()  # it was left behind: a library's call hung

    def close(self) -> None:
        """Send what was not sent yet, for three seconds at most, and end."""
        with self._mutex:
            for fetch in self._fetches.values():
                fetch.step.end()
                fetch.span.end()
            for span in self._resolving.values():
                span.end()
            self._fetches.clear()
            self._resolving.clear()
        # In a thread of its own, which may be left behind: the SDK heeds no time-out here, and the
        # exporter's begins anew with each byte that a collector answers.
        sending = threading.Thread(target=self._send_the_rest, name="traces-end", daemon=True)
        sending.start()
        sending.join(_CLOSE_SECONDS)
        if sending.is_alive():
            log.warning("traces.not_sent", seconds=_CLOSE_SECONDS)

    def _send_the_rest(self) -> None:
        self._provider.force_flush()
        self._provider.shutdown()

    def _begin_to_resolve(self, event: Resolving) -> None:
        if (before := self._resolving.pop(event.model, None)) is not None:
            before.end()  # it was left behind: a library's call hung
        attributes = {"modelcache.model": event.model, "modelcache.origin": event.origin}
        self._resolving[event.model] = self._tracer.start_span(
            "resolve", context=_rootless(), attributes=attributes
        )

    def _end_resolving(self, event: Resolved) -> None:
        span = self._resolving.pop(event.model, None)
        if span is None:
            return
        if event.revision is not None and event.reason is None:
            span.set_attribute("modelcache.revision", event.revision)
            self._resolved[event.model] = span.get_span_context()
        _end(span, event.reason)

    def _begin(self, event: FetchStarted, now: int) -> None:
        from opentelemetry.trace import Link, set_span_in_context

        if (before := self._fetches.pop(event.model, None)) is not None:
            before.step.end()
            before.span.end()
        resolved = self._resolved.pop(event.model, None)
        span = self._tracer.start_span(
            "fetch",
            context=_rootless(),
            links=[Link(resolved)] if resolved is not None else [],
            attributes={
                "modelcache.model": event.model,
                "modelcache.origin": event.origin,
                "modelcache.revision": event.revision,
                "modelcache.files": event.files,
                "modelcache.size_bytes": event.size,
                "modelcache.held_bytes": event.held,
            },
            start_time=now,
        )
        step = self._tracer.start_span(
            "transfer", context=set_span_in_context(span), start_time=now
        )
        self._fetches[event.model] = _Fetch(span, step, now, steps={"transfer"})

    def _go_on(self, fetch: _Fetch, event: Event, now: int) -> None:
        if isinstance(event, BytesReceived):
            fetch.last_byte = now
            fetch.received += event.size
        elif isinstance(event, BytesResumed):
            fetch.last_byte = now
            fetch.resumed += event.size
        elif isinstance(event, Unpacking):
            self._verified(fetch)
            self._step(fetch, "unpack", now)
        elif isinstance(event, Committing):
            if "unpack" not in fetch.steps:
                self._verified(fetch)
            self._step(fetch, "commit", now)
        elif isinstance(event, Retried):
            _note(fetch.step, "retry", reason=event.reason.value, delay=event.delay)
        elif isinstance(event, MirrorFailed):
            _note(fetch.step, "mirror failed", reason=event.reason.value, delay=event.pause)
        elif isinstance(event, HostPaused):
            _note(fetch.step, "host paused", reason=event.reason.value, delay=event.seconds)
        elif isinstance(event, FetchEnded):
            del self._fetches[event.model]
            self._end_fetch(fetch, event, now)

    def _verified(self, fetch: _Fetch) -> None:
        """The bytes have come: the rest was spent on digests and durability."""
        fetch.step.end(fetch.last_byte)
        self._step(fetch, "verify", fetch.last_byte)

    def _step(self, fetch: _Fetch, name: str, at: int) -> None:
        from opentelemetry.trace import set_span_in_context

        fetch.step.end(at)  # the second end of a span counts for nothing
        fetch.steps.add(name)
        context = set_span_in_context(fetch.span)
        fetch.step = self._tracer.start_span(name, context=context, start_time=at)

    def _end_fetch(self, fetch: _Fetch, event: FetchEnded, now: int) -> None:
        span = fetch.span
        span.set_attribute("modelcache.received_bytes", event.received)
        span.set_attribute("modelcache.resumed_bytes", fetch.resumed)
        span.set_attribute("modelcache.mirrored_bytes", event.mirrored)
        span.set_attribute("modelcache.retries", event.retries)
        for activity, seconds in event.times.by_activity.items():
            span.set_attribute(f"modelcache.{activity}_seconds", seconds)
        _end(fetch.step, event.reason, now)
        _end(span, event.reason, now)


def open_traces(endpoint: str, node: str) -> Traces:
    """Send spans to a collector.

    Headers, certificates and compression are set as for every exporter, by the environment's
    `OTEL_EXPORTER_OTLP_…`.

    Args:
        endpoint: the collector's URL for OTLP over HTTP, such as http://otel-collector:4318.
        node: this node's name.

    Raises:
        UsageError: the packages are not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise UsageError(
            "traces need OpenTelemetry, which is not installed here: pip install"
            " 'model-cache-agent[otel]'"
        ) from error
    exporter = OTLPSpanExporter(endpoint=_traces_url(endpoint), timeout=_EXPORT_SECONDS)
    return Traces(_provider(node, BatchSpanProcessor(exporter)))


def _provider(node: str, processor: SpanProcessor) -> TracerProvider:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import SpanLimits, TracerProvider

    provider = TracerProvider(
        resource=Resource.create(
            {
                "service.name": "modelcache-agent",
                "service.version": __version__,
                "service.instance.id": node,
                "k8s.node.name": node,
            }
        ),
        span_limits=SpanLimits(max_events=_MOST_EVENTS),
        shutdown_on_exit=False,  # we end it ourselves
    )
    provider.add_span_processor(processor)
    return provider


def _traces_url(endpoint: str) -> str:
    """What the specification says of a base URL: /v1/traces is appended."""
    parts = urlsplit(endpoint)
    path = parts.path.rstrip("/")
    if not path.endswith("/v1/traces"):
        path += "/v1/traces"
    return urlunsplit(parts._replace(path=path))


def _rootless() -> Context:
    from opentelemetry.context import Context

    return Context()


def _note(span: Span, name: str, *, reason: str, delay: float) -> None:
    span.add_event(name, {"modelcache.reason": reason, "modelcache.delay_seconds": delay})


def _end(span: Span, reason: Reason | None, at: int | None = None) -> None:
    from opentelemetry.trace import StatusCode

    if reason is not None:
        span.set_attribute("error.type", reason.value)
        if reason is not Reason.CANCELLED:
            span.set_status(StatusCode.ERROR, reason.value)
    span.end(at)
