"""Capturing: a complete and quiet compile cache becomes an archive, in a staging directory of ours.

The engine's tree is only read. It is scanned, copied (for nothing, where the file system shares
blocks), and scanned again: what was written to meanwhile is thrown away. Whoever is killed leaves
his part of the staging, and nothing else; the next capture there takes it away.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from modelcache.compilecache.bundles.local import ARCHIVE_NAMES
from modelcache.compilecache.bundles.manifest import BundleManifest
from modelcache.compilecache.bundles.packing import Compression, pack
from modelcache.compilecache.bundles.statement import Archive
from modelcache.compilecache.engines.completeness import incomplete
from modelcache.compilecache.engines.evidence import EngineHashes, Evidence
from modelcache.compilecache.engines.factors import hashes_of
from modelcache.compilecache.engines.table import Engine
from modelcache.compilecache.starts.seednotes import SeedNote, read_note, written
from modelcache.compilecache.starts.staging import Staged, staging
from modelcache.compilecache.trees.copying import copy_tree
from modelcache.compilecache.trees.quiet import Quiet
from modelcache.compilecache.trees.scanning import Limits, Odd, Tree, scan
from modelcache.errors import NotCaptured, NotFound, NotQuiet, TreeChanged
from modelcache.transfer.cancelling import Cancel

_LEFT_OUT: Final = ("link", "socket", "fifo")
"""What may be in a cache, and is made anew by each start. All else would be missing."""


@dataclass(frozen=True)
class Captured:
    """A captured cache. The archive is there until `discard`, or until the block ends."""

    archive: Path
    """The file, named as in a bundle's directory."""
    facts: Archive
    """What a statement says of it."""
    manifest: BundleManifest
    hashes: EngineHashes
    evidence: Evidence
    seeded: str | None
    """The bundle that the start was seeded with, and that this one contains, grown."""
    new_files: int
    """Files that it has beyond that."""
    odd: tuple[Odd, ...]
    """What was left out of it."""
    _staged: Staged = field(repr=False)

    def discard(self) -> None:
        """Remove the archive. Done twice it is no error."""
        self._staged.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()


def capture(
    engine: Engine,
    cache_dir: Path,
    *,
    into: Path,
    evidence: Evidence,
    ranks: int = 1,
    limits: Limits | None = None,
    compression: Compression = "zstd",
    owner: int | None = None,
    cancel: Cancel | None = None,
) -> Captured:
    """Capture a cache, now. That it was quiet for a while is for the caller to know (`watch`).

    Args:
        into: a directory for staging, made where there is none. It is best on the cache's file
            system. What others left there that began with `capture-` is removed.
        evidence: what was seen of the start.
        ranks: how many processes of the engine compile on this node.
        limits: the most that is captured.
        owner: the user (uid) whose files are captured; None: this process's.

    Raises:
        NotCaptured: this start has nothing that is worth it, or nothing to be trusted.
        NotQuiet: it is not complete, or changed meanwhile: later.
        NotFound: there is no such directory.
        TreeTooLarge, BrokenBundle, InsufficientDisk, Cancelled
        UsageError: the note of what was seeded can't be read.
        OSError: the disk fails.
    """
    cancel = cancel or Cancel()
    check_evidence(evidence)
    look = _Look(engine, cache_dir, ranks, limits or Limits(), owner)
    tree = look.scan()
    note, new = look.news(tree)
    look.check_complete(tree)
    with staging(into) as staged:
        try:
            copy_tree(cache_dir, tree, staged.folder / "tree", cancel=cancel)
            hashes = hashes_of(cache_dir, tree)
            again = look.scan()
        except NotQuiet:
            raise
        except TreeChanged as error:
            raise NotQuiet(str(error)) from error
        if again.state != tree.state:
            raise NotQuiet(
                f"{cache_dir} changed while it was copied: the engine still writes; try again later"
            )
        look.check_complete(again)
        copy = staged.folder / "tree"
        archive = staged.folder / ARCHIVE_NAMES[compression]
        packed = pack(
            copy,
            scan(copy, limits=look.limits),
            archive,
            compression=compression,
            limits=look.limits,
            cancel=cancel,
        )
        shutil.rmtree(copy)
        return Captured(
            archive=archive,
            facts=packed.archive,
            manifest=packed.manifest,
            hashes=hashes,
            evidence=evidence,
            seeded=note.digest if note is not None else None,
            new_files=new,
            odd=tree.odd,
            _staged=staged,
        )


def check_evidence(evidence: Evidence) -> None:
    """Check what the engine itself says of a start.

    Raises:
        NotCaptured: it only loaded, or something could not be loaded or saved.
    """
    if evidence.load_failures:
        raise NotCaptured(
            f"the engine could not load {evidence.load_failures} of its compiled graphs: what it"
            " left is not captured; a start without a seed is"
        )
    if evidence.save_failures:
        raise NotCaptured(
            f"the engine could not save {evidence.save_failures} of its compiled graphs: its cache"
            " stays incomplete"
        )
    if evidence.loaded and not evidence.compiled:
        raise NotCaptured("the engine only loaded what was there: there is nothing new to capture")


