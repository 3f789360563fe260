"""Reads an engine's log, line by line, for what it says of its compiling."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Final

from modelcache.compilecache.engines.evidence import Evidence
from modelcache.compilecache.engines.redacting import fit, plain
from modelcache.compilecache.engines.roots import Engine
from modelcache.compilecache.engines.signs import FORMATS, PHASES, Sign

MAX_LINES: Final = 32
"""Telling lines that are kept."""
MAX_DIRECTORIES: Final = 16
MAX_RANKS: Final = 1024

_MAX_TEXT: Final = 1 << 20
_MAX_MESSAGE: Final = 8192
_MAX_SECONDS: Final = 1e7
_OF_A_KIND: Final = 3

_PARTS: Final = re.compile(r"[\r\n]+")
# (Worker_TP1 pid=41700), and [2026-02-26 05:24:09 DP0 TP4] of SGLang.
_PID: Final = re.compile(r"pid=([0-9]{1,10})")
_RANK: Final = re.compile(r"((?: [DTPE]P[0-9]{1,5}){1,5})\]")
_WORD_END: Final = re.compile(r"[a-z)]{0,8}")

_FAILURES: Final = (Sign.LOAD_FAILED, Sign.NOT_SAVED, Sign.DISABLED, Sign.NOT_STARTED)
_SECONDS_OF: Final = (Sign.DYNAMO, Sign.COMPILED, Sign.TOTAL_OF_ONE, Sign.TOGETHER)


class _Rank:
    """What one process of the engine said."""

    def __init__(self) -> None:
        self.counts: Counter[Sign] = Counter()
        self.seconds: defaultdict[Sign, float] = defaultdict(float)

    @property
    def compile_seconds(self) -> float | None:
        """How long it compiled, by what it says most exactly."""
        seconds = self.seconds
        if Sign.INIT in seconds:
            return seconds[Sign.INIT]
        for sign in (Sign.TOTAL_OF_ONE, Sign.TOTAL):
            if sign in seconds:
                return seconds[sign]
        parts = [seconds[sign] for sign in (Sign.DYNAMO, Sign.COMPILED) if sign in seconds]
        return sum(parts) if parts else seconds.get(Sign.TOGETHER)


class LogReader:
    """What an engine's log said up to now. For one thread.

    It says nothing of what a line means to be secret: what is kept of a line is the message alone,
    and that without what looks like a secret.
    """

    def __init__(self, engine: Engine) -> None:
        self._ready_messages = engine.ready
        self._ready = False
        self._ended = False
        self._version = ""
        self._ranks: dict[str, _Rank] = {}
        self._phases: dict[str, float] = {}
        self._directories: dict[str, None] = {}
        self._kept: list[tuple[Sign | None, str]] = []

    @property
    def ready(self) -> bool:
        """Whether it said that it serves: all that is compiled at the start is compiled."""
        return self._ready

    @property
    def ended(self) -> bool:
        """Whether it said that it stops, or that it can't start."""
        return self._ended

    @property
    def phases(self) -> Mapping[str, float]:
        """Seconds of the phases that it told the length of (download, weights, model, graphs,
        warmup, init), each the slowest rank's."""
        return dict(self._phases)

    def feed(self, line: str) -> None:
        """Read one line. A bar of progress may stand in it before a message, ended by `\\r`.

        Anything may be in it, and of any length: what is beyond a mebibyte is not read, nor of a
        message what is beyond 8192 characters.
        """
        for part in _PARTS.split(line[:_MAX_TEXT]):
            if part:
                self._read(plain(part[:_MAX_MESSAGE]))

    def evidence(self) -> Evidence:
        """What was seen up to now.

        A count is the highest of any rank: each tells its own. Of the graphs that ranks compile
        there may be two messages for each, which are not added up.
        """
        ranks = self._ranks.values()
        compile_seconds = [s for rank in ranks if (s := rank.compile_seconds) is not None]
        return Evidence(
            source="log",
            ready=self._ready,
            compile_seconds=max(compile_seconds, default=None),
            compiled=self._most(Sign.COMPILED, Sign.STORED, Sign.SAVED),
            loaded=self._most(Sign.LOADED, Sign.AOT_LOADED),
            load_failures=self._most(Sign.LOAD_FAILED),
            save_failures=self._most(Sign.NOT_SAVED),
            cache_dirs=tuple(self._directories),
            engine_version=self._version,
            lines=tuple(text for _, text in self._kept),
        )

    def _most(self, *signs: Sign) -> int:
        counts = (rank.counts[sign] for rank in self._ranks.values() for sign in signs)
        return max(counts, default=0)

    def _read(self, text: str) -> None:
        for form in FORMATS:
            start = text.find(form.literal)
            if start < 0:
                continue
            found = form.pattern.match(text, start)
            if found is not None:
                self._note(form.sign, found, text)
                return
        if not self._ready and any(message in text for message in self._ready_messages):
            self._ready = True
            self._keep(None, text)

    def _note(self, sign: Sign, found: re.Match[str], text: str) -> None:
        groups = found.groupdict()
        rank = self._rank(text[: found.start()])
        rank.counts[sign] += 1
        if groups.get("version"):
            self._version = groups["version"]
        self._note_seconds(sign, rank, groups)
        if sign in (Sign.CACHE_DIR, Sign.SAVED, Sign.AOT_LOADED, Sign.TUNED):
            self._note_directory(sign, groups["place"])
        if sign in (Sign.STOPPED, Sign.NOT_STARTED):
            self._ended = True
            # vLLM says that it starts its server before that has failed.
            self._ready = self._ready and sign is Sign.STOPPED
        # A failure's reason follows; of the others nothing but what is known to be there.
        end = None if sign in _FAILURES else _WORD_END.match(text, found.end())
        self._keep(sign, text[found.start() : end.end() if end is not None else None])

    def _note_seconds(self, sign: Sign, rank: _Rank, groups: dict[str, str | None]) -> None:
        seconds = _number(groups.get("seconds"))
        if seconds is None:
            return
        if sign in PHASES:
            phase = PHASES[sign]
            self._phases[phase] = max(self._phases.get(phase, 0.0), seconds)
        if sign is Sign.TOTAL:
            rank.seconds[sign] = max(rank.seconds[sign], seconds)
        elif sign in _SECONDS_OF:
            rank.seconds[sign] += seconds
        elif sign is Sign.INIT:
            compilation = _number(groups.get("compilation"))
            if compilation is not None:
                rank.seconds[sign] = max(rank.seconds[sign], compilation)

    def _note_directory(self, sign: Sign, place: str) -> None:
        directory = place if sign is Sign.CACHE_DIR else str(PurePosixPath(place).parent)
        if len(self._directories) < MAX_DIRECTORIES:
            self._directories.setdefault(fit(directory))

    def _rank(self, before: str) -> _Rank:
        """The process that a message is of, by what stands before it."""
        pids = _PID.findall(before)
        found = None if pids else _RANK.search(before)
        name = pids[-1] if pids else found[1] if found is not None else ""
        if name not in self._ranks and len(self._ranks) >= MAX_RANKS:
            name = ""
        return self._ranks.setdefault(name, _Rank())

    def _keep(self, sign: Sign | None, text: str) -> None:
        """Keep a line, few of one kind; failures push out others."""
        if sum(kind is sign for kind, _ in self._kept) >= _OF_A_KIND:
            return
        line = fit(text)
        if not line or (sign, line) in self._kept:
            return
        if len(self._kept) >= MAX_LINES:
            others = [n for n, (kind, _) in enumerate(self._kept) if kind not in _FAILURES]
            if sign not in _FAILURES or not others:
                return
            del self._kept[others[0]]
        self._kept.append((sign, line))


def _number(text: str | None) -> float | None:
    return min(float(text), _MAX_SECONDS) if text is not None else None
