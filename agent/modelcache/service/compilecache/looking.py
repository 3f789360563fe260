"""Looking at a place: which bundles it has for a key, and which of them are taken."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

import structlog

from modelcache.compilecache.bundles.statement import Statement
from modelcache.compilecache.keys.differing import nearest
from modelcache.compilecache.keys.parts import Key
from modelcache.compilecache.places.fetching import MAX_LOOKED_AT, UNREAD, Admitted, admit
from modelcache.compilecache.places.protocol import Place, Placed
from modelcache.errors import BrokenBundle, ModelCacheError, NotFound, Untrusted
from modelcache.planning.compiletrials import Offer
from modelcache.service.compilecache.jobs import Job, Looked
from modelcache.transfer import Cancel

log = structlog.get_logger(__name__)

_MOST_OFFERS: Final = 8
"""So many of the newest generations of a key that may be taken."""
_MOST_OTHERS: Final = 8
"""So many other keys are looked into, to say in what they differ."""
_MOST_DIFFERENCES: Final = 3
_MOST_KNOWN: Final = 8192


class Looking:
    """Looks, and remembers what was decided of bundles: a digest is always the same bytes. Safe
    for threads."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[object, ...], Offer | str] = OrderedDict()
        self._mutex = threading.Lock()

    def look(self, place: Place, job: Job, cancel: Cancel) -> Looked:
        """What a place has for a job's key, the newest first.

        What is not taken is passed over: who may write to a place but can't sign, and who publishes
        for another object there, keeps nobody from what is good.

        Raises:
            ModelCacheError: the place can't be asked; Cancelled.
        """
        # In a registry each costs a request: mostly the newest few are enough.
        for most in (_MOST_OFFERS, MAX_LOOKED_AT):
            generations = place.generations(job.key.digest, most)
            offers, refused, unread = self._sort(place, generations, job, cancel)
            if offers or len(generations) < most:
                break
        if unread is not None and not offers:
            raise unread
        said = ""
        if job.explain and not offers:
            said = _nearest(place, job, cancel)
        return Looked(tuple(offers), refused, said)

    def _sort(
        self, place: Place, generations: Iterable[Placed], job: Job, cancel: Cancel
    ) -> tuple[list[Offer], dict[str, str], ModelCacheError | None]:
        """Which of some bundles may be taken, why others are not, and what can't be read."""
        offers: list[Offer] = []
        refused: dict[str, str] = {}
        unread: ModelCacheError | None = None
        for placed in generations:
            try:
                found = self._of(place, placed, job, cancel)
            except NotFound:
                continue  # it was removed meanwhile
            except UNREAD as error:
                log.warning("bundle.unread", digest=placed.digest, message=str(error))
                unread = unread or error
                continue
            if isinstance(found, str):
                refused[placed.digest] = found
            else:
                offers.append(found)
            if len(offers) == _MOST_OFFERS:
                break
        return offers, refused, unread

    def _of(self, place: Place, placed: Placed, job: Job, cancel: Cancel) -> Offer | str:
        """A bundle as it may be taken for the job's object, or why it is not."""
        trust = job.trust
        key = job.work.name, job.place, placed, tuple(trust.keys), frozenset(trust.digests)
        with self._mutex:
            found = self._known.get(key)
            if found is not None:
                self._known.move_to_end(key)
                return found
        try:
            at = own(place, placed, job, cancel).statement.created_at
            found = Offer(placed.digest, at.timestamp())
        except (Untrusted, BrokenBundle) as error:
            found = str(error)
        with self._mutex:
            self._known[key] = found
            while len(self._known) > _MOST_KNOWN:
                self._known.popitem(last=False)
        return found


def own(place: Place, placed: Placed, job: Job, cancel: Cancel) -> Admitted:
    """A bundle that is the object's own: another one may have the same key, and the same place,
    and other publishers.

    Raises:
        Untrusted: it is another's, or as `admit`.
        ModelCacheError: as `admit`.
    """
    found = _admit(place, placed, job, cancel)
    name = job.work.name
    if found.statement.name != name:
        raise Untrusted(f"it is a bundle of {found.statement.name}, not of {name}")
    return found


def _admit(place: Place, placed: Placed, job: Job, cancel: Cancel) -> Admitted:
    return admit(place, placed, job.trust, cancel, limits=job.limits)


def _nearest(place: Place, job: Job, cancel: Cancel) -> str:
    """In what the nearest of some bundles for other keys differs from what is wanted here."""
    keys: list[Key] = []
    names: dict[str, str] = {}
    for key in place.keys()[:_MOST_OTHERS]:
        for placed in place.generations(key, 1):
            with suppress(NotFound, Untrusted, BrokenBundle, *UNREAD):
                statement: Statement = _admit(place, placed, job, cancel).statement
                keys.append(statement.key)
                names[keys[-1].digest] = statement.name
    told = nearest(job.key, keys)
    if told is None:
        return ""
    other, differing = told
    whose = names[other.digest]
    whose = "" if whose == job.work.name else f" (of {whose})"
    sentences = [difference.sentence for difference in differing[:_MOST_DIFFERENCES]]
    if len(differing) > _MOST_DIFFERENCES:
        sentences.append(f"and {len(differing) - _MOST_DIFFERENCES} more")
    return f"the nearest bundle there{whose} differs: {', '.join(sentences)}"
