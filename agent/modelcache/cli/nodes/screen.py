"""A terminal that is taken over for a while, and given back as it was.

The alternate screen, no cursor, and keys that come as they are pressed; whatever ends it (a key, a
signal, an exception), the terminal is as before. Ctrl-Z works as everywhere.
"""

from __future__ import annotations

import os
import select
import signal
import termios
import time
import tty
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum, auto
from types import FrameType, TracebackType
from typing import Any, Final, Self

from rich.console import Console
from rich.text import Text

_HOME: Final = "\x1b[H"
_CLEAR_LINE: Final = "\x1b[K"
_NO_WRAP, _WRAP = "\x1b[?7l", "\x1b[?7h"
_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_OTHERS: Final = (signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT)
_SMALLEST: Final = (20, 5)
_READ: Final = 256


class Key(Enum):
    """What was pressed, as far as it means something."""

    QUIT = auto()
    SORT = auto()
    VIEW = auto()
    UP = auto()
    DOWN = auto()
    PAGE_UP = auto()
    PAGE_DOWN = auto()
    TOP = auto()
    BOTTOM = auto()


_KEYS: Final = {
    b"q": Key.QUIT,
    b"Q": Key.QUIT,
    b"s": Key.SORT,
    b"v": Key.VIEW,
    b"\t": Key.VIEW,
    b"k": Key.UP,
    b"j": Key.DOWN,
    b"b": Key.PAGE_UP,
    b" ": Key.PAGE_DOWN,
    b"g": Key.TOP,
    b"G": Key.BOTTOM,
    b"\x1b[A": Key.UP,
    b"\x1bOA": Key.UP,
    b"\x1b[B": Key.DOWN,
    b"\x1bOB": Key.DOWN,
    b"\x1b[5~": Key.PAGE_UP,
    b"\x1b[6~": Key.PAGE_DOWN,
    b"\x1b[H": Key.TOP,
    b"\x1bOH": Key.TOP,
    b"\x1b[1~": Key.TOP,
    b"\x1b[F": Key.BOTTOM,
    b"\x1bOF": Key.BOTTOM,
    b"\x1b[4~": Key.BOTTOM,
}


def keys(pressed: bytes) -> list[Key]:
    """What some bytes from a terminal mean. What means nothing to us is skipped."""
    found = []
    while pressed:
        known = max((each for each in _KEYS if pressed.startswith(each)), key=len, default=b"")
        if known:
            found.append(_KEYS[known])
        pressed = pressed[len(known) or _length(pressed) :]
    return found


def _length(pressed: bytes) -> int:
    """Of a key that means nothing: an escape sequence (ECMA-48, 5.4) goes as a whole, so that its
    letters are not taken for keys."""
    if not pressed.startswith((b"\x1b[", b"\x1bO")):
        return 1
    for place, byte in enumerate(pressed[2:], 2):
        if 0x40 <= byte <= 0x7E:
            return place + 1
    return len(pressed)


class Screen:
    """The terminal of stdin and stdout, as long as the block lasts. For the main thread."""

    def __init__(self, console: Console) -> None:
        """`console` writes to the terminal; its colours count."""
        self._console = console
        self._in, self._out = 0, console.file.fileno()
        self._before: list[Any] = []
        self._handlers: dict[signal.Signals, Any] = {}
        self._signals: list[int] = []
        self._wake_in, self._wake_out = os.pipe()

    def __enter__(self) -> Self:
        self._before = termios.tcgetattr(self._in)
        for each in (self._wake_in, self._wake_out):
            os.set_blocking(each, False)
        self._wakeup = signal.set_wakeup_fd(self._wake_out, warn_on_full_buffer=False)
        for number in (*_ENDING, *_OTHERS):
            self._handlers[number] = signal.signal(number, self._note)
        self._take()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._give_back()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        for each in (self._wake_in, self._wake_out):
            os.close(each)

    @property
    def size(self) -> tuple[int, int]:
        """(columns, lines), as they are now; never less than a few of each."""
        try:
            found = os.get_terminal_size(self._out)
        except OSError:
            return _SMALLEST
        return max(_SMALLEST[0], found.columns), max(_SMALLEST[1], found.lines)

    def show(self, lines: Sequence[Text]) -> None:
        """Show as many lines as the terminal has; none is to be wider than it."""
        with self._console.capture() as drawn:
            for line in lines:
                self._console.print(line, end="\n", soft_wrap=True)
        rows = drawn.get().split("\n")
        width, _ = self.size
        # Behind a full line the cursor stands on its last character, which clearing would take.
        ends = ["" if line.cell_len >= width else _CLEAR_LINE for line in lines]
        text = "\r\n".join(row + end for row, end in zip(rows, ends, strict=False))
        self._write(f"{_HOME}{_NO_WRAP}{text}{_WRAP}")

    def wait(self, seconds: float) -> list[Key]:
        """Wait until something happens, and at most so long.

        Returns:
            What was pressed. Nothing, where the time is over, `wake` was called, or the terminal
            has another size. QUIT also where a signal ends it, or the terminal is gone.
        """
        until = time.monotonic() + seconds
        while True:
            left = until - time.monotonic()
            ready, _, _ = select.select([self._in, self._wake_in], [], [], max(0.0, left))
            woken = self._wake_in in ready
            if woken:
                os.read(self._wake_in, _READ)
            came, self._signals = self._signals, []
            if any(number in _ENDING for number in came):
                return [Key.QUIT]
            if signal.SIGTSTP in came:
                self._suspend()
                return []
            if came:  # another size, or back after a stop that could not be caught
                self._take()
                return []
            if self._in in ready:
                return self._pressed()
            if woken or left <= 0:
                return []

    def wake(self) -> None:
        """Have `wait` return now. For any thread."""
        with suppress(OSError):  # full: it is awake; closed: nobody waits any more
            os.write(self._wake_out, b"\0")

    def _pressed(self) -> list[Key]:
        try:
            pressed = os.read(self._in, _READ)
        except OSError:
            pressed = b""
        return keys(pressed) if pressed else [Key.QUIT]

    def _suspend(self) -> None:
        """Stop, as the terminal's other programs do; goes on here when it is continued."""
        self._give_back()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, self._note)
        self._signals.clear()
        self._take()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._signals.append(number)

    def _take(self) -> None:
        tty.setcbreak(self._in, termios.TCSANOW)
        self._console.set_alt_screen(True)
        self._console.show_cursor(False)

    def _give_back(self) -> None:
        with suppress(OSError):  # the terminal may be gone: then nobody misses it
            self._console.show_cursor(True)
            self._console.set_alt_screen(False)
        with suppress(termios.error):
            termios.tcsetattr(self._in, termios.TCSADRAIN, self._before)

    def _write(self, text: str) -> None:
        self._console.file.write(text)
        self._console.file.flush()
