"""An engine as a child: what it writes passes through, unchanged, and is read on the way.

It finds what it would find without us: the same standard input, a terminal where there is one, and
signals as they come. What is written to one place by both of its streams goes through one pipe, so
that the order stays.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

import structlog

from modelcache.compilecache.starts.signalling import Signals
from modelcache.errors import ModelCacheError

_READ_BYTES: Final = 64 * 1024
_LINE_BYTES: Final = 64 * 1024
"""A longer line is read in parts."""
_DRAIN_SECONDS: Final = 2.0
"""How long what an engine left running (a daemon of its own) may keep the pipe open, silently."""
_WINDOW: Final = struct.Struct("HHHH")

log = structlog.get_logger(__name__)


class NotStarted(ModelCacheError):
    """The command can't be run. Exit codes as a shell has them: 127 not found, 126 not allowed."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = code


def not_started(argv: Sequence[str], error: OSError) -> NotStarted:
    """Why a command can't be run."""
    code = 127 if isinstance(error, FileNotFoundError) else 126
    return NotStarted(f"{argv[0]} can't be run: {error.strerror or error}", code)


class Conducted:
    """A child that runs. For one thread, but for what is told to be otherwise."""

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        *,
        signals: Signals,
        on_line: Callable[[str], None],
    ) -> None:
        """Start it.

        Args:
            argv: the command.
            env: its whole environment.
            signals: what this process holds back.
            on_line: called with each line that it writes, from other threads, one at a time.

        Raises:
            NotStarted
        """
        self._lines = _Lines(on_line)
        pipes = _pipes()
        try:
            with signals.let_through():
                self._process = subprocess.Popen(  # noqa: S603 - the user's own command
                    list(argv), env=dict(env), stdout=pipes[0].theirs, stderr=pipes[-1].theirs
                )
        except OSError as error:
            for pipe in pipes:
                pipe.close()
            raise not_started(argv, error) from error
        self._pipes = pipes
        self._threads = [
            threading.Thread(target=pipe.run, args=(self._lines,), name="output", daemon=True)
            for pipe in pipes
        ]
        for pipe, thread in zip(pipes, self._threads, strict=True):
            os.close(pipe.theirs)
            thread.start()

    @property
    def pid(self) -> int:
        """Of the child."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    @property
    def code(self) -> int:
        """Its exit code, once it has ended; 128 and the signal's number, where one killed it."""
        code = self._process.returncode
        return code if code >= 0 else 128 - code

    def send(self, number: int) -> None:
        """Send it a signal."""
        if number == signal.SIGWINCH:
            for pipe in self._pipes:
                pipe.resize()
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    def drain(self) -> None:
        """Once it has ended: pass on the rest of what it wrote."""
        quiet_since = time.monotonic()
        seen = -1
        while any(thread.is_alive() for thread in self._threads):
            passed = sum(pipe.passed for pipe in self._pipes)
            if passed != seen:
                seen, quiet_since = passed, time.monotonic()
            elif time.monotonic() - quiet_since > _DRAIN_SECONDS:
                break
            for thread in self._threads:
                thread.join(0.02)
        self._lines.end()


class _Lines:
    """Puts lines together out of the pieces of several streams."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line: Callable[[str], None] | None = on_line
        self._mutex = threading.Lock()
        self._rests: dict[int, bytes] = {}

    def feed(self, stream: int, piece: bytes) -> None:
        with self._mutex:
            *lines, rest = (self._rests.get(stream, b"") + piece).split(b"\n")
            while len(rest) > _LINE_BYTES:
                lines.append(rest[:_LINE_BYTES])
                rest = rest[_LINE_BYTES:]
            self._rests[stream] = rest
            for line in lines:
                self._tell(line)

    def end(self) -> None:
        with self._mutex:
            for rest in self._rests.values():
                self._tell(rest)
            self._rests.clear()

    def _tell(self, line: bytes) -> None:
        if self._on_line is None or not line:
            return
        try:
            self._on_line(line.decode(errors="replace"))
        except Exception:  # the engine's output passes through, whatever is wrong with us
            log.exception("output.unread")
            self._on_line = None


class _Pipe:
    """One way from the child to a descriptor of ours."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.is_terminal = os.isatty(target)
        self.ours, self.theirs = os.openpty() if self.is_terminal else os.pipe()
        self.passed = 0
        if self.is_terminal:
            with suppress(termios.error, OSError):
                _as_terminal(target, self.theirs)
            self.resize()

    def close(self) -> None:
        os.close(self.ours)
        os.close(self.theirs)

    def resize(self) -> None:
        """Tell the child's terminal the size of ours."""
        if self.is_terminal:
            with suppress(OSError):
                size = fcntl.ioctl(self.target, termios.TIOCGWINSZ, bytes(_WINDOW.size))
                fcntl.ioctl(self.ours, termios.TIOCSWINSZ, size)

    def run(self, lines: _Lines) -> None:
        """Pass on until the end. Where nobody reads any more, nor is the child read."""
        try:
            while piece := _read(self.ours):
                _write(self.target, piece)
                self.passed += len(piece)
                lines.feed(self.target, piece)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO, errno.EBADF):
                log.warning("output.lost", message=error.strerror)
        finally:
            os.close(self.ours)


def _pipes() -> list[_Pipe]:
    """One for both streams where they go to the same place, else two."""
    try:
        same = os.path.samestat(os.fstat(1), os.fstat(2))
    except OSError:  # one of them is closed
        same = False
    return [_Pipe(1)] if same else [_Pipe(1), _Pipe(2)]


def _as_terminal(ours: int, theirs: int) -> None:
    """The same settings, but that what comes out is not processed twice."""
    settings = termios.tcgetattr(ours)
    settings[1] &= ~termios.OPOST
    termios.tcsetattr(theirs, termios.TCSANOW, settings)


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, _READ_BYTES)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return b""  # a terminal whose last user has closed it


def _write(fd: int, piece: bytes) -> None:
    view = memoryview(piece)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:  # somebody who has the same file open has set O_NONBLOCK
            select.select([], [fd], [])
