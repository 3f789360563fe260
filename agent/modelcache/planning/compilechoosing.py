"""Which bundle a node shows, fetches and publishes for one object.

One is shown only while its key is this node's for the object, somebody who is trusted vouches for
it, and it was not withdrawn. Of several that are, the newest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from modelcache.api import CompileCache
from modelcache.planning.compiletrials import CompileTrial, Offer

OLDER_AFTER: Final = 3
"""Failed fetches in a row after which another bundle is tried, where none is here."""


def spec_digest(cache: CompileCache) -> str:
    """16 hex digits of what an object says: the same for the same words, whatever its generation.

    Who reports by it is understood when an object was changed and changed back.
    """
    text = cache.spec.model_dump_json(by_alias=True, exclude_defaults=True)
    return sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Need:
    """What one object asks of this node.

    Attributes:
        spec: the object's `spec_digest`: where it is another, all begins anew.
        place: what tells the place from others: of one that hangs only so many are asked at a time.
        key: this node's key for it; None: not known (yet).
        published: digests that others say were published for the key: reasons to look.
        withdrawn: digests that are to be seeded nowhere.
    """

    spec: str
    place: str
    key: str | None
    published: frozenset[str] = frozenset()
    withdrawn: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class HeldBundle:
    """A bundle on this node.

    Attributes:
        key: what it was compiled for.
        digest: its statement's.
        created_at: seconds since the epoch.
        usable: whether it is whole and trusted.
        shown: whether `current` leads to it.
        outgoing: whether it was made here and is not at the place yet.
    """

    key: str
    digest: str
    created_at: float
    usable: bool = True
    shown: bool = False
    outgoing: bool = False


def best(need: Need, held: Iterable[HeldBundle]) -> HeldBundle | None:
    """The bundle that is to be seeded from: the newest of those that may be."""
    return max(filter(lambda h: _may_be(need, h), held), key=age_of, default=None)


def idle(need: Need, held: Sequence[HeldBundle]) -> set[str]:
    """Digests of the bundles that are of no use to this node.

    One that is not at its place yet is, to others: unless nobody would take it there.
    """
    chosen = best(need, held)
    if need.key is None:
        chosen = next((h for h in held if h.shown and stays_shown(need, h)), None)
    return {h.digest for h in held if h is not chosen and not is_to_be_published(need, h)}


def stays_shown(need: Need, shown: HeldBundle) -> bool:
    """Whether a bundle is shown on while this node's key is not known: that may be the same in a
    moment, and the bundle was right when it was shown."""
    return need.key is None and shown.usable and shown.digest not in need.withdrawn


def is_to_be_published(need: Need, bundle: HeldBundle) -> bool:
    """Whatever its key is: others may have that one."""
    return bundle.outgoing and bundle.usable and bundle.digest not in need.withdrawn


def _may_be(need: Need, bundle: HeldBundle) -> bool:
    return bundle.usable and bundle.key == need.key and bundle.digest not in need.withdrawn


def age_of(bundle: HeldBundle | Offer) -> tuple[float, str]:
    """What the newest has most of."""
    return bundle.created_at, bundle.digest


def offered(need: Need, held: Sequence[HeldBundle], trial: CompileTrial) -> Offer | None:
    """The bundle to fetch: the newest of the place's, if it is newer than all that is here."""
    chosen = best(need, held)
    # What is here and not usable was fetched before: fetched again it would be the same.
    passed_over = {*need.withdrawn, *trial.refused, *(h.digest for h in held)}
    offers = [offer for offer in trial.offers if offer.digest not in passed_over]
    if chosen is None and trial.failures >= OLDER_AFTER:
        # Who may write to a place may break the newest there: an older one is better than none.
        offers = [offer for offer in offers if offer.digest != trial.unfetched] or offers
    newest = max(offers, key=age_of, default=None)
    if newest is None or (chosen is not None and age_of(chosen) >= age_of(newest)):
        return None
    return newest