@dataclass(frozen=True)
class _Look:
    """How a cache is looked at."""

    engine: Engine
    cache_dir: Path
    ranks: int
    limits: Limits
    owner: int | None
    """As in `capture`."""

    def scan(self) -> Tree:
        """What is there now.

        Raises:
            NotCaptured: a part of it can't be in a bundle, so the bundle would be less than it is.
            NotFound, TreeTooLarge, OSError
        """
        owner = os.geteuid() if self.owner is None else self.owner
        tree = scan(self.cache_dir, self.engine.wanted, limits=self.limits, owner=owner)
        bad = next((odd for odd in tree.odd if odd.what not in _LEFT_OUT), None)
        if bad is not None:
            whose = f" than the engine's ({owner})" if bad.what == "owner" else ""
            raise NotCaptured(f"{bad.sentence}{whose}: a cache with that in it is not captured")
        return tree

    def news(self, tree: Tree) -> tuple[SeedNote | None, int]:
        """What was seeded, and how many files the start has written beyond that.

        Raises:
            NotCaptured: none.
            UsageError, OSError
        """
        note = read_note(self.cache_dir)
        new = len(written(self.cache_dir, note, tree))
        if note is not None and not new:
            raise NotCaptured("the engine wrote nothing beyond what was seeded")
        return note, new

    def check_complete(self, tree: Tree) -> None:
        """Check that nothing is missing.

        Raises:
            NotQuiet: something is.
        """
        missing = incomplete(self.engine, self.cache_dir, tree, self.ranks)
        if missing:
            raise NotQuiet("; ".join(missing))


@dataclass(frozen=True, slots=True)
class Patience:
    """How long is waited for what, in seconds."""

    quiet: float = 90.0
    """For which nothing may change, after the engine is ready: kernels are also compiled when the
    first requests come."""
    look: float = 5.0
    """Between two looks, at the least. Looks at a large tree, which take their time, are further
    apart, as long as two are within the window."""
    ready: float = 4 * 3600.0
    """For the engine to be ready: loading from afar takes long."""
    settle: float = 3600.0
    """From then on, for its cache to be complete and quiet."""


def watch(
    engine: Engine,
    cache_dir: Path,
    *,
    into: Path,
    evidence: Callable[[], Evidence],
    ranks: int = 1,
    patience: Patience | None = None,
    limits: Limits | None = None,
    compression: Compression = "zstd",
    owner: int | None = None,
    cancel: Cancel | None = None,
    tell: Callable[[str], object] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Captured:
    """Wait until a running engine's cache is complete and quiet, and capture it.

    Args:
        evidence: what is seen of the start by now; asked before each look.
        tell: called with the reason why it is not captured yet, whenever that is another.
        cancel: ends the waiting, too.

    Raises:
        NotCaptured: there is nothing to capture, or it took too long; with the reason.
        TreeTooLarge, BrokenBundle, InsufficientDisk, UsageError, Cancelled
        OSError: the disk fails.
    """
    patience, cancel = patience or Patience(), cancel or Cancel()
    look = _Look(engine, cache_dir, ranks, limits or Limits(), owner)
    waiting = _Waiting(look, patience, clock)
    told = ""
    while True:
        cancel.check()
        began, seen = clock(), evidence()
        why = waiting.look(seen)
        pause = max(patience.look, min(20 * (clock() - began), patience.quiet / 2))
        if why is None:
            try:
                return capture(
                    engine,
                    cache_dir,
                    into=into,
                    evidence=seen,
                    ranks=ranks,
                    limits=limits,
                    compression=compression,
                    owner=owner,
                    cancel=cancel,
                )
            except NotQuiet as error:
                why = waiting.disturbed(error)
        if why != told and tell is not None:
            tell(why)
        told = why
        waiting.check_time(why)
        cancel.wait(pause)


class _Waiting:
    """What is waited for, look by look."""

    def __init__(self, look: _Look, patience: Patience, clock: Callable[[], float]) -> None:
        self._look = look
        self._patience = patience
        self._clock = clock
        self._quiet = Quiet(patience.quiet, clock)
        self._began = clock()
        self._ready_at: float | None = None

    def look(self, evidence: Evidence) -> str | None:
        """Why it can't be captured yet; None: it can.

        Raises:
            NotCaptured: it never will.
        """
        if not evidence.ready:
            self._quiet.reset()
            return "the engine is not ready yet"
        if self._ready_at is None:
            self._ready_at = self._clock()
        check_evidence(evidence)
        try:
            tree = self._look.scan()
        except NotFound as error:
            return str(error)
        quiet = self._quiet.look(tree.state)
        try:
            self._look.check_complete(tree)
        except NotQuiet as error:
            return str(error)
        if not quiet:
            return f"waiting until nothing changes for {self._patience.quiet:g} s"
        return None

    def disturbed(self, error: NotQuiet) -> str:
        """Begin the quiet window anew: somebody wrote while it was captured."""
        self._quiet.reset()
        return str(error)

    def check_time(self, why: str) -> None:
        """Check that there is time left.

        Raises:
            NotCaptured
        """
        if self._ready_at is None:
            since, patience = self._began, self._patience.ready
        else:
            since, patience = self._ready_at, self._patience.settle
        if self._clock() - since >= patience:
            raise NotCaptured(f"nothing was captured within {patience:g} s: {why}")
