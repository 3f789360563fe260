"""What is to be said of each model: a pure function of what is wanted, there, and under way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from modelcache.api import CachedModel, Manifest, ModelReport, ModelState, PageCache
from modelcache.errors import Reason
from modelcache.planning.planner import Fetch, Held, Resolve, Running, in_proof
from modelcache.planning.sources import source_digest
from modelcache.planning.trials import Trial


@dataclass(frozen=True, slots=True)
class Progress:
    """A fetch under way, in bytes.

    `started_at` is in seconds since the epoch. `reason` and `message` say what went wrong since
    bytes last came and is being tried again; None when they come. While archives are unpacked, the
    bytes are those of the archives. `moved` are those that came, or were unpacked, since it began:
    never fewer than before, and none of them was there already.
    """

    revision: str = ""
    done: int = 0
    total: int = 0
    moved: int = 0
    files: int = 0
    committing: bool = False
    unpacking: bool = False
    started_at: float | None = None
    reason: Reason | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class Paths:
    """Where a model's views are."""

    plain: str
    hub: str | None


def describe(
    name: str,
    model: CachedModel | None,
    held: Sequence[tuple[Held, Manifest]],
    trial: Trial | None,
    running: Running | None,
    progress: Progress | None,
    paths: Paths,
    *,
    waits: bool = False,
) -> ModelReport:
    """One model's report.

    A model that is ready stays ready while a newer revision is fetched or its fetch fails. It is
    not ready with what was fetched for another source: a file may be missing that is now asked for.

    Args:
        name: the model's name.
        model: the object, or None when nothing wants it.
        held: its snapshots, oldest first.
        trial, running, progress: what is remembered, under way, and how far it is.
        paths: where its views are.
        waits: whether its fetch waits for a permit.
    """
    if model is not None and trial is not None and trial.source != source_digest(model.spec.source):
        trial = None
    ready = _ready(model, held)
    proving = None if ready else _proving(model, held)
    state = _state(model, ready, trial, running, progress)
    if proving is not None and running is None:
        state = ModelState.VERIFYING
    # A fetch that runs but is not told of yet has the progress of the one before.
    current = progress if running is not None and running.kind is Fetch else None
    report: dict[str, object] = {}
    if ready is not None:
        report |= {
            "revision": ready.revision,
            "bytes_done": ready.size,
            "bytes_total": ready.size,
            "files": len(ready.files),
            "finished_at": ready.created_at,
            "path": paths.plain,
            "hub_path": paths.hub if ready.hub else None,
            "next_revision": current.revision if current else None,
        }
    elif current is not None:
        report |= {
            "revision": current.revision or None,
            "bytes_done": min(current.done, current.total),
            "bytes_total": current.total,
            "files": current.files,
        }
    elif proving is not None:
        unproven, manifest = proving
        report |= {
            "revision": manifest.revision,
            "bytes_done": max(0, manifest.size - unproven),
            "bytes_total": manifest.size,
            "files": len(manifest.files),
            "message": "read back: the cache was filled elsewhere",
        }
    elif trial is not None and trial.resolved is not None:
        report |= {"revision": trial.resolved.revision, "bytes_total": trial.resolved.size}
    elif trial is not None and trial.reason is Reason.INSUFFICIENT_DISK:
        report["bytes_total"] = trial.size
    if current is not None and current.started_at is not None:
        report["started_at"] = _moment(current.started_at)
    if current is not None and current.reason is not None:
        report |= {"reason": current.reason, "message": current.message}
    elif running is not None and running.kind is Resolve and running.stuck:
        report |= {"reason": Reason.ORIGIN_UNAVAILABLE, "message": "the origin does not answer"}
    elif trial is not None and trial.failures:
        report |= {"reason": trial.reason, "message": trial.message}
    elif waits:
        report["message"] = "waits: as many nodes as may fetch the same at the same time do so"
    if trial is not None and trial.failures:
        report["attempts"] = trial.failures
        if running is None and model is not None:
            report["retry_at"] = _moment(trial.retry_at)
    source = model.spec.source if model else (ready.source if ready else None)
    return ModelReport(
        name=name,
        state=state,
        wanted=model is not None,
        source=source.shown if source else None,
        source_digest=source_digest(source) if source else None,
        priority=model.spec.priority if model else 0,
        pinned=model.spec.pinned if model else False,
        page_cache=model.spec.page_cache if model else PageCache.NONE,
        **report,  # type: ignore[arg-type]
    )


def with_progress(report: ModelReport, progress: Progress) -> ModelReport:
    """A report with the progress of this moment, where a fetch is what it speaks of."""
    if report.state not in (ModelState.DOWNLOADING, ModelState.VERIFYING):
        return report
    arrived = progress.committing or progress.unpacking
    state = ModelState.VERIFYING if arrived else ModelState.DOWNLOADING
    started = progress.started_at
    return report.model_copy(
        update={
            "started_at": report.started_at if started is None else _moment(started),
            "bytes_done": min(progress.done, progress.total),
            "bytes_total": progress.total,
            "files": progress.files,
            "revision": progress.revision or None,
            "state": state,
        }
    )


def _ready(model: CachedModel | None, held: Sequence[tuple[Held, Manifest]]) -> Manifest | None:
    """The snapshot to speak of: whole; of a wanted model the one that is shown for its source."""
    whole = [(h, manifest) for h, manifest in held if h.whole and not h.unproven]
    manifests = [manifest for h, manifest in whole if h.shown]
    if model is not None:
        source = source_digest(model.spec.source)
        manifests = [m for h, m in whole if h.shown and h.source == source]
    elif not manifests:
        manifests = [manifest for _, manifest in whole]
    return manifests[-1] if manifests else None


def _proving(
    model: CachedModel | None, held: Sequence[tuple[Held, Manifest]]
) -> tuple[int, Manifest] | None:
    """What is being read back of a wanted model, and how many bytes of it are left."""
    if model is None or not in_proof(source_digest(model.spec.source), [h for h, _ in held]):
        return None
    source = source_digest(model.spec.source)
    left = [(h.unproven, m) for h, m in held if h.whole and h.unproven and h.source == source]
    return left[-1]


def _state(
    model: CachedModel | None,
    ready: Manifest | None,
    trial: Trial | None,
    running: Running | None,
    progress: Progress | None,
) -> ModelState:
    if ready is not None:
        return ModelState.READY
    if model is None:
        return ModelState.EVICTED
    if running is not None and running.kind is Fetch:
        arrived = progress is not None and (progress.committing or progress.unpacking)
        return ModelState.VERIFYING if arrived else ModelState.DOWNLOADING
    if trial is not None and trial.failures:
        return ModelState.FAILED
    return ModelState.RESOLVING if running is not None else ModelState.PENDING


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
