"""What is to be said of a compile cache on this node: a CompileReport, from what planning knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from modelcache.api.nodecache import CompileReport, CompileState, StartReport, WithdrawnBundle
from modelcache.errors import Reason
from modelcache.planning.compileactions import Fetch
from modelcache.planning.compilebudget import Running
from modelcache.planning.compilechoosing import HeldBundle, Need, best
from modelcache.planning.compiletrials import CompileTrial
from modelcache.planning.trials import Failure

_SILENT: Final = "the place gives no answer"


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of an object beside its tries.

    Attributes:
        why_no_key: why this node's key is not known, as a sentence.
        model: the model that it is of.
        accelerator: what this node compiles for, for people.
        sizes: bytes of each bundle that is here, by digest.
        verified: digests that a start has loaded.
        withdrawn: what starts on this node failed to load.
        last_start, last_miss: how starts went.
        path: the directory that pods mount.
    """

    why_no_key: str = ""
    model: str | None = None
    accelerator: str | None = None
    sizes: dict[str, int] | None = None
    verified: frozenset[str] = frozenset()
    withdrawn: tuple[WithdrawnBundle, ...] = ()
    last_start: StartReport | None = None
    last_miss: StartReport | None = None
    path: str | None = None


def describe(
    name: str,
    need: Need,
    held: Sequence[HeldBundle],
    trial: CompileTrial | None,
    running: Running | None,
    known: Known,
    *,
    waits: bool = False,
) -> CompileReport:
    """The report of one object that selects this node.

    Args:
        name: the object.
        need: what it asks for.
        held: its bundles on this node.
        trial: what is remembered of its tries.
        running: what runs for it now.
        known: the rest.
        waits: whether its work waits for other objects' work to end.
    """
    if trial is not None and (trial.spec, trial.key) != (need.spec, need.key):
        trial = None
    if running is not None and (running.spec, running.key) != (need.spec, need.key):
        running = None
    chosen = best(need, held)
    here = chosen if chosen is not None and chosen.shown else None
    state, reason, message = _state(need, here, trial, running, known, waits)
    fetched = running.work.digest if running and isinstance(running.work, Fetch) else None
    digest = here.digest if here else fetched
    failed = _failed(trial)
    return CompileReport(
        name=name,
        model=known.model,
        state=state,
        spec_digest=need.spec,
        key=need.key,
        digest=digest,
        created_at=_moment(here.created_at) if here else None,
        bytes=(known.sizes or {}).get(here.digest, 0) if here else 0,
        outgoing=here.outgoing if here else False,
        accelerator=known.accelerator,
        verified=here is not None and here.digest in known.verified,
        path=known.path if here else None,
        reason=reason,
        message=message,
        attempts=failed.failures if failed else 0,
        retry_at=_moment(failed.retry_at) if failed else None,
        last_start=known.last_start,
        last_miss=known.last_miss,
        withdrawn=known.withdrawn[:16],
    )


def _state(
    need: Need,
    here: HeldBundle | None,
    trial: CompileTrial | None,
    running: Running | None,
    known: Known,
    waits: bool,
) -> tuple[CompileState, Reason | None, str | None]:
    failed = _failed(trial)
    reason = failed.reason if failed else None
    message = failed.message if failed else None
    if running is not None and running.stuck and not failed:
        reason, message = Reason.ORIGIN_UNAVAILABLE, _SILENT
    if here is not None:
        return CompileState.READY, reason, message
    if need.key is None:
        return CompileState.PENDING, None, known.why_no_key or None
    if running is not None and isinstance(running.work, Fetch) and not running.stuck:
        return CompileState.DOWNLOADING, reason, message
    if (trial is not None and trial.failures) or (running is not None and running.stuck):
        return CompileState.FAILED, reason, message
    if trial is None or trial.looked_at is None:
        return CompileState.PENDING, None, "waits for other compile caches" if waits else None
    if {offer.digest for offer in trial.offers} - need.withdrawn - trial.refused.keys():
        return CompileState.PENDING, None, "waits for other compile caches" if waits else None
    if trial.refused:
        return CompileState.FAILED, Reason.UNSAFE_FORMAT, next(iter(trial.refused.values()))
    said = "nothing was published for this node's key"
    if trial.offers:
        said = "all that was published for this node's key was withdrawn"
    return CompileState.MISSING, None, f"{said}{f'; {trial.nearest}' if trial.nearest else ''}"


def _failed(trial: CompileTrial | None) -> CompileTrial | Failure | None:
    """What has failed: looking and fetching, else publishing."""
    if trial is None:
        return None
    return trial if trial.failures else trial.unpublished


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=0)
