"""Content that nothing wants any more: since when, and whether it may be deleted for that."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass

from modelcache.catalog import Catalog, ObjectKey, Severity
from modelcache.host.booting import Jumps
from modelcache.planning.removing import Removal
from modelcache.service.surroundings import Surroundings


@dataclass(frozen=True, slots=True)
class Keeping:
    """What becomes of content that nothing wants any more.

    Attributes:
        seconds: how long it is kept, should it be wanted again; None: for ever.
        also_when_empty: whether a catalog without any model is to be believed. A directory that
            was not mounted looks like one.
    """

    seconds: float | None = None
    also_when_empty: bool = False


class Unwanted:
    """What nothing wants, and no broken document may be about. `since` in epoch seconds."""

    def __init__(
        self, keeping: Keeping, surroundings: Surroundings, jumps: Jumps | None = None
    ) -> None:
        """`jumps`: of the clock that `look` is told. None: it isn't looked at."""
        self._jumps = jumps
        self._keeping = keeping
        self._surroundings = surroundings
        self.since: dict[str, float] = {}

    def doubts(self, catalog: Catalog) -> Callable[[str], bool]:
        """Tells whether a model that no object wants may be wanted by what can't be read."""
        believed = bool(catalog.models) or self._keeping.also_when_empty
        doubts = [p for p in catalog.problems if p.severity is Severity.ERROR]

        def in_doubt(name: str) -> bool:
            key = ObjectKey("CachedModel", name)
            return not believed or any(problem.may_be(key) for problem in doubts)

        return in_doubt

    def look(
        self, catalog: Catalog, held: Iterable[str], wanted: Container[str], now: float
    ) -> Removal | None:
        """Note what is unwanted now; what may be deleted on that account, None: nothing."""
        if not (catalog.models or self._keeping.also_when_empty):
            self.since.clear()
            return None
        in_doubt = self.doubts(catalog)
        ahead = self._jumps.look(now) if self._jumps else 0.0
        # What the clock was set ahead is no time that passed.
        self.since = {name: since + ahead for name, since in self.since.items()}
        self.since = {
            # Not later than now: the clock may have been set back.
            name: min(now, self.since.get(name, now))
            for name in held
            if name not in wanted and not in_doubt(name)
        }
        after = self._keeping.seconds
        if after is None or not self.since:
            return None  # nobody need be asked
        uses, labelled = self._surroundings.uses(), self._surroundings.labelled()
        if uses.unknown is not None or labelled is None:
            return None
        kept = {name for name in self.since if name in labelled or not uses.may_go(name)}
        return Removal(after, self.since, kept)
