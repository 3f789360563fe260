"""One start of an engine by this program: seeded before, judged, and captured after.

The engine is never worse off than without: whatever fails is told, and the command runs. This
process's main thread does nothing but wait for signals and for the engine's end; what may take
long is done in threads beside it, each within a bound.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import structlog

from modelcache.compilecache.bundles.packing import Compression
from modelcache.compilecache.bundles.signing import SigningKey
from modelcache.compilecache.engines.evidence import Evidence
from modelcache.compilecache.engines.judging import Result, Verdict
from modelcache.compilecache.engines.table import Engine
from modelcache.compilecache.keys.parts import Key
from modelcache.compilecache.starts.capturing import Captured
from modelcache.compilecache.starts.conducting import Conducted
from modelcache.compilecache.starts.following import Engaged, Following, How, ranks_of
from modelcache.compilecache.starts.keeping import Keeper
from modelcache.compilecache.starts.preparing import Prepared, Wishes, prepare, told
from modelcache.compilecache.starts.reporting import (
    Capturing,
    Seeding,
    Start,
    lines,
    write_last,
)
from modelcache.compilecache.starts.signalling import STOPPING, Signals
from modelcache.compilecache.starts.sources import Sources
from modelcache.errors import Cancelled, ModelCacheError
from modelcache.store.durable import Durable
from modelcache.transfer.cancelling import Cancel

STOP_SECONDS: Final = 20.0
"""For what is left to do after an engine that was told to stop: a pod's grace is 30 s."""
_CANCEL_SECONDS: Final = 5.0
"""For a thread that is told to end."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Order:
    """What is to be run, and how.

    Attributes:
        argv: the command.
        env: its environment, as the user has it.
        engine: which engine it starts.
        cache_dir: where its caches are to lie, an absolute path.
        key: finds out what it is started for.
        sources: where bundles are.
        durable: for what is written below the root.
        signing_key: the key that captures are signed with.
        seeds, captures: whether it is seeded, and captured.
        quiet_seconds: for how long nothing may change before a capture.
        prepare_seconds: how long the engine waits for its seed at most.
        finish_seconds: how long the capture of an engine that has ended may take.
        tell: says one line to the user.
        done: takes the document on the start, once all of it is known.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    engine: Engine
    cache_dir: Path
    key: Callable[[], Key]
    sources: Sources
    durable: Durable
    signing_key: Callable[[], SigningKey]
    tell: Callable[[str], None]
    done: Callable[[Start], None] = lambda _start: None
    seeds: bool = True
    captures: bool = True
    compression: Compression = "zstd"
    quiet_seconds: float = 60.0
    prepare_seconds: float = 300.0
    finish_seconds: float = 600.0


def run(order: Order) -> int:
    """Run the command.

    Returns:
        Its exit code; 128 and the signal's number where a signal ended it, or this program before
        it was started.

    Raises:
        NotStarted: it can't be run.
    """
    with Signals() as signals, ExitStack() as kept:
        return _Run(order, signals, kept).run()


@dataclass
class _Work:
    """Something that is done in a thread beside the main one."""

    signals: Signals
    cancel: Cancel = field(default_factory=Cancel)
    trouble: str = ""
    _done: threading.Event = field(default_factory=threading.Event)

    def start(self, call: Callable[[Cancel], None], name: str) -> None:
        self._thread = threading.Thread(target=self._run, args=(call,), name=name, daemon=True)
        self._thread.start()

    @property
    def over(self) -> bool:
        return self._done.is_set()

    def stop(self) -> bool:
        """Have it end soon; whether it did."""
        # In a thread of its own: what it wakes may wait.
        threading.Thread(target=self.cancel.set, daemon=True).start()
        self._thread.join(_CANCEL_SECONDS)
        return self.over

    def _run(self, call: Callable[[Cancel], None]) -> None:
        try:
            call(self.cancel)
        except Cancelled:
            self.trouble = "it took too long, or was told to stop"
        except ModelCacheError as error:
            self.trouble = str(error)
        except OSError as error:
            self.trouble = told(error)
        except Exception as error:  # the engine is not to pay for a defect of ours
            log.exception("compile.defect")
            self.trouble = f"a defect, please report it: {error!r}"
        finally:
            # Before it calls: who is called looks once, while this thread may still be alive.
            self._done.set()
            self.signals.call()


