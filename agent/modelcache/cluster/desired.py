"""The catalog as the API server has it, believed with care.

What is deleted by mistake, of many nodes at once, costs hours. So an object that is missing is not
at once taken for one that nobody wants:

- Nothing is concluded from a server that can't be asked, or that does not know the kind.
- An object that is missing is believed to be gone when a list that began some seconds later still
  goes without it: the deletion of the CRD deletes all objects first, and then there is no list.
- A list that is empty where there were objects, and of which no event told, is not believed for ten
  minutes: a restored database, a proxy, a wrong server.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Container, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from modelcache.api import API_VERSION, CachedModel, CompileCache
from modelcache.api.compilecache import BundleState
from modelcache.catalog import Catalog, Document, Problem, Severity
from modelcache.cluster.client import Object
from modelcache.cluster.reading import read_cache, read_model
from modelcache.errors import ClusterError, UsageError

SETTLING_SECONDS: Final = 5.0
"""For an object that is missing among others, or whose deletion was told."""
DISTRUST_SECONDS: Final = 600.0
"""For a list that is empty without a word."""
_AGAIN_SECONDS: Final = 30.0


class Mirrored(Protocol):
    """What this needs of a Mirror."""

    @property
    def objects(self) -> Mapping[str, Object]:
        """By name."""

    @property
    def listed_at(self) -> float | None:
        """When the last list that succeeded began."""

    @property
    def trouble(self) -> ClusterError | None:
        """Why it can't be asked now."""

    @property
    def deleted(self) -> Container[str]:
        """Names whose deletion was told."""

    def relist(self) -> None:
        """Have it list anew, soon."""


def keep_desired(thing: Object) -> Object:
    """What of an object a Mirror keeps: not its status, which changes all the time."""
    metadata = thing["metadata"]
    return {
        "apiVersion": API_VERSION,
        "kind": "CachedModel",
        "metadata": {
            key: metadata[key] for key in ("name", "uid", "generation") if key in metadata
        },
        "spec": thing.get("spec"),
    }


def keep_compile_cache(thing: Object) -> Object:
    """What of a CompileCache a Mirror keeps: of its status only which bundles there are."""
    bundles = (thing.get("status") or {}).get("bundles") or ()
    return {
        **keep_desired(thing),
        "kind": "CompileCache",
        "bundles": sorted((each["digest"], each["key"], each["state"]) for each in bundles),
    }


def published(kept: Object | None, key: str | None) -> frozenset[str]:
    """Digests of the bundles for a key, by an object as `keep_compile_cache` keeps it."""
    bundles = kept["bundles"] if kept is not None else ()
    return frozenset(digest for digest, of, _ in bundles if of == key)


def withdrawn(kept: Object | None) -> frozenset[str]:
    """Digests of the bundles that are to be seeded nowhere."""
    bundles = kept["bundles"] if kept is not None else ()
    return frozenset(d for d, _, state in bundles if state == BundleState.WITHDRAWN.value)


@dataclass(frozen=True, slots=True)
class _Read:
    """What reading one object gave; `document` may be that of an earlier, better one."""

    thing: Object
    document: Document | None
    problems: tuple[Problem, ...]


