"""The sidecar: it judges a pod's start by its files, captures what was compiled, and hands it over.

It can't see the engine's output: that the engine serves it asks the engine, and what was compiled
it sees in the cache directory, which it only reads. All that it makes is in a directory of its own,
and what a killed one left there the next one takes away.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import structlog
from pydantic import ValidationError

from modelcache.api.meta import ApiModel
from modelcache.compilecache.engines.evidence import EngineHashes, Evidence
from modelcache.compilecache.engines.factors import hashes_of
from modelcache.compilecache.engines.judging import MissReason, Result, Verdict, judge
from modelcache.compilecache.engines.table import Engine
from modelcache.compilecache.pods import environment
from modelcache.compilecache.pods.accesses import files_read
from modelcache.compilecache.pods.posting import Agent, Refused, Unavailable, again_and_again
from modelcache.compilecache.pods.protocol import CaptureAnswer, CaptureDocument, StartDocument
from modelcache.compilecache.pods.seeding import read_report
from modelcache.compilecache.pods.serving import Serving
from modelcache.compilecache.starts.capturing import Captured, Patience, watch
from modelcache.compilecache.starts.seednotes import SeedNote, read_note, written
from modelcache.compilecache.trees.quiet import Quiet
from modelcache.compilecache.trees.scanning import Entry, Limits, Tree, scan
from modelcache.errors import AuthFailed, Cancelled, ModelCacheError, NotCaptured
from modelcache.transfer.cancelling import Cancel

_TELL_SECONDS: Final = 60.0
"""What telling may hold up a capture."""
_MAX_REPORT_BYTES: Final = 64 * 1024
_MAX_MESSAGE: Final = 1024

_UNREAD: Final = (
    "the engine has read nothing of what was seeded, and written nothing beside it: its caches lie"
    " elsewhere, or it doesn't compile; see which variables of its container say where they lie"
)

_NO_PUBLISHER: Final = (
    "this pod does not publish: its service account is not among the object's spec.publishers, or"
    " its engine is started otherwise than the object says"
)

log = structlog.get_logger(__name__)


class CaptureReport(ApiModel):
    """How far a sidecar has come in a pod's life."""

    told: bool = False
    """The agent knows how the start went, or doesn't want to."""
    outcome: Literal["", "delivered", "nothing", "refused", "failed"] = ""
    """What became of the capture; empty: nothing yet."""
    digest: str | None = None
    """The bundle that was made of it, where the agent has said that."""
    why: str = ""
    """For people."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """How the cache is now: its files, what was seeded, which are new, how many of the seeded were
    read (None: nobody knows)."""

    tree: Tree
    note: SeedNote | None
    new: Sequence[Entry]
    read: int | None


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What a sidecar is to do.

    Attributes:
        name: the CompileCache.
        pod: namespace/name.
        engine: whose cache it is.
        cache_dir: where that lies.
        work: a directory of its own, which the init container has also written to.
        agent: whom it tells.
        serving: by what the engine says that it serves; None: by nothing.
        publish: whether it captures; else it only judges.
        ranks: how many processes of the engine compile in this pod.
        patience: how long it waits for what.
        deliver_seconds: how long it tries to hand over.
        limits: the most that is captured.
    """

    name: str
    pod: str
    engine: Engine
    cache_dir: Path
    work: Path
    agent: Agent
    serving: Serving | None = None
    publish: bool = True
    ranks: int = 1
    patience: Patience = field(default_factory=Patience)
    deliver_seconds: float = 3600.0
    limits: Limits = field(default_factory=Limits)

    def run(self, cancel: Cancel) -> CaptureReport:
        """Do it all, once in a pod's life.

        Raises:
            Cancelled
        """
        report = self._read()
        start = None
        if not report.told:
            try:
                start = self._judged(cancel)
            except Cancelled:
                raise
            except (ModelCacheError, OSError) as error:
                log.warning("start.unjudged", message=_words(error))
                report = self._noted(report, told=True)
        if start is not None and self._tell(start, cancel, _TELL_SECONDS):
            report, start = self._noted(report, told=True), None
        if report.outcome == "":
            report = self._captured(report, cancel)
        if start is not None:
            self._tell(start, cancel, self.deliver_seconds)
            report = self._noted(report, told=True)
        return report

    # The start

    def _judged(self, cancel: Cancel) -> StartDocument:
        """How the start went, once it is over.

        Raises:
            Cancelled, NotFound, TreeTooLarge, UsageError
            OSError: the disk fails.
        """
        over = self._is_over(cancel)
        seen = self._seen()
        note = seen.note
        serves = over and self.serving is not None
        evidence = Evidence(
            source="files", ready=serves, compiled=len(seen.new), loaded=seen.read or 0
        )
        report = read_report(self.work)
        verdict = judge(
            evidence,
            seeded=note is not None,
            seeded_files=len(note.manifest.files) if note is not None else 0,
            new_files=len(seen.new),
            before=report.hashes if report is not None else EngineHashes(),
            after=hashes_of(self.cache_dir, seen.tree),
            cache_dir=self.cache_dir,
            finished=over and not serves,
        )
        if verdict.result is Result.HIT and seen.read == 0:
            verdict = Verdict(Result.MISS, None, MissReason.CACHE_ELSEWHERE, _UNREAD)
        reason = verdict.reason.value if verdict.reason is not None else None
        log.info(
            "start.judged",
            result=verdict.result.value,
            reason=reason,
            message=verdict.message,
            new_files=len(seen.new),
            read_files=seen.read,
            seeded=note.digest if note is not None else None,
        )
        return StartDocument(
            pod=self.pod,
            digest=note.digest if note is not None else None,
            result=verdict.result.value,
            reason=reason,
            message=verdict.message[:_MAX_MESSAGE],
            evidence=evidence,
        )

    def _is_over(self, cancel: Cancel) -> bool:
        """Wait for the end of the start: the engine serves, or, where it doesn't say so, what it
        writes is quiet. Whether that came in time."""
        if self.serving is None:
            return self._is_quiet(cancel)
        log.info("engine.awaited", port=self.serving.port, target=self.serving.target)
        patience = self.patience
        return self.serving.wait(cancel, every=patience.look, seconds=patience.ready)

    def _is_quiet(self, cancel: Cancel) -> bool:
        """Wait until something was written, or read of what was seeded, and then nothing more."""
        quiet = Quiet(self.patience.quiet)
        end = time.monotonic() + self.patience.ready
        while time.monotonic() < end:
            began = time.monotonic()
            seen = self._seen()
            if quiet.look(seen.tree.state) and (seen.new or seen.read):
                return True
            cancel.wait(max(self.patience.look, 20 * (time.monotonic() - began)))
        return False

    def _seen(self) -> _Seen:
        tree = scan(self.cache_dir, self.engine.wanted, limits=self.limits, owner=os.geteuid())
        note = read_note(self.cache_dir)
        read = files_read(self.cache_dir, note.manifest.files) if note is not None else None
        return _Seen(tree, note, written(self.cache_dir, note, tree), read)

    def _tell(self, start: StartDocument, cancel: Cancel, seconds: float) -> bool:
        """Tell the agent how the start went; whether it needs not be told again."""

        def tell() -> None:
            self.agent.report(self.name, start, cancel)

        try:
            again_and_again(tell, cancel, seconds=seconds, told=_log_pause)
        except Unavailable as error:
            log.warning("start.untold", message=_words(error))
            return False
        except (Refused, AuthFailed) as error:
            log.warning("start.refused", message=_words(error))
        return True

    # The capture

    def _captured(self, report: CaptureReport, cancel: Cancel) -> CaptureReport:
        if not self.publish:
            log.info("capture.nothing", message=_NO_PUBLISHER)
            return self._noted(report, outcome="nothing", why=_NO_PUBLISHER)
        try:
            with self._watched(cancel) as captured:
                return self._delivered(report, captured, cancel)
        except Cancelled:
            raise
        except NotCaptured as error:
            log.info("capture.nothing", message=_words(error))
            return self._noted(report, outcome="nothing", why=_words(error))
        except (ModelCacheError, OSError) as error:
            log.warning("capture.failed", message=_words(error))
            return self._noted(report, outcome="failed", why=_words(error))

    def _watched(self, cancel: Cancel) -> Captured:
        return watch(
            self.engine,
            self.cache_dir,
            into=self.work / environment.STAGING,
            evidence=self._evidence,
            ranks=self.ranks,
            patience=self.patience,
            limits=self.limits,
            cancel=cancel,
            tell=lambda why: log.info("capture.waiting", message=why),
        )

    def _evidence(self) -> Evidence:
        """What is seen of the engine now."""
        return Evidence(source="files", ready=self.serving is None or self.serving.look())

    def _delivered(
        self, report: CaptureReport, captured: Captured, cancel: Cancel
    ) -> CaptureReport:
        """Hand it over.

        Raises:
            Cancelled
        """
        facts = captured.facts
        size = {"bytes": facts.size, "files": facts.files, "unpacked": facts.bytes}
        log.info("capture.captured", archive=facts.digest, new_files=captured.new_files, **size)
        document = CaptureDocument(
            archive=facts,
            engine_hashes=captured.hashes,
            evidence=captured.evidence.model_copy(update={"compiled": captured.new_files}),
            cache_dir=str(self.cache_dir),
            pod=self.pod,
            seeded=captured.seeded,
        )

        def publish() -> CaptureAnswer:
            return self.agent.publish(self.name, document, captured.archive, cancel)

        try:
            answer = again_and_again(publish, cancel, seconds=self.deliver_seconds, told=_log_pause)
        except (Refused, AuthFailed) as error:
            log.warning("capture.refused", message=_words(error))
            return self._noted(report, outcome="refused", why=_words(error))
        assert answer is not None
        log.info(
            "capture.delivered", digest=answer.digest, known=answer.known, message=answer.message
        )
        return self._noted(report, outcome="delivered", digest=answer.digest)

    # What a sidecar that is started again has to know

    def _read(self) -> CaptureReport:
        try:
            with (self.work / environment.CAPTURE_REPORT).open("rb") as file:
                content = file.read(_MAX_REPORT_BYTES)
            return CaptureReport.model_validate_json(content, strict=True, by_name=False)
        except (OSError, ValidationError):
            return CaptureReport()

    def _noted(self, report: CaptureReport, **changes: object) -> CaptureReport:
        report = report.model_copy(update=changes)
        path = self.work / environment.CAPTURE_REPORT
        beside = path.with_name(f".{path.name}")
        try:
            beside.write_bytes(report.model_dump_json(by_alias=True).encode())
            os.replace(beside, path)
        except OSError as error:
            log.warning("report.unwritten", message=_words(error))
        return report


def _log_pause(error: Unavailable, pause: float) -> None:
    log.info("agent.awaited", message=_words(error), seconds=round(pause, 1))


def _words(error: Exception) -> str:
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}"
    return str(error)