class _Run:
    def __init__(self, order: Order, signals: Signals, kept: ExitStack) -> None:
        self._order = order
        self._signals = signals
        self._kept = kept
        self._prepared = Prepared(order.env)
        self._started_at = datetime.now(UTC).replace(microsecond=0)
        self._stopping = False
        self._verdict: Verdict | None = None

    def run(self) -> int:
        number = self._prepare()
        if number is not None:
            return 128 + number
        order, prepared = self._order, self._prepared
        engaged = Engaged(order.engine, order.argv, prepared, order.cache_dir)
        child = Conducted(order.argv, prepared.env, signals=self._signals, on_line=engaged.feed)
        following = self._following(engaged)
        work = _Work(self._signals)
        work.start(following.run, "following")
        self._conduct(child)
        engaged.end(child.code)
        self._finish(work)
        self._report(following, work.trouble, child.code)
        return child.code

    def _prepare(self) -> int | None:
        """Prepare the start, within its time; the number of a signal that ends this program."""
        order, work = self._order, _Work(self._signals)
        found: list[Prepared] = []
        wishes = Wishes(
            order.engine, order.env, order.cache_dir, order.key, order.sources, order.seeds
        )
        work.start(lambda cancel: found.append(prepare(wishes, self._kept, cancel)), "preparing")
        until = time.monotonic() + order.prepare_seconds
        while not work.over:
            signalled = self._signals.next(max(0.0, until - time.monotonic()))
            if signalled is not None and signalled[0] in STOPPING:
                work.stop()
                return signalled[0]
            if time.monotonic() >= until:
                # If it hangs, nobody knows what it still writes: its directory is not used.
                work.stop()
                break
        if found:
            self._prepared = found[0]
        else:
            self._prepared = Prepared(order.env, seeding=Seeding(message=work.trouble or _SLOW))
        return None

    def _following(self, engaged: Engaged) -> Following:
        order, key = self._order, self._prepared.key
        ranks = ranks_of(key) if key is not None else 1
        layout = order.sources.holding.layout
        how = How(layout.captures, order.quiet_seconds, ranks, order.compression)
        if order.captures and key is None:
            why = "what the command was started for is not known"
            return Following(engaged, how, None, self._judged, why)
        return Following(engaged, how, self._keep if order.captures else None, self._judged)

    def _conduct(self, child: Conducted) -> None:
        """Pass signals on until the engine has ended."""
        while not child.ended:
            signalled = self._signals.next(5.0)
            if signalled is None or signalled[0] == signal.SIGCHLD:
                continue
            number, by_terminal = signalled
            self._stopping = self._stopping or number in STOPPING
            # A terminal has sent it to the engine as well.
            if not by_terminal or number == signal.SIGWINCH:
                child.send(number)
        child.drain()

    def _finish(self, work: _Work) -> None:
        """After the engine's end: let the capture finish, within its time."""
        seconds = STOP_SECONDS if self._stopping else self._order.finish_seconds
        until = time.monotonic() + seconds
        while not work.over and time.monotonic() < until:
            signalled = self._signals.next(min(1.0, max(0.0, until - time.monotonic())))
            if signalled is not None and signalled[0] in STOPPING:
                break
        if not work.over:
            work.stop()

    def _judged(self, verdict: Verdict, evidence: Evidence) -> None:
        """Note what the start says of the bundle, and tell the user at once."""
        self._verdict = verdict
        self._order.tell(next(lines(self._start(verdict, None, "", None))))
        bundle, sources = self._prepared.bundle, self._order.sources
        if bundle is None:
            return
        if evidence.load_failures:
            sources.marks.failed(sources.name, bundle.digest, verdict.message)
        elif verdict.result in (Result.HIT, Result.PARTIAL):
            sources.marks.loaded(sources.name, bundle.digest)

    def _keep(self, captured: Captured) -> Capturing:
        key = self._prepared.key
        assert key is not None
        kept = self._bundle(captured, key)
        now = self._key_by_now(key)
        if now is not None:
            self._bundle(captured, now)
        return kept

    def _key_by_now(self, key: Key) -> Key | None:
        """What the next start will be for, where this one has downloaded its model: then the
        model's commit is known, which is part of the key. A machine that has yet to download it
        asks for what this start was for, so a bundle is made for both."""
        if key.model.revision or not key.model.id.startswith("hf://"):
            return None
        try:
            now = self._order.key()
        except (ModelCacheError, OSError):
            return None
        # Nothing else may have changed meanwhile.
        same = now.model.id == key.model.id and now.model_copy(update={"model": key.model}) == key
        return now if same and now != key else None

    def _bundle(self, captured: Captured, key: Key) -> Capturing:
        order, sources = self._order, self._order.sources
        keeper = Keeper(sources.holding, order.durable, order.signing_key(), sources.name, key)
        bundle = keeper.keep(captured)
        archive = bundle.statement.archive
        place, trouble = "", ""
        if sources.place is not None:
            try:
                sources.place.publish(bundle)
                place = sources.place.uri
            except ModelCacheError as error:
                trouble = f"it was not published: {error}"
        return Capturing(
            digest=bundle.digest,
            files=archive.files,
            bytes=archive.bytes,
            archive_bytes=archive.size,
            place=place,
            message=trouble,
        )

    def _report(self, following: Following, trouble: str, code: int) -> None:
        """Tell what became of it: the rest of the lines, the root's note, the document."""
        order = self._order
        start = self._start(self._verdict, following, trouble, code)
        said = [*lines(start)]
        for line in said[1:] if self._verdict is not None else said:
            order.tell(line)
        try:
            write_last(order.sources.holding.layout, order.durable, start)
            order.done(start)
        except ModelCacheError as error:
            order.tell(f"the report could not be written: {error}")
        except OSError as error:
            order.tell(f"the report could not be written: {told(error)}")

    def _start(
        self, verdict: Verdict | None, following: Following | None, trouble: str, code: int | None
    ) -> Start:
        order, prepared = self._order, self._prepared
        bundle = prepared.bundle
        return Start(
            name=order.sources.name,
            engine=order.engine.name,
            cache_dir=str(order.cache_dir),
            key=prepared.key,
            started_at=self._started_at,
            ended_at=datetime.now(UTC).replace(microsecond=0) if code is not None else None,
            exit_code=code,
            result=verdict.result.value if verdict else "Unknown",
            reason=verdict.reason.value if verdict and verdict.reason else "",
            message=verdict.message if verdict else trouble,
            compile_seconds=verdict.compile_seconds if verdict else None,
            cold_seconds=bundle.statement.evidence.compile_seconds if bundle else None,
            evidence=following.evidence if following else None,
            seeding=prepared.seeding,
            capturing=_with(following.capturing, trouble) if following else Capturing(),
            notes=_notes(prepared, following, verdict),
        )


_SLOW: Final = "preparing took too long"


def _notes(
    prepared: Prepared, following: Following | None, verdict: Verdict | None
) -> tuple[str, ...]:
    """What else is to be said, and is not in the verdict already."""
    more = following.notes if following is not None else ()
    said = verdict.message if verdict is not None else ""
    return (*prepared.notes, *(note for note in more if note not in said))


def _with(capturing: Capturing, trouble: str) -> Capturing:
    if not trouble or capturing.digest is not None:
        return capturing
    return capturing.model_copy(update={"message": trouble})
