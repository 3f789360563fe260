"""The init container: the pod's own cache directory is filled from what the node holds.

It runs as the engine's user, so that what it makes is the engine's. Whatever is wrong with a bundle
or with the node, the pod starts: then it compiles, as it would without us.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import ValidationError

from modelcache.api.compilecache import Digest
from modelcache.api.meta import ApiModel
from modelcache.compilecache.bundles.local import LocalBundle
from modelcache.compilecache.engines.evidence import EngineHashes
from modelcache.compilecache.pods import environment
from modelcache.compilecache.pods.protocol import MOST_FILES
from modelcache.compilecache.starts.seeding import Seeded, seed
from modelcache.compilecache.starts.using import in_use
from modelcache.compilecache.trees.scanning import Limits
from modelcache.errors import BrokenBundle, ModelCacheError, NotFound
from modelcache.transfer.cancelling import Cancel

_CURRENT: Final = "current"
_LOOKS: Final = 3
_MOST_OF_LIMIT: Final = 0.8
"""What a bundle may take of the cache's limit: a pod that goes beyond it is evicted."""
_MAX_REPORT_BYTES: Final = 1 << 20
_PATIENCE_SECONDS: Final = 10.0
"""For what was cancelled."""


class SeedReport(ApiModel):
    """What the init container did, for the sidecar and for people."""

    how: Literal["unpacked", "kept", "left", "nothing"]
    """As `starts.seeding.Seeded`; nothing: there was no bundle, or it could not be used."""
    digest: Digest | None = None
    """The bundle that is in the cache directory."""
    files: int = 0
    bytes: int = 0
    seconds: float = 0.0
    hashes: EngineHashes = EngineHashes()
    """The engine's own, as they are recorded in the bundle."""
    why: str = ""
    """For people: why nothing was seeded."""

    @property
    def sentence(self) -> str:
        """For people."""
        if self.how == "unpacked":
            size = f"{self.files} files, {self.bytes} bytes"
            return f"seeded with {self.digest}: {size} in {self.seconds:.1f} s"
        if self.how == "kept":
            return f"has {self.digest}: {self.why}"
        return f"starts without a compile cache: {self.why}"


@dataclass(frozen=True, slots=True)
class Seeding:
    """What an init container is to do.

    Attributes:
        name: the CompileCache.
        bundles: a directory with a directory for each, as on a node.
        cache_dir: what is to be filled.
        work: where the report goes; None: nowhere.
        size: the most that the cache directory may hold, in bytes; None: no limit is known.
        seconds: how long it may take.
    """

    name: str
    bundles: Path
    cache_dir: Path
    work: Path | None = None
    size: int | None = None
    seconds: float = 600.0

    def run(self) -> SeedReport:
        """Seed, and report it. Nothing that can be wrong with what is there raises."""
        began = time.monotonic()
        try:
            with _bounded(self.seconds) as cancel:
                report = self._seeded(cancel)
        except ModelCacheError as error:
            report = SeedReport(how="nothing", why=str(error))
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            report = SeedReport(how="nothing", why=f"{where}{error.strerror or error}")
        except Exception as error:  # noqa: BLE001 - a defect of ours keeps no pod from starting
            why = f"a defect, please report it: {error!r}"
            report = SeedReport(how="nothing", why=why)
        report = report.model_copy(update={"seconds": round(time.monotonic() - began, 3)})
        self._note(report)
        return report

    def _seeded(self, cancel: Cancel) -> SeedReport:
        shown = self.bundles / self.name / _CURRENT
        for _ in range(_LOOKS):
            directory = _target(shown)
            try:
                # What another one takes the place of meanwhile is not removed while it is read.
                with in_use(directory):
                    return self._seeded_from(LocalBundle.open(directory), cancel)
            except NotFound:
                if _target(shown) == directory:
                    raise
        raise NotFound(f"{shown} changes all the time")

    def _seeded_from(self, bundle: LocalBundle, cancel: Cancel) -> SeedReport:
        statement = bundle.statement
        if statement.name != self.name:
            raise BrokenBundle(f"the bundle is one of {statement.name[:80]!r}, not of {self.name}")
        if self.size is not None and statement.archive.bytes > self.size * _MOST_OF_LIMIT:
            why = (
                f"its {statement.archive.bytes} bytes are too many for a directory that may hold"
                f" {self.size}"
            )
            return SeedReport(how="nothing", why=why)
        limits = Limits(files=MOST_FILES)
        found = seed(bundle, self.cache_dir, limits=limits, cancel=cancel)
        return _report(found, statement.engine_hashes if found.seeded else EngineHashes())

    def _note(self, report: SeedReport) -> None:
        """For the sidecar, which without it knows only what it sees."""
        if self.work is None:
            return
        path = self.work / environment.SEED_REPORT
        beside = path.with_name(f".{path.name}")
        try:
            beside.write_bytes(report.model_dump_json(by_alias=True).encode())
            os.replace(beside, path)
        except OSError:
            return


def read_report(work: Path) -> SeedReport | None:
    """What the init container did; None where it has left nothing that can be read."""
    try:
        with (work / environment.SEED_REPORT).open("rb") as file:
            content = file.read(_MAX_REPORT_BYTES + 1)
        if len(content) > _MAX_REPORT_BYTES:
            return None
        return SeedReport.model_validate_json(content, strict=True, by_name=False, by_alias=True)
    except (OSError, ValidationError):
        return None


def _report(found: Seeded, hashes: EngineHashes) -> SeedReport:
    return SeedReport(
        how=found.how,
        digest=found.digest,
        files=found.files,
        bytes=found.bytes,
        hashes=hashes,
        why=found.why,
    )


def _target(shown: Path) -> Path:
    """The directory of the bundle that is shown now.

    Raises:
        NotFound: there is none.
    """
    try:
        where = os.readlink(shown)
    except FileNotFoundError as error:
        raise NotFound(f"this node has no bundle of {shown.parent.name}") from error
    except OSError:
        # On shared storage, or baked into a root, it may be a directory itself.
        where = _CURRENT
    if where.startswith("/") or ".." in where.split("/"):
        raise NotFound(f"{shown} leads out of its directory, which is not followed")
    return shown.parent / where


@contextmanager
def _bounded(seconds: float) -> Iterator[Cancel]:
    """Cancelled when the time is over. What hangs then, in a read that never returns, is left to
    hang: the pod starts."""
    cancel = Cancel()
    timers = [
        threading.Timer(seconds, cancel.set),
        threading.Timer(seconds + _PATIENCE_SECONDS, os._exit, (0,)),
    ]
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        yield cancel
    finally:
        for timer in timers:
            timer.cancel()
