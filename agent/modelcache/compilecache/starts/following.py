"""While an engine runs, and after it: how its start went, and its cache captured when it may be."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Final

from modelcache.compilecache.bundles.packing import Compression
from modelcache.compilecache.engines.elsewhere import elsewhere
from modelcache.compilecache.engines.evidence import EngineHashes, Evidence
from modelcache.compilecache.engines.factors import hashes_of
from modelcache.compilecache.engines.judging import Verdict, judge
from modelcache.compilecache.engines.logs import LogReader
from modelcache.compilecache.engines.table import Engine
from modelcache.compilecache.keys.parts import Key
from modelcache.compilecache.starts.capturing import Captured, Patience, capture, watch
from modelcache.compilecache.starts.preparing import Prepared
from modelcache.compilecache.starts.reporting import Capturing
from modelcache.compilecache.starts.seednotes import read_note, write_note, written
from modelcache.compilecache.trees.scanning import Tree, scan
from modelcache.errors import Cancelled, ModelCacheError, NotCaptured, NotQuiet, UsageError
from modelcache.transfer.cancelling import Cancel

_NICE: Final = 10
_SILENT: Final = ("torch", "neuron", "other")
"""Engines that are programs of any kind: one that says nothing of when it serves is judged by its
files."""

Keep = Callable[[Captured], Capturing]
"""Makes a bundle of a capture."""


@dataclass
class Engaged:
    """An engine that runs. `feed` and `end` are called by who runs it, the rest by who follows."""

    engine: Engine
    argv: Sequence[str]
    prepared: Prepared
    cache_dir: Path
    started: float = field(default_factory=time.time)
    """Seconds since 1970."""
    over: Cancel = field(default_factory=Cancel)
    """Set once it has ended and all of its output was read."""
    code: int | None = None
    """Its exit code, once it has ended."""

    def __post_init__(self) -> None:
        self._log = LogReader(self.engine)
        self._mutex = threading.Lock()

    def feed(self, line: str) -> None:
        """A line of its output."""
        with self._mutex:
            self._log.feed(line)

    def end(self, code: int) -> None:
        """It has ended."""
        self.code = code
        self.over.set()

    @property
    def finished(self) -> bool:
        """Whether it has ended, and done its work."""
        return self.code == 0

    @property
    def came_so_far(self) -> bool:
        """Whether all that is compiled at a start was compiled."""
        with self._mutex:
            return self._log.ready or self.finished

    def files(self) -> tuple[Tree, int]:
        """What is in its caches, and how many files of that this start has written.

        Raises:
            ModelCacheError, OSError
        """
        tree = scan(self.cache_dir, self.engine.wanted)
        note = None
        with suppress(UsageError):
            note = read_note(self.cache_dir)
        if note is not None:
            return tree, len(written(self.cache_dir, note, tree))
        before = set(self.prepared.before.entries)
        return tree, sum(entry not in before for entry in tree.entries)

    def evidence(self, new_files: int) -> Evidence:
        """What is seen of it by now: in its log, or, of one that tells nothing there, by its
        files."""
        with self._mutex:
            told = self._log.evidence()
        if told.compiled or told.loaded or told.load_failures or told.save_failures:
            return told.model_copy(update={"ready": told.ready or self.finished})
        ready = told.ready or self.finished or (self.engine.name in _SILENT and new_files > 0)
        return told.model_copy(update={"source": "files", "ready": ready, "compiled": new_files})


@dataclass(frozen=True)
class How:
    """How a capture is made."""

    into: Path
    """Staging."""
    quiet_seconds: float
    ranks: int = 1
    compression: Compression = "zstd"


def ranks_of(key: Key) -> int:
    """How many processes of an engine compile on this node: all, unless its arguments say that
    there are others."""
    options = (each.partition("=") for each in takewhile(lambda each: each != "--", key.args))
    sizes = {name: int(size) for name, _, size in options if size.isdecimal()}
    parallel = key.parallel
    data = sizes.get("--data-parallel-size-local") or parallel.data
    return max(1, parallel.tensor * parallel.pipeline * data // (sizes.get("--nnodes") or 1))


class Following:
    """Follows one engine. `run` in a thread of its own; what it found may be read at any time."""

    def __init__(
        self,
        engaged: Engaged,
        how: How,
        keep: Keep | None,
        tell: Callable[[Verdict, Evidence], None],
        why_not: str = "it was not asked for",
    ) -> None:
        """`keep` makes a bundle of a capture; None: nothing is captured, and `why_not` is said of
        that. `tell` is called once, when it is known how the start went."""
        self._engaged = engaged
        self._how = how
        self._keep = keep if engaged.prepared.usable else None
        self._tell = tell
        self.verdict: Verdict | None = None
        self.evidence: Evidence | None = None
        self.notes: tuple[str, ...] = ()
        """What else the user is to know."""
        self.capturing = Capturing(message=why_not if keep is None else "")

    def run(self, cancel: Cancel) -> None:
        """Until the engine has ended, and what is to be captured is.

        Raises:
            Cancelled
            ModelCacheError, OSError: the disk fails, say. What is known by then stands.
        """
        with suppress(OSError):  # compressing gives way to the engine
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        if self._keep is not None:
            self._while_it_runs(cancel)
        while not self._engaged.over.event.wait(1.0):
            cancel.check()
            if self.verdict is None and self._engaged.came_so_far:
                self._look()
        self._look()
        if self._keep is not None:
            self._after_it(cancel)

    def _look(self, *, quiet: bool = False) -> Evidence:
        """What is seen by now; judged as soon as that can be, or when nothing changes any more."""
        engaged = self._engaged
        if not engaged.prepared.usable:
            tree, new = Tree(()), 0
        else:
            tree, new = engaged.files()
        evidence = engaged.evidence(new)
        # Of files elsewhere nothing is known.
        known = engaged.prepared.usable or evidence.source == "log"
        so_far = quiet or engaged.came_so_far or engaged.over.is_set()
        if self.verdict is None and known and so_far:
            self._judge(evidence, tree, new)
        return evidence

    def _judge(self, evidence: Evidence, tree: Tree, new: int) -> None:
        engaged, prepared = self._engaged, self._engaged.prepared
        bundle, before = prepared.bundle, len(prepared.before.entries)
        after = hashes_of(engaged.cache_dir, tree) if prepared.usable else EngineHashes()
        places = elsewhere(engaged.engine, prepared.env, engaged.cache_dir, engaged.started)
        self.evidence = evidence
        self.notes = tuple(place.sentence for place in places)
        self.verdict = judge(
            evidence,
            seeded=before > 0,
            seeded_files=before,
            new_files=new,
            before=bundle.statement.engine_hashes if bundle else EngineHashes(),
            after=after,
            env=prepared.env,
            argv=engaged.argv,
            cache_dir=engaged.cache_dir,
            elsewhere=places,
            finished=engaged.finished,
        )
        self._tell(self.verdict, evidence)

    def _while_it_runs(self, cancel: Cancel) -> None:
        """Capture as soon as it is complete and quiet; the engine's end ends the waiting."""
        waiting = Cancel(cancel)
        quiet = self._how.quiet_seconds
        try:
            with self._engaged.over.calling(waiting.set):
                captured = watch(
                    self._engaged.engine,
                    self._engaged.cache_dir,
                    into=self._how.into,
                    evidence=self._look,
                    ranks=self._how.ranks,
                    patience=Patience(quiet=quiet, look=min(5.0, max(0.1, quiet / 10))),
                    compression=self._how.compression,
                    cancel=waiting,
                    tell=self._not_yet,
                )
        except Cancelled:
            cancel.check()
            return  # it has ended: see `_after_it`
        except NotCaptured as error:
            self._not_yet(str(error))
            return
        finally:
            waiting.close()
        self._look(quiet=True)
        self._take(captured)

    def _after_it(self, cancel: Cancel) -> None:
        """Capture what is new since then: nobody writes any more."""
        if not self._engaged.came_so_far:
            self._not_yet("the engine ended before it served, or with an error")
            return
        try:
            captured = capture(
                self._engaged.engine,
                self._engaged.cache_dir,
                into=self._how.into,
                evidence=self._look(),
                ranks=self._how.ranks,
                compression=self._how.compression,
                cancel=cancel,
            )
        except (NotCaptured, NotQuiet) as error:
            self._not_yet(str(error))
            return
        self._take(captured)

    def _not_yet(self, why: str) -> None:
        """Why nothing is captured; an earlier capture of this start stays what is told."""
        if self.capturing.digest is None:
            self.capturing = Capturing(message=why)

    def _take(self, captured: Captured) -> None:
        assert self._keep is not None
        began = time.monotonic()
        with captured:
            try:
                kept = self._keep(captured)
            except (ModelCacheError, OSError) as error:
                self._not_yet(str(error))
                raise
            if kept.digest is not None:
                # From here on what is in the directory is this bundle, for the next start as well.
                write_note(self._engaged.cache_dir, kept.digest, captured.manifest)
        self.capturing = kept.model_copy(update={"seconds": time.monotonic() - began})
