"""How starts on this node went: remembered for reports, and marked on the bundles."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import structlog

from modelcache.api.nodecache import CompileReport, StartReport, WithdrawnBundle
from modelcache.compilecache.pods.protocol import StartDocument
from modelcache.compilecache.starts.holding import Holding
from modelcache.compilecache.starts.marks import Mark, Marks
from modelcache.store.paths import children

log = structlog.get_logger(__name__)

_MOST_PODS: Final = 4096


class StartBook:
    """The starts on this node. Safe for threads."""

    def __init__(
        self,
        holding: Holding,
        marks: Marks,
        remembered: tuple[CompileReport, ...] = (),
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """`remembered`: what was last reported; `on_change` is called when there is news."""
        self._holding = holding
        self._marks = marks
        self._on_change = on_change
        self._mutex = threading.Lock()
        self._last = {each.name: (each.last_start, each.last_miss) for each in remembered}
        self._keys = {gone.digest: gone.key for each in remembered for gone in each.withdrawn}
        self._blamed: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._read: dict[str, dict[Path, tuple[tuple[int, int], Mark]]] = {}

    def note(self, name: str, start: StartDocument, pod_uid: str, *, blames: bool = True) -> None:
        """Note a start.

        A pod that starts over and over says no more against a bundle than one that failed once.

        Args:
            name: the CompileCache.
            start: how the start went.
            pod_uid: which pod it was.
            blames: whether its failures count against the bundle, which is withdrawn in the whole
                cluster then: anybody who may make a pod can ask for a cache.

        Raises:
            InsufficientDisk: the disk is full; nothing is noted.
        """
        report = StartReport(
            result=start.result,
            at=datetime.now(UTC).replace(microsecond=0),
            compile_milliseconds=start.compile_milliseconds,
            reason=start.reason,
            message=start.message,
        )
        held = {f"sha256:{each.digest}": each.key for each in self._holding.of(name)}
        if start.digest is not None and start.digest in held:
            self._mark(name, start.digest, held[start.digest], start, pod_uid, blames)
        with self._mutex:
            _, miss = self._last.get(name, (None, None))
            missed = start.result in ("Miss", "Partial")
            self._last[name] = report, report if missed else miss
        log.info(
            "start.reported",
            compile_cache=name,
            pod=start.pod,
            result=start.result,
            reason=start.reason,
            digest=start.digest,
        )
        self._on_change()

    def last(self, name: str) -> tuple[StartReport | None, StartReport | None]:
        """The last start of a compile cache, and the last that did not hit."""
        with self._mutex:
            return self._last.get(name, (None, None))

    def verified(self, name: str) -> frozenset[str]:
        """Digests that a start loaded."""
        return frozenset(digest for digest, mark in self._all(name) if mark.verified)

    def withdrawn(self, name: str) -> tuple[WithdrawnBundle, ...]:
        """Bundles that several starts in a row failed to load, the last one first."""
        gone = [
            (mark.withdrawn_at, digest, mark.message)
            for digest, mark in self._all(name)
            if mark.withdrawn_at is not None
        ]
        with self._mutex:
            keys = {digest: self._keys.get(digest, "") for _, digest, _ in gone}
        if not all(keys.values()):
            # Withdrawn before this process; the report of then had no room for it, or is lost.
            held = {f"sha256:{each.digest}": each.key for each in self._holding.of(name)}
            keys = {digest: key or held.get(digest, "") for digest, key in keys.items()}
        return tuple(
            WithdrawnBundle(digest=digest, key=keys[digest], message=message)
            for _, digest, message in sorted(gone, reverse=True)
        )

    def _mark(
        self,
        name: str,
        digest: str,
        key: str,
        start: StartDocument,
        pod_uid: str,
        blames: bool,
    ) -> None:
        with self._mutex:
            self._keys[digest] = key
        if start.evidence.load_failures:
            if blames and self._is_first(pod_uid, digest):
                mark = self._marks.failed(name, digest, start.message or "it could not be loaded")
                if mark.withdrawn:
                    log.error("bundle.withdrawn", compile_cache=name, digest=digest)
        elif start.result == "Hit" or (start.result == "Partial" and start.evidence.loaded):
            self._marks.loaded(name, digest)

    def _is_first(self, pod_uid: str, digest: str) -> bool:
        with self._mutex:
            first = (pod_uid, digest) not in self._blamed
            self._blamed[pod_uid, digest] = None
            while len(self._blamed) > _MOST_PODS:
                self._blamed.popitem(last=False)
        return first

    def _all(self, name: str) -> list[tuple[str, Mark]]:
        """The marks of a compile cache's bundles, by digest."""
        folder = self._holding.layout.compile_mark(name, "").parent
        with self._mutex:
            before = self._read.get(name, {})
        found: dict[Path, tuple[tuple[int, int], Mark]] = {}
        for path in children(folder):
            if path.suffix != ".json":
                continue
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            stamp = status.st_ino, status.st_mtime_ns
            known = before.get(path)
            if known is None or known[0] != stamp:
                known = stamp, self._marks.of(name, path.stem)
            found[path] = known
        with self._mutex:
            self._read.pop(name, None)
            if found:
                self._read[name] = found
        return [(f"sha256:{path.stem}", mark) for path, (_, mark) in found.items()]
