"""Logs: one event for each thing that happened, with stable keys; JSON, or lines for people."""

from __future__ import annotations

import logging
import sys
from typing import TextIO

import structlog

from modelcache.transfer.events import (
    BytesSalvaged,
    Event,
    FetchEnded,
    FetchStarted,
    HostPaused,
    MirrorFailed,
    Retried,
)

log = structlog.get_logger("modelcache.transfer")


def configure_logs(*, as_json: bool, level: str, stream: TextIO | None = None) -> None:
    """Set up structlog for this process. Libraries' own logs are let through from warnings on.

    `stream` is stderr by default, also when that is replaced later, as progress bars do.
    """
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(
            colors=(stream or sys.stderr).isatty(),
            # Not the default: that prints local variables, and one may hold a token.
            exception_formatter=structlog.dev.plain_traceback,
        )
    )
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso" if as_json else "%H:%M:%S", utc=as_json),
    ]
    if as_json:
        processors.append(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[*processors, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=lambda *_: structlog.PrintLogger(stream or sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = _Handler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=processors,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.captureWarnings(True)


class _Handler(logging.StreamHandler[TextIO]):
    """Writes libraries' records where the rest of the log goes."""

    def __init__(self, stream: TextIO | None) -> None:
        self._given = stream
        super().__init__(stream or sys.stderr)

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = self._given or sys.stderr
        super().emit(record)


def log_event(event: Event) -> None:
    """A listener that logs what an operator wants to know of a transfer."""
    if isinstance(event, FetchStarted):
        log.info(
            "fetch.started",
            model=event.model,
            revision=event.revision[:12],
            files=event.files,
            bytes=event.size,
            held_bytes=event.held,
        )
    elif isinstance(event, BytesSalvaged):
        log.info("file.salvaged", model=event.model, path=event.path, bytes=event.size)
    elif isinstance(event, Retried):
        log.warning(
            "fetch.retry",
            model=event.model,
            path=event.path,
            reason=event.reason.value,
            message=event.message,
            delay_seconds=round(event.delay, 2),
        )
    elif isinstance(event, FetchEnded) and event.reason is None:
        log.info(
            "fetch.ended",
            model=event.model,
            received_bytes=event.received,
            seconds=round(event.seconds, 2),
            mib_per_second=round(event.received / 2**20 / max(event.seconds, 1e-6), 1),
            mirrored_bytes=event.mirrored,
            retries=event.retries,
            bounded_by=event.times.bounded_by,
            **{f"{what}_seconds": round(s, 2) for what, s in event.times.by_activity.items()},
        )
    elif isinstance(event, MirrorFailed):
        log.warning(
            "mirror.failed",
            model=event.model,
            path=event.path,
            mirror=event.mirror,
            reason=event.reason.value,
            message=event.message,
            pause_seconds=round(event.pause, 2),
        )
    elif isinstance(event, HostPaused):
        log.warning(
            "host.paused",
            model=event.model,
            host=event.host,
            seconds=round(event.seconds, 2),
            connections=event.connections,
        )
