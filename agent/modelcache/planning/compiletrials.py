"""What the agent remembers of its tries with a compile cache: pure, and kept in memory only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from modelcache.errors import Reason
from modelcache.planning.trials import Delay, Failure


@dataclass(frozen=True, slots=True)
class Offer:
    """A bundle for the key that the place has."""

    digest: str
    created_at: float


@dataclass(frozen=True, slots=True)
class CompileTrial:
    """What is remembered of one object's tries; another spec or key begins anew.

    Attributes:
        offers: what the place was found to have for the key.
        looked_at: when, in seconds since the epoch.
        hinted: the hints that were known then: another look is no use for them.
        refused: digests that can't be used, which another try won't change; with why.
        nearest: what the place has for other keys, as a sentence.
        failures: in a row.
        reason, message: of the last one.
        retry_at: when it is tried again, in seconds since the epoch.
        unfetched: the bundle whose fetch failed; None: it was a look.
        unpublished: why the last try to publish failed: who may only read goes on looking and
            fetching.
    """

    spec: str
    key: str
    offers: tuple[Offer, ...] = ()
    looked_at: float | None = None
    hinted: frozenset[str] = frozenset()
    refused: Mapping[str, str] = field(default_factory=dict)
    nearest: str = ""
    failures: int = 0
    reason: Reason | None = None
    message: str | None = None
    retry_at: float = 0.0
    unfetched: str | None = None
    unpublished: Failure | None = None

    def looked(
        self,
        offers: Iterable[Offer],
        hinted: frozenset[str],
        nearest: str,
        now: float,
        refused: Mapping[str, str] | None = None,
    ) -> CompileTrial:
        """The place has answered. `refused`: what it has that can't be used, with why.

        A bundle that could not be fetched, and is there still, is tried no sooner for that.
        """
        found = tuple(offers)
        there = {offer.digest for offer in found}
        before = {digest: why for digest, why in self.refused.items() if digest in there}
        return replace(
            self if self.unfetched in there else self.succeeded(),
            offers=found,
            looked_at=now,
            hinted=hinted,
            refused={**before, **(refused or {})},
            nearest=nearest,
        )

    def succeeded(self) -> CompileTrial:
        """What was begun came to its end."""
        return replace(self, failures=0, reason=None, message=None, retry_at=0.0, unfetched=None)

    def published(self) -> CompileTrial:
        """What was made here is at its place."""
        return replace(self, unpublished=None)

    def not_published(self, error: BaseException, now: float, delay: Delay) -> CompileTrial:
        """Publishing failed; `delay` is `transfer.delay`."""
        failures = self.unpublished.failures + 1 if self.unpublished else 1
        return replace(self, unpublished=Failure.of(error, failures, now, delay))

    def refuse(self, digest: str, why: str) -> CompileTrial:
        """A bundle can't be used: it is not fetched again as long as it lies there as it is."""
        return replace(self, refused={**self.refused, digest: why})

    def failed(
        self, error: BaseException, now: float, delay: Delay, unfetched: str | None = None
    ) -> CompileTrial:
        """A try failed, of looking or of fetching a bundle; `delay` is `transfer.delay`."""
        failure = Failure.of(error, self.failures + 1, now, delay)
        return replace(
            self,
            failures=failure.failures,
            reason=failure.reason,
            message=failure.message,
            retry_at=failure.retry_at,
            unfetched=unfetched,
        )
