"""How a start went: whether the engine used the cache that it was given, and if not, why.

The engine's own word counts where it says one (its log). Where it says none, or only that it
compiled, its files do: what is compiled is written, so a start that wrote nothing new had
everything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from modelcache.compilecache.engines.blaming import Blame, MissReason, blame, leaves_nothing
from modelcache.compilecache.engines.elsewhere import Elsewhere
from modelcache.compilecache.engines.evidence import EngineHashes, Evidence

__all__ = ["MissReason", "Result", "Verdict", "judge"]

_NO_HASHES: Final = EngineHashes()


class Result(StrEnum):
    """Whether the engine used what it was given."""

    HIT = "Hit"
    """It compiled nothing."""
    PARTIAL = "Partial"
    """It loaded a part, and compiled the rest."""
    MISS = "Miss"
    """It compiled what it would have without a cache."""
    UNKNOWN = "Unknown"
    """It isn't known to have come so far."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a start went.

    Attributes:
        result: whether it helped.
        compile_seconds: how long the engine compiled, where it says so.
        reason: for all but a hit, the likely reason.
        message: the same as a sentence that says what to do.
    """

    result: Result
    compile_seconds: float | None
    reason: MissReason | None
    message: str


def judge(
    evidence: Evidence,
    *,
    seeded: bool,
    seeded_files: int = 0,
    new_files: int = 0,
    before: EngineHashes = _NO_HASHES,
    after: EngineHashes = _NO_HASHES,
    env: Mapping[str, str] | None = None,
    argv: Sequence[str] = (),
    cache_dir: Path | None = None,
    elsewhere: Sequence[Elsewhere] = (),
    finished: bool = False,
) -> Verdict:
    """Judge a start that is ready, or has ended.

    Args:
        evidence: what was seen of it.
        seeded: whether it was given a bundle.
        seeded_files: how many files that had.
        new_files: wanted files that are new or changed since then.
        before: the hashes that are recorded with the bundle.
        after: the hashes that are in the cache directory now.
        env: the engine's environment, as far as it is known.
        argv: its command line, likewise.
        cache_dir: where its caches were to lie.
        elsewhere: caches that it wrote elsewhere.
        finished: a program that serves nobody did its work.
    """
    known = Blame(
        evidence, before, after, env or {}, tuple(argv), cache_dir, tuple(elsewhere), new_files
    )
    had_all = seeded and not new_files and not leaves_nothing(known)
    result = _result(evidence, seeded, seeded_files, new_files, finished, had_all)
    if result is Result.HIT:
        return Verdict(result, evidence.compile_seconds, None, _praise(evidence))
    if result is Result.PARTIAL and not evidence.load_failures:
        reason, message = MissReason.GREW, _grown(evidence, new_files)
    elif result is Result.UNKNOWN:
        reason, message = _unknown(evidence, known, finished)
        if reason is MissReason.CACHE_ELSEWHERE:
            result = Result.MISS
    elif not seeded and not evidence.load_failures:
        reason, message = _not_seeded(known)
    else:
        reason, message = blame(known)
    return Verdict(result, evidence.compile_seconds, reason, message)


def _result(
    evidence: Evidence,
    seeded: bool,
    seeded_files: int,
    new_files: int,
    finished: bool,
    had_all: bool,
) -> Result:
    if evidence.load_failures:
        return Result.PARTIAL if evidence.loaded else Result.MISS
    if evidence.source == "log" and (evidence.compiled or evidence.loaded):
        # vLLM says that it compiles, too, where Inductor finds the graph in its own cache.
        if had_all or not evidence.compiled:
            return Result.HIT
        return Result.PARTIAL if evidence.loaded else Result.MISS
    if not (evidence.ready or finished):
        return Result.UNKNOWN
    if not seeded:
        return Result.MISS if new_files else Result.UNKNOWN
    if not new_files:
        return Result.HIT
    return Result.PARTIAL if new_files < seeded_files else Result.MISS


def _praise(evidence: Evidence) -> str:
    if evidence.compiled or not evidence.loaded:
        return "the engine wrote nothing new to its caches: all that it needed was there"
    loaded = _counted(evidence, evidence.loaded)
    return f"the engine loaded {loaded} from the cache, and compiled none"


def _grown(evidence: Evidence, new_files: int) -> str:
    what = (
        f"{_counted(evidence, evidence.compiled)} compiled, {evidence.loaded} loaded"
        if evidence.loaded and evidence.compiled
        else f"{new_files} new files"
    )
    return (
        f"the cache had a part of what this start needed ({what}): the whole is captured as a new"
        " generation, and later starts have all of it"
    )


def _counted(evidence: Evidence, count: int) -> str:
    """What evidence counts: graphs where the engine says so, else files."""
    noun = "graph" if evidence.source == "log" else "file"
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _unknown(evidence: Evidence, known: Blame, finished: bool) -> tuple[MissReason, str]:
    if known.elsewhere:
        return MissReason.CACHE_ELSEWHERE, _all(known.elsewhere)
    if not (evidence.ready or finished):
        return (
            MissReason.NOT_READY,
            "the engine was not seen to serve, so nothing is known of its compiling: see its log",
        )
    return (
        MissReason.NOTHING_COMPILED,
        (
            "nothing was compiled, as far as was seen: with --enforce-eager, or a program without"
            " torch.compile, a compile cache is of no use"
        ),
    )


def _not_seeded(known: Blame) -> tuple[MissReason, str]:
    if known.elsewhere and not known.new_files:
        return MissReason.CACHE_ELSEWHERE, _all(known.elsewhere)
    return (
        MissReason.NOTHING_SEEDED,
        (
            "there was no bundle for this key, so the engine compiled; modelcache compile explain"
            " says in what other bundles differ"
        ),
    )


def _all(elsewhere: Sequence[Elsewhere]) -> str:
    return "; ".join(cache.sentence for cache in elsewhere)
