"""Where a start's bundle comes from: what this machine holds, else the place where all publish."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Final, Literal

from modelcache.compilecache.bundles.local import LocalBundle
from modelcache.compilecache.bundles.trust import Trust
from modelcache.compilecache.keys.differing import Difference, nearest
from modelcache.compilecache.keys.parts import Key
from modelcache.compilecache.places.fetching import BundleFetcher, admitted
from modelcache.compilecache.places.protocol import Place, Placed
from modelcache.compilecache.starts.finding import Passed, find
from modelcache.compilecache.starts.holding import Held, Holding
from modelcache.compilecache.starts.marks import Marks
from modelcache.errors import BrokenBundle, ModelCacheError, NotFound
from modelcache.transfer.cancelling import Cancel

MAX_COMPARED: Final = 256
"""Bundles whose keys are compared with one that nothing was found for."""


@dataclass(frozen=True, slots=True)
class Sourced:
    """What there is for a start.

    Attributes:
        bundle: what to seed from; None: nothing.
        source: where it came from.
        passed: bundles for the same key that were not taken, with their reasons.
        differences: where nothing is for the key, in what the nearest bundle here differs.
        trouble: why the place could not be asked, or not fetched from.
    """

    bundle: LocalBundle | None = None
    source: Literal["held", "place", "nothing"] = "nothing"
    passed: tuple[Passed, ...] = ()
    differences: tuple[Difference, ...] = ()
    trouble: str = ""

    @property
    def message(self) -> str:
        """Why there is nothing, or what was passed over; empty: there is nothing to say."""
        told = [self.trouble] if self.trouble else []
        told += [passed.why for passed in self.passed]
        if self.bundle is None and not told:
            if not self.differences:
                return "there is no bundle yet"
            told = [difference.sentence for difference in self.differences[:3]]
            return f"there is no bundle for this key; of the nearest one {'; '.join(told)}"
        return "; ".join(told)


@dataclass(frozen=True)
class Sources:
    """Where bundles of one compile cache are looked for."""

    name: str
    holding: Holding
    marks: Marks
    trust: Trust
    place: Place | None = None
    fetcher: BundleFetcher | None = None
    """Goes with the place."""

    def look(self, key: Key, cancel: Cancel) -> Sourced:
        """Find a bundle for a key, and have it on this machine.

        A place that can't be asked is no error: the engine compiles, then.

        Raises:
            Cancelled
            UnsafePath: no compile cache can have that name.
        """
        found = find(self.holding, self.marks, self.trust, self.name, key.digest)
        if found.bundle is not None:
            return Sourced(found.bundle, "held", found.passed)
        passed, trouble = [*found.passed], ""
        if self.place is not None:
            try:
                bundle = self._fetch(self.place, key.digest, passed, cancel)
                if bundle is not None:
                    return Sourced(bundle, "place", tuple(passed))
            except ModelCacheError as error:
                cancel.check()
                trouble = f"{self.place.uri} could not be used: {error}"
        told = nearest(key, islice(keys_of(self.holding.all()), MAX_COMPARED))
        return Sourced(passed=tuple(passed), differences=told[1] if told else (), trouble=trouble)

    def _fetch(
        self, place: Place, key: str, passed: list[Passed], cancel: Cancel
    ) -> LocalBundle | None:
        assert self.fetcher is not None, "a place without its fetcher"

        def refuse(placed: Placed, error: ModelCacheError) -> None:
            passed.append(Passed(placed.digest, str(error)))

        for each in admitted(place, key, self.trust, cancel, refused=refuse):
            digest = each.placed.digest.removeprefix("sha256:")
            mark = self.marks.of(self.name, digest)
            if mark.withdrawn:
                why = f"the bundle {digest[:12]} is withdrawn: {mark.message}"
                passed.append(Passed(each.placed.digest, why))
                continue
            into = self.holding.layout.compile_bundle(self.name, key, digest)
            bundle = self.fetcher.fetch(place, each, into, cancel, name=self.name)
            self.holding.show(self.name, key, digest)
            return bundle
        return None


def keys_of(held: Iterable[Held]) -> Iterable[Key]:
    """The keys of bundles, as far as they can be read; whether they are trusted doesn't matter."""
    for each in held:
        try:
            yield each.open().statement.key
        except (BrokenBundle, NotFound):
            continue