class ClusterCatalog:
    """The objects of one kind, as the catalog of a cluster. `read` from one thread."""

    def __init__(
        self,
        mirror: Mirrored,
        remembered: Collection[str] = (),
        clock: Callable[[], float] = time.monotonic,
        kind: type[CachedModel] | type[CompileCache] = CachedModel,
    ) -> None:
        """`remembered`: names of objects that are known from before this process."""
        self._mirror = mirror
        self._kind = kind
        self._place = f"{kind.__name__.lower()}s"
        self._clock = clock
        self._names = frozenset(remembered)
        self._read: dict[str, _Read] = {}
        self._missing: dict[str, float] = {}
        self._asked = float("-inf")
        self._catalog: Catalog | None = None

    def read(self) -> Catalog | None:
        """The catalog in force, the same object as long as it is the same; None: not known yet."""
        # Before the objects: a list that comes in meanwhile doesn't confirm what they lack.
        listed_at, trouble = self._mirror.listed_at, self._mirror.trouble
        if listed_at is None:
            return None
        objects = self._mirror.objects
        gone = self._gone(objects, listed_at if trouble is None else None)
        changed = self._catalog is None or bool(gone)
        for name in gone:
            self._missing.pop(name)
            self._read.pop(name, None)
        self._names = (self._names - gone) | objects.keys()
        for name, thing in objects.items():
            before = self._read.get(name)
            if before is None or before.thing != thing:
                self._read[name] = _read(thing, before, self._kind)
                changed = True
        if changed or self._catalog is None:
            self._catalog = self._compose()
        return self._catalog

    @property
    def due_in(self) -> float | None:
        """Seconds until reading again may give something else, without any event; None: never."""
        if not self._missing:
            return None
        now = self._clock()
        objects = self._mirror.objects
        due = min(since + self._patience(name, objects) for name, since in self._missing.items())
        return due - now if due > now else SETTLING_SECONDS

    def _gone(self, objects: Mapping[str, Object], listed_at: float | None) -> set[str]:
        """Those of the known that are missing, and believed to be.

        `listed_at`: when a list began that is not newer than the objects; None: the server can't
        be asked.
        """
        now = self._clock()
        for name in objects.keys() & self._missing.keys():
            del self._missing[name]
        gone: set[str] = set()
        for name in self._names - objects.keys():
            due = self._missing.setdefault(name, now) + self._patience(name, objects)
            if now < due:
                continue
            if listed_at is not None and listed_at >= due:
                gone.add(name)
            elif now - self._asked >= _AGAIN_SECONDS or self._asked < due:
                self._asked = now
                self._mirror.relist()
        return gone

    def _patience(self, name: str, objects: Mapping[str, Object]) -> float:
        quick = objects or name in self._mirror.deleted
        return SETTLING_SECONDS if quick else DISTRUST_SECONDS

    def _compose(self) -> Catalog:
        entries = [self._read[name] for name in sorted(self._read)]
        problems = [problem for entry in entries for problem in entry.problems]
        unread = len(self._names) - len(self._read)
        if unread:
            what = f"{unread} objects that were there are missing, which is not believed yet"
            problems.append(Problem(self._place, what, kind=self._kind.__name__))
        return Catalog.of((e.document for e in entries if e.document is not None), problems)


def _read(
    thing: Object, before: _Read | None, kind: type[CachedModel] | type[CompileCache]
) -> _Read:
    name = thing["metadata"]["name"]
    place = f"{kind.__name__.lower()}s/{name}"
    read = read_model if kind is CachedModel else read_cache
    try:
        return _Read(thing, Document(read(thing), place, 1, 1), ())
    except UsageError as error:
        problem = Problem(place, str(error), kind=kind.__name__, name=name)
        return _Read(thing, before.document if before is not None else None, (problem,))


class BothKinds:
    """The catalog of a cluster: its CachedModels and its CompileCaches. `read` from one thread.

    Models don't wait for the other kind: a cluster may not have it (yet).
    """

    def __init__(self, models: ClusterCatalog, compile_caches: ClusterCatalog) -> None:
        self._parts = models, compile_caches
        self._seen: tuple[Catalog | None, Catalog | None] = (None, None)
        self._catalog: Catalog | None = None

    def read(self) -> Catalog | None:
        """The catalog in force, the same object as long as it is the same; None: not known yet."""
        models, compiled = (part.read() for part in self._parts)
        if models is None:
            return None
        same = self._seen[0] is models and self._seen[1] is compiled
        if self._catalog is None or not same:
            self._seen = models, compiled
            self._catalog = _joined(models, compiled)
        return self._catalog

    @property
    def due_in(self) -> float | None:
        """Seconds until reading again may give something else, without any event; None: never."""
        return min((d for part in self._parts if (d := part.due_in) is not None), default=None)


def _joined(models: Catalog, compiled: Catalog | None) -> Catalog:
    if compiled is None:
        # No error: nothing that was written is known not to be in force.
        unknown = Problem(
            "compilecaches",
            "were not listed yet",
            kind="CompileCache",
            severity=Severity.WARNING,
        )
        return Catalog.of(models.documents.values(), [*models.problems, unknown])
    documents = [*models.documents.values(), *compiled.documents.values()]
    return Catalog.of(documents, [*models.problems, *compiled.problems])
