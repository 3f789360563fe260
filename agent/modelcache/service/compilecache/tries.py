"""What is remembered of tries: what came of each job, and when there may be another."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Mapping
from dataclasses import replace
from typing import Final

import structlog

from modelcache.compilecache.starts.holding import Holding
from modelcache.errors import BrokenBundle, BrokenContent, ModelCacheError, Untrusted
from modelcache.planning.compileactions import Fetch, Publish
from modelcache.planning.compiletrials import CompileTrial
from modelcache.service.compilecache.crew import GoneHere
from modelcache.service.compilecache.jobs import Result
from modelcache.service.compilecache.needs import Asked
from modelcache.service.compilecache.outbox import Outbox
from modelcache.transfer import delay

log = structlog.get_logger(__name__)

_EXPLAIN_SECONDS: Final = 3600.0


class Tries:
    """The tries of one node. For one thread."""

    def __init__(
        self, holding: Holding, outbox: Outbox, clock: Callable[[], float] = time.time
    ) -> None:
        """`clock`: seconds since the epoch."""
        self._holding = holding
        self._outbox = outbox
        self._clock = clock
        self._trials: dict[str, CompileTrial] = {}
        self._explained: dict[str, float] = {}

    @property
    def trials(self) -> Mapping[str, CompileTrial]:
        """By object."""
        return self._trials

    def forget(self) -> None:
        """Begin anew with all."""
        self._trials.clear()

    def keep(self, names: Container[str]) -> None:
        """Forget the tries of all other objects."""
        self._trials = {name: trial for name, trial in self._trials.items() if name in names}
        self._explained = {name: at for name, at in self._explained.items() if name in names}

    def explains(self, name: str) -> bool:
        """Whether a look that begins now is to say what the place has for other keys: that costs
        some questions, and is not asked for each time."""
        now = self._clock()
        due = now >= self._explained.get(name, 0.0)
        if due:
            self._explained[name] = now + _EXPLAIN_SECONDS
        return due

    def judge(self, result: Result, asked: Mapping[str, Asked]) -> None:
        """Take in the end of a job.

        Args:
            result: how it ended.
            asked: what objects ask for now.

        Raises:
            ModelCacheError, OSError: this node's own disk fails.
        """
        job, error = result.job, result.error
        name = job.work.name
        now = asked.get(name)
        # Whoever asks for the object now; but where that names another place, it is to be there.
        moved = now is not None and now.place != job.place
        if isinstance(job.work, Publish) and (not moved if error is None else _is_final(error)):
            self._outbox.take(name, job.work.digest)
            if error is not None:
                log.error("bundle.not_published", compile_cache=name, message=str(error))
                return
        if now is None or (now.spec, now.key or job.key) != (job.spec, job.key):
            return
        # A key that is not known for a moment is no other.
        now = replace(now, key=job.key)
        if error is not None and result.stopped:
            return
        trial = self._trial(name, now)
        if result.looked is not None:
            looked = result.looked
            said = looked.nearest or (trial.nearest if not job.explain else "")
            self._trials[name] = trial.looked(
                looked.offers, job.hinted, said, self._clock(), looked.refused
            )
            for digest, why in looked.refused.items():
                if digest not in trial.refused:
                    log.warning("bundle.refused", compile_cache=name, digest=digest, message=why)
        elif isinstance(job.work, Fetch) and isinstance(error, Untrusted | BrokenBundle):
            log.warning(
                "bundle.refused", compile_cache=name, digest=job.work.digest, message=str(error)
            )
            self._trials[name] = trial.refuse(job.work.digest, str(error))
        elif isinstance(job.work, Publish):
            self._trials[name] = (
                trial.not_published(error, self._clock(), delay)
                if error is not None
                else trial.published()
            )
        elif isinstance(job.work, Fetch) and error is not None:
            self._trials[name] = trial.failed(error, self._clock(), delay, job.work.digest)
        elif error is not None:
            self.fail(name, now, error)
        elif isinstance(job.work, Fetch) and not self._is_here(name, job.work.digest):
            # Without a pause it would be fetched again and again.
            lost = ModelCacheError("the bundle that was fetched is not there any more")
            self.fail(name, now, lost)
        else:
            self._trials[name] = trial.succeeded()

    def fail(self, name: str, asked: Asked, error: BaseException) -> None:
        """What was tried for an object failed."""
        self._trials[name] = self._trial(name, asked).failed(error, self._clock(), delay)

    def was_tried(self, name: str) -> bool:
        """Whether its place has answered, or failed to."""
        trial = self._trials.get(name)
        return trial is not None and (trial.looked_at is not None or trial.failures > 0)

    def _is_here(self, name: str, digest: str) -> bool:
        hexadecimal = digest.removeprefix("sha256:")
        return any(held.digest == hexadecimal for held in self._holding.of(name))

    def _trial(self, name: str, asked: Asked) -> CompileTrial:
        key = asked.key.digest if asked.key is not None else ""
        trial = self._trials.get(name)
        if trial is None or (trial.spec, trial.key) != (asked.spec, key):
            return CompileTrial(asked.spec, key)
        return trial


def _is_final(error: BaseException) -> bool:
    """Whether a bundle will never be published: it is broken, or gone."""
    return isinstance(error, BrokenBundle | BrokenContent | GoneHere)
