"""While an engine runs, and after it: how its start went, and its cache captured when it may be."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from modelcache.compilecache.bundles.packing import Compression
from modelcache.compilecache.engines.elsewhere import elsewhere
from modelcache.compilecache.engines.evidence import EngineHashes, Evidence
from modelcache.compilecache.engines.factors import hashes_of
from modelcache.compilecache.engines.judging import Result, Verdict, judge
from modelcache.compilecache.engines.logs import LogReader
from modelcache.compilecache.engines.table import Engine
from modelcache.compilecache.keys.parts import ParallelLayout
from modelcache.compilecache.starts.capturing import Captured, Look, capture, check_evidence
from modelcache.compilecache.starts.marks import Marks
from modelcache.compilecache.starts.preparing import Prepared
from modelcache.compilecache.starts.reporting import Capturing
from modelcache.compilecache.trees.quiet import Quiet
from modelcache.compilecache.trees.scanning import Limits, Tree, scan
from modelcache.errors import ModelCacheError, NotCaptured, NotQuiet
from modelcache.transfer.cancelling import Cancel

_LOOKS: Final = 8
"""How often a tree is looked at within the time for which it has to be quiet."""
_NICE: Final = 10

Keep = Callable[[Captured, Evidence], Capturing]


@dataclass(frozen=True)
class Engaged:
    """The engine that is followed."""

    engine: Engine
    argv: Sequence[str]
    prepared: Prepared
    started: float
    """Seconds since 1970."""
    log: LogReader
    mutex: threading.Lock
    """Of the log."""
    ended: threading.Event = field(default_factory=threading.Event)
    """Set once it has ended and all of its output was read."""
    code: list[int] = field(default_factory=list)
    """Its exit code, once it has ended."""

    def evidence(self, new_files: int) -> Evidence:
        """What was seen of it: in its log, or, of one that tells nothing there, by its files."""
        with self.mutex:
            told = self.log.evidence()
        if told.compiled or told.loaded or told.load_failures or told.save_failures:
            return told
        ready = told.ready or self.finished
        return Evidence(
            source="files", ready=ready, compiled=new_files, engine_version=told.engine_version
        )

    @property
    def ready(self) -> bool:
        """Whether it was seen to serve."""
        with self.mutex:
            return self.log.ready

    @property
    def finished(self) -> bool:
        """Whether it has ended, and done its work."""
        return self.ended.is_set() and self.code == [0]


@dataclass(frozen=True)
class How:
    """How a capture is made."""

    quiet_seconds: float
    ranks: int = 1
    compression: Compression = "zstd"
    limits: Limits = field(default_factory=Limits)


class Following:
    """Follows one engine, in a thread of its own."""

    def __init__(
        self,
        engaged: Engaged,
        marks: Marks,
        how: How,
        keep: Keep | None,
        tell: Callable[[Verdict], None],
    ) -> None:
        """`keep` makes a bundle of a capture; None: nothing is captured. `tell` is called once."""
        self._engaged = engaged
        self._marks = marks
        self._how = how
        self._keep = keep
        self._tell = tell
        self.verdict: Verdict | None = None
        self.evidence: Evidence | None = None
        self.capturing = Capturing(message="" if keep is not None else "it was not asked for")
        self.notes: tuple[str, ...] = ()

    def run(self, cancel: Cancel) -> None:
        """Until the engine has ended, and what is to be captured is.

        Raises:
            Cancelled
            ModelCacheError, OSError: the disk fails, say. What is known by then stands.
        """
        with suppress(OSError):  # compressing gives way to the engine
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        quiet = Quiet(self._how.quiet_seconds)
        engaged = self._engaged
        pause = max(0.05, self._how.quiet_seconds / _LOOKS)
        done = not engaged.prepared.usable or self._keep is None
        while not engaged.ended.wait(pause if engaged.ready or not engaged.engine.ready else 0.2):
            cancel.check()
            if engaged.ready and self.verdict is None:
                self._judge()
            if not done and self._may_be_complete():
                done = self._try(quiet, cancel)
        cancel.check()
        self._judge()
        if not done and self._ended_well():
            self._try(Quiet(0.0), cancel)

    def _may_be_complete(self) -> bool:
        """Of a program whose log doesn't say when it serves, the files alone decide."""
        return self._engaged.ready or self._engaged.engine.name in ("torch", "other", "neuron")

    def _ended_well(self) -> bool:
        if self._engaged.finished or self._engaged.ready:
            return True
        self.capturing = Capturing(message="the engine ended before it served, or with an error")
        return False

    def _try(self, quiet: Quiet, cancel: Cancel) -> bool:
        """Capture, if it can be now; whether there is nothing more to try."""
        engaged, how = self._engaged, self._how
        look = Look(engaged.engine, self._cache_dir, how.ranks, how.limits, None)
        try:
            tree = look.scan()
            was_quiet = quiet.look(tree.state) or how.quiet_seconds == 0 or engaged.ended.is_set()
            evidence = engaged.evidence(len(self._new(tree)))
            check_evidence(evidence)
            look.news(tree)
            look.check_complete(tree)
            if not was_quiet:
                self.capturing = Capturing(message=f"it was not quiet for {how.quiet_seconds:g} s")
                return False
            self._capture(evidence, cancel)
        except NotQuiet as error:
            quiet.reset()
            self.capturing = Capturing(message=str(error))
            return False
        except NotCaptured as error:
            self.capturing = Capturing(message=str(error))
            # It may still compile something, with the first requests, say.
            return engaged.ended.is_set()
        return True

    def _capture(self, evidence: Evidence, cancel: Cancel) -> None:
        assert self._keep is not None
        began = time.monotonic()
        captured = capture(
            self._engaged.engine,
            self._cache_dir,
            into=self._staging,
            evidence=evidence,
            ranks=self._how.ranks,
            limits=self._how.limits,
            compression=self._how.compression,
            cancel=cancel,
        )
        with captured:
            kept = self._keep(captured, evidence)
        self.capturing = kept.model_copy(update={"seconds": time.monotonic() - began})
