"""What is to be said of each compile cache, as the last round saw it."""

from __future__ import annotations

import threading
from collections.abc import Container, Mapping
from dataclasses import dataclass

import structlog

from modelcache.api.nodecache import CompileReport, CompileState
from modelcache.catalog import Catalog, ObjectKey
from modelcache.compilecache.keys.facts import NodeFacts
from modelcache.compilecache.starts.holding import Holding
from modelcache.planning.compilebudget import Running
from modelcache.planning.compilechoosing import Need
from modelcache.planning.compiledescribing import Known as Described
from modelcache.planning.compiledescribing import describe
from modelcache.planning.compiletrials import CompileTrial
from modelcache.service.compilecache.bundles import Known
from modelcache.service.compilecache.needs import Asked
from modelcache.service.compilecache.starts import StartBook

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Round:
    """What one round saw.

    Attributes:
        catalog: in force.
        asked, needs: each object that selects this node.
        known: the bundles on this node.
        trials, running, waiting: what was tried, what runs, whose work waits for others'.
        facts: what the node compiles for.
    """

    catalog: Catalog
    asked: Mapping[str, Asked]
    needs: Mapping[str, Need]
    known: Mapping[str, tuple[Known, ...]]
    trials: Mapping[str, CompileTrial]
    running: Mapping[str, Running]
    waiting: Container[str]
    facts: NodeFacts | None


class Telling:
    """The reports. Updated from one thread, read from any."""

    def __init__(
        self, holding: Holding, starts: StartBook, remembered: tuple[CompileReport, ...]
    ) -> None:
        """`remembered`: what was last reported: true until this process knows better."""
        self._holding = holding
        self._starts = starts
        self._remembered = {report.name: report for report in remembered}
        self._mutex = threading.Lock()
        self._reports = remembered

    def reports(self) -> tuple[CompileReport, ...]:
        """What is to be said of each object, by name."""
        with self._mutex:
            return self._reports

    def update(self, seen: Round) -> None:
        """Say it anew of every object that selects this node."""
        before = {report.name: report for report in self._reports}
        found = {}
        for name, need in seen.needs.items():
            old = before.get(name)
            last = self._remembered.get(name) or old
            # In a moment it will be known: that alone is no news, and takes no label off.
            same = last is not None and last.spec_digest == need.spec
            if need.key is None and not seen.asked[name].why and last is not None and same:
                found[name] = last
                continue
            report = self._describe(name, need, seen)
            # The same object where nothing is new: who compares later has little to do.
            found[name] = old if old == report else report
            self._remembered.pop(name, None)
        for name, last in list(self._remembered.items()):
            if name not in seen.needs and is_doubtful(seen.catalog, name):
                found[name] = last
            elif name not in seen.needs:
                del self._remembered[name]
        reports = tuple(found[name] for name in sorted(found))
        with self._mutex:
            self._reports = reports
        # Last: who reads the log and then asks is to be told the same.
        for report in reports:
            _log(report, before.get(report.name))

    def _describe(self, name: str, need: Need, seen: Round) -> CompileReport:
        mine = seen.known.get(name, ())
        last_start, last_miss = self._starts.last(name)
        return describe(
            name,
            need,
            [each.bundle for each in mine],
            seen.trials.get(name),
            seen.running.get(name),
            Described(
                why_no_key=seen.asked[name].why,
                model=seen.asked[name].cache.spec.model,
                accelerator=_accelerator(seen.facts),
                sizes={each.bundle.digest: each.held.bytes for each in mine},
                verified=self._starts.verified(name),
                withdrawn=self._starts.withdrawn(name),
                last_start=last_start,
                last_miss=last_miss,
                path=str(self._holding.layout.compile_cache(name)),
            ),
            waits=name in seen.waiting,
        )


def is_doubtful(catalog: Catalog, name: str) -> bool:
    """Whether something that can't be read may be the object."""
    key = ObjectKey("CompileCache", name)
    return any(problem.may_be(key) for problem in catalog.problems)


def _accelerator(facts: NodeFacts | None) -> str | None:
    if facts is None:
        return None
    found = facts.accelerator
    if found.vendor == "cpu":
        return f"CPU {facts.cpu.arch} {facts.cpu.isa}"
    return f"{found.product} {found.mig}".strip()


def _log(report: CompileReport, before: CompileReport | None) -> None:
    was = before.digest if before and before.state is CompileState.READY else None
    if report.state is CompileState.READY and report.digest != was:
        log.info(
            "compile_cache.ready",
            compile_cache=report.name,
            digest=report.digest,
            key=(report.key or "")[:12],
            bytes=report.bytes,
        )
    if report.attempts and (before is None or report.attempts != before.attempts):
        log.warning(
            "compile_cache.failed",
            compile_cache=report.name,
            reason=report.reason,
            message=report.message,
            attempts=report.attempts,
            retry_at=report.retry_at.isoformat() if report.retry_at else None,
        )
    elif (
        report.state is not CompileState.READY
        and report.message
        and (before is None or before.message != report.message)
    ):
        log.info(
            "compile_cache.not_ready",
            compile_cache=report.name,
            state=report.state.value,
            message=report.message,
        )
