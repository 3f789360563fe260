"""Room on the disk: found before a fetch begins, or made, by letting go what may.

What goes is `planning.evicting`'s to decide, in each round anew. It goes in steps: it is told of,
so that the node's label goes; some seconds pass; who uses it is asked again; then it is removed.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Collection, Container, Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol

import structlog

from modelcache.errors import InsufficientDisk, ModelCacheError
from modelcache.planning.candidates import Candidate
from modelcache.planning.evicting import (
    Above,
    Amount,
    Decision,
    Going,
    Room,
    Rule,
    decide,
)
from modelcache.planning.leftovers import Leftover
from modelcache.planning.shortage import Newcomer, shortage
from modelcache.planning.using import Uses
from modelcache.service.keptroom import KeptRoom
from modelcache.service.lettinggo import evict, may_go
from modelcache.service.refusing import Refused, refusal
from modelcache.service.shortfall import Shortfall
from modelcache.service.surroundings import Surroundings
from modelcache.store import MODEL_NAMES_BYTES, DiskSpace, Store, human_size, promised_for
from modelcache.transfer import Missing

log = structlog.get_logger(__name__)

_SETTLE_SECONDS: Final = 5.0
"""Between telling and removing: a pod that was just placed here shows itself meanwhile."""
_BUSY_SECONDS: Final = 600.0
_PLENTY: Final = 1 << 62
"""Inodes where the file system makes them as they are needed."""


class Eviction(Protocol):
    """Who is told."""

    def evicted(self, going: Going, freed: int) -> None:
        """Something went; `freed` is what that freed really, in bytes."""

    def blocked(self, model: str, message: str) -> None:
        """Nothing that may go makes room enough for a model."""

    def short(self, size: int) -> None:
        """So many bytes are missing for all models together that are wanted and don't fit."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds of evicting.

    Attributes:
        grace: seconds for which content is kept that nothing wants; None: for ever.
        high, low: above this part of what the cache may take, what nothing needs goes down to that.
    """

    grace: float | None = None
    high: float = 0.9
    low: float = 0.8


class Evicting:
    """Room for what comes. Used from one thread: `look`, then `admit` for each, then `carry_out`.

    `waiting` has why a fetch waits for room, by model; `leaving` the models that are not to be told
    of as ready any more, and why.
    """

    def __init__(
        self,
        *,
        store: Store,
        surroundings: Surroundings,
        rules: Rules,
        told: Eviction,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` gives seconds since the epoch."""
        self._store = store
        self._surroundings = surroundings
        self._rules = rules
        self._told = told
        self._clock = clock
        self._candidates: tuple[Candidate, ...] = ()
        self._leftovers: Callable[[], tuple[Leftover, ...]] = tuple
        self._running: Collection[str] = ()
        self._space = DiskSpace(capacity=0, available=0, reserved=0)
        self._is_exact = False
        self._uses = Uses()
        self._known: Uses | None = None
        self._physical = self._virtual = Amount()
        self._claims: dict[str, Amount] = {}
        self._kept = KeptRoom()
        self._rooms: list[tuple[str, int, Amount, Decision]] = []
        self._marks: dict[tuple[str, tuple[str, ...], Rule], float] = {}
        self._short = Shortfall()
        self._busy: dict[tuple[str, str], float] = {}
        """What somebody was at work on when it was to go, and when that was."""
        self._stopping: set[str] = set()
        self.waiting: dict[str, str] = {}
        self.leaving: dict[str, str] = {}
        self.eased = False
        """Whether somebody uses nothing any more who did before the last `look`."""

    def look(
        self,
        candidates: tuple[Candidate, ...],
        wanted: Container[str],
        running: Collection[str],
        leftovers: Callable[[Mapping[str, int]], tuple[Leftover, ...]] = lambda _: (),
    ) -> None:
        """Begin a round.

        Args:
            candidates: what is here.
            wanted: the models that are to be fetched, now or when they are tried again.
            running: the models whose fetch runs.
            leftovers: gives what else takes room, for the bytes that each fetch which runs was
                promised and has not taken yet; asked only where some room is needed.
        """
        now = self._clock()
        self._candidates = candidates
        self._leftovers = functools.cache(lambda: leftovers(self._promised()))
        before, self._known = self._uses, None
        self._rooms = []
        self.waiting = {}
        self._claims = {name: claim for name, claim in self._claims.items() if name in running}
        self._kept.look(wanted, now)
        self._running = running
        self._stopping &= set(running)
        self._short.look(wanted)
        # Who uses what is asked only where it matters: it takes some work to tell.
        self.eased = bool(self._short) and _eased(before, self._now())
        self._measure(exact=False)

    def _now(self) -> Uses:
        """Who uses what, asked once in a round."""
        if self._known is None:
            self._known = self._uses = self._surroundings.uses()
        return self._known

    def _measure(self, *, exact: bool) -> None:
        """How much is left, really, and when all that is to go has gone."""
        space = self._store.space.measure(exact=exact)
        for promise in space.promises:
            self._claims.pop(promise.what, None)
        left = Amount(
            space.budget - space.used - space.reserved,
            _PLENTY if space.inodes_free is None else space.inodes_free,
        )
        for claim in self._claims.values():
            left -= claim
        self._physical = self._virtual = left
        for _, _, need, decision in self._rooms:
            self._virtual += decision.frees - need
        self._space = space
        self._is_exact = exact

    def admit(self, name: str, priority: int, missing: Missing) -> bool:
        """Whether a fetch may begin now. If not, room is being made for it.

        Raises:
            InsufficientDisk: it doesn't fit, whatever goes that may; naming what holds the rest.
        """
        promise = promised_for(missing.bytes, missing.files, name, MODEL_NAMES_BYTES)
        need = Amount(promise.bytes + promise.names, promise.inodes)
        self._kept.needs(name, need)
        takes = self._made_room_for(name)
        if takes is not None:
            self.waiting[name] = f"waits: what it has makes room for {takes}"
            return False
        others = self._kept.before(name, priority, {*self._claims, *self._running})
        lack = (self._virtual - others).lacks(need)
        if lack and not self._is_exact:
            # Nothing goes, and nobody is refused, on account of a guess.
            self._measure(exact=True)
            lack = (self._virtual - others).lacks(need)
        if not lack:
            self._short.fits(name)
            if (self._physical - others).lacks(need):
                self.waiting[name] = "waits: room is being made"
                return False
            self._claims[name] = need
            self._physical -= need
            self._virtual -= need
            return True
        decision = decide(
            self._staying(),
            self._now(),
            Room(name, priority, lack, missing.shares),
            now=self._clock(),
            grace=self._rules.grace,
            leftovers=self._left(),
        )
        if decision.missing:
            self._short.refused(Newcomer(name, priority, need, shares=missing.shares))
            message = refusal(
                Refused(
                    name,
                    need,
                    (self._virtual - others).bytes,
                    kept=others,
                    promised=self._space.reserved + sum(c.bytes for c in self._claims.values()),
                ),
                decision,
                self._space,
                self._store.layout.root,
            )
            self._told.blocked(name, message)
            left = max(0, (self._virtual - others).bytes)
            raise InsufficientDisk(message, needed=need.bytes, available=left)
        self._short.fits(name)
        self._rooms.append((name, priority, need, decision))
        self._virtual += decision.frees - need
        models = ", ".join(dict.fromkeys(going.model for going in decision.going))
        self.waiting[name] = f"waits: {human_size(lack.bytes)} are missing, so {models} makes room"
        return False

    def carry_out(self, stop: Callable[[str], None]) -> bool:
        """Let go what is due, and note what is to go; `stop` has what runs for a model stopped.

        Returns:
            Whether something went.
        """
        decisions = [decision for _, _, _, decision in self._rooms] or self._above()
        going = [each for decision in decisions for each in decision.going]
        now = self._clock()
        # A clock that was set back holds nothing up.
        self._marks = {key: min(now, self._marks.get(key, now)) for key in map(_key, going)}
        self.leaving = {
            each.model: f"makes room for {name}: {each.why}"
            for name, _, _, decision in self._rooms
            for each in decision.going
            if each.whole
        }
        for name in self.leaving:
            stop(name)
        self._stop_fetches(stop, now)
        self._told.short(self._short.bytes(self._missing_for))
        done = False
        for decision in decisions:
            if all(self._is_due(each, now) for each in decision.going):
                done |= self._let_go(decision)
        return done

    def _stop_fetches(self, stop: Callable[[str], None], now: float) -> None:
        """Have the fetches stopped that make room: what goes of them is decided when they ended."""
        for name, priority, need, decision in self._rooms:
            fetches = [each for each in decision.going if self._is_fetched(each)]
            for going in fetches:
                if going.model not in self._stopping:
                    why = f"makes room for {name}: {going.why}"
                    log.info("fetch.stopped", model=going.model, message=why)
                stop(going.model)
            if fetches:
                self._kept.keep(name, priority, need, now)
            self._stopping |= {going.model for going in fetches}

    def _is_fetched(self, going: Going) -> bool:
        return going.rule is Rule.LOWER_PRIORITY_FETCH and going.model in self._running

    def gone(self, model: str, snapshots: tuple[str, ...], freed: int) -> None:
        """Something that nothing wanted any more was removed, in its time."""
        going = Going(model, snapshots, Rule.UNWANTED, Amount(freed), "nothing wants it any more")
        self._tell(going, freed)

    @property
    def pending(self) -> bool:
        """Whether something is to go soon."""
        return bool(self._marks)

    def _made_room_for(self, name: str) -> str | None:
        """The model for which what a model's fetch has so far is to go."""
        for comes, _, _, decision in self._rooms:
            for going in decision.going:
                if going.model == name and going.rule is Rule.LOWER_PRIORITY_FETCH:
                    return comes
        return None

    def _missing_for(self, newcomers: Collection[Newcomer]) -> Amount:
        """What all of them lack together that don't fit."""
        apart = {each.model for each in newcomers} | {*self._claims, *self._running}
        return shortage(
            [
                replace(each, kept=self._kept.before(each.model, each.priority, apart))
                for each in newcomers
            ],
            self._virtual,
            self._staying(),
            self._now(),
            now=self._clock(),
            grace=self._rules.grace,
            leftovers=self._left(),
        )

    def _staying(self) -> tuple[Candidate, ...]:
        """The candidates less what goes already for others."""
        gone = self._going()
        return tuple(candidate.without(gone) for candidate in self._candidates)

    def _left(self) -> tuple[Leftover, ...]:
        """What else takes room, less what goes already for others."""
        now = self._clock()
        self._busy = {key: at for key, at in self._busy.items() if 0 <= now - at < _BUSY_SECONDS}
        gone = self._going() | self._busy.keys()
        return tuple(each for each in self._leftovers() if (each.model, each.name) not in gone)

    def _promised(self) -> dict[str, int]:
        """Of each fetch that runs the bytes that it has not taken yet."""
        found = dict.fromkeys(self._running, 0)
        for name in found.keys() & self._claims.keys():
            found[name] = self._claims[name].bytes
        for promise in self._space.promises:
            if promise.what in found:
                found[promise.what] += promise.bytes + promise.names
        return found

    def _going(self) -> set[tuple[str, str]]:
        return {
            (going.model, snapshot)
            for _, _, _, decision in self._rooms
            for going in decision.going
            for snapshot in going.snapshots
        }

    def _above(self) -> list[Decision]:
        """What goes because the cache takes more than its high watermark."""
        decision = Decision()
        # First on a guess and as if nobody used anything: mostly nothing is to go, and that is
        # told without any work.
        for exact in (False, True):
            space = self._store.space.measure(exact=exact)
            if space.used <= space.budget * self._rules.high:
                return []
            above = Above(Amount(int(space.used - space.budget * self._rules.low)))
            uses, now, grace = self._now() if exact else Uses(), self._clock(), self._rules.grace
            decision = decide(
                self._candidates, uses, above, now=now, grace=grace, leftovers=self._left()
            )
            if not decision.going:
                return []
        # One by one: each that is due helps.
        return [Decision((going,)) for going in decision.going]

    def _is_due(self, going: Going, now: float) -> bool:
        if not going.is_model:
            return not self._is_fetched(going)  # nobody was told that it is there
        if now - self._marks.get(_key(going), now) < _SETTLE_SECONDS:
            return False
        if going.whole and going.model in self._running:
            return False  # it was told to stop
        if going.rule is Rule.OLD_REVISION:
            return True  # the label speaks of another revision
        labelled = self._surroundings.labelled()
        return labelled is not None and going.model not in labelled

    def _let_go(self, decision: Decision) -> bool:
        uses = self._surroundings.uses()
        if not all(may_go(uses, going) for going in decision.going):
            return False  # decided anew in the next round
        for going in decision.going:
            there = {manifest.snapshot for manifest in self._store.snapshots(going.model)}
            if going.is_model and there.isdisjoint(going.snapshots):
                continue  # gone in its time, in this round
            try:
                freed = evict(self._store, going)
            except (ModelCacheError, OSError) as error:
                log.warning("store.failed", model=going.model, message=str(error))
                self._marks[_key(going)] = self._clock()
                return True
            if not going.is_model and not freed:
                # Somebody is at work on it, or it is open: what comes next goes.
                self._busy |= {(going.model, name): self._clock() for name in going.snapshots}
                continue
            self._tell(going, freed)
            self._marks.pop(_key(going), None)
        for name, priority, need, made in self._rooms:
            if made is decision and any(going.was_wanted for going in decision.going):
                self._kept.keep(name, priority, need, self._clock())
        return True

    def _tell(self, going: Going, freed: int) -> None:
        log.info(
            "model.evicted" if going.is_model else "leftover.removed",
            model=going.model,
            snapshots=list(going.snapshots),
            rule=going.rule.value,
            freed_bytes=freed,
            message=going.why,
        )
        self._told.evicted(going, freed)


def _eased(before: Uses, now: Uses) -> bool:
    if before.unknown is not None and now.unknown is None:
        return True
    left = {(user.kind, user.name) for user in now.users}
    return any((user.kind, user.name) not in left for user in before.users)


def _key(going: Going) -> tuple[str, tuple[str, ...], Rule]:
    return going.model, going.snapshots, going.rule
