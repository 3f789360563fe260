"""A real terminal for tests: a shell in a tmux of its own, whose screen can be read.

tmux (Debian's package) is both ends at once: it gives the program a terminal that understands what
a terminal has to, and says what a person would see on it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.support.agent import COMMAND

_LOOK_SECONDS: Final = 0.05
_PROMPT: Final = "ready$ "


class Terminal:
    """A terminal with a shell in it. `type` and `press` are a person's hands, `text` their eyes."""

    def __init__(
        self,
        *,
        width: int = 80,
        height: int = 24,
        env: Mapping[str, str] | None = None,
        term: str = "",
    ) -> None:
        """`term`: what the shell is told its terminal is; by default what tmux says of itself."""
        self._folder = tempfile.mkdtemp(prefix="screen-")
        self._tmux = ("tmux", "-S", f"{self._folder}/tmux", "-f", "/dev/null")
        path = f"{Path(COMMAND).parent}:{os.environ['PATH']}"
        given = {"PS1": _PROMPT, "PATH": path, "LC_ALL": "C.UTF-8", "SHELL": "/bin/sh"}
        self._env = {**os.environ, **given, **(env or {})}
        self._env.pop("TMUX", None)
        for name in ("COLUMNS", "LINES", "NO_COLOR", "COLORTERM", "ENV"):
            if name not in (env or {}):
                self._env.pop(name, None)
        size = ("-x", str(width), "-y", str(height))
        change = (f"TERM={term} ",) if term else ()
        self._run("new-session", "-d", *size, f"exec env {''.join(change)}/bin/sh")
        self._run("set-option", "-g", "status", "off")
        # Only then is the pane as large as the window.
        self.resize(width, height)
        self.wait_for(_PROMPT.strip())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        subprocess.run([*self._tmux, "kill-server"], capture_output=True, check=False, timeout=20)
        shutil.rmtree(self._folder, ignore_errors=True)

    def type(self, line: str) -> None:
        """A line, and Enter."""
        self._run("send-keys", "-l", line)
        self.press("Enter")

    def press(self, *keys: str) -> None:
        """Keys by tmux's names: `q`, `Down`, `PPage`, `C-c`."""
        self._run("send-keys", *keys)

    def resize(self, width: int, height: int) -> None:
        """Another size; the program is told."""
        self._run("resize-window", "-x", str(width), "-y", str(height))

    @property
    def text(self) -> str:
        """What is to be seen, without colours; lines end where their last character is."""
        return self._run("capture-pane", "-p")

    @property
    def coloured(self) -> str:
        """The same with the escape sequences of its colours."""
        return self._run("capture-pane", "-p", "-e", "-N")

    @property
    def lines(self) -> list[str]:
        """What is to be seen, by lines."""
        return self.text.splitlines()

    def told(self, what: str) -> str:
        """What tmux knows of the terminal: `alternate_on`, `cursor_flag`, `pane_pid` …"""
        return self._run("display-message", "-p", f"#{{{what}}}").strip()

    def wait_for(
        self, what: str | Callable[[str], bool], timeout: float = 30.0, *, gone: bool = False
    ) -> str:
        """Wait until something is to be seen, or, with `gone`, no more; what is to be seen then."""
        deadline = time.monotonic() + timeout
        while True:
            text = self.text
            if (what(text) if callable(what) else what in text) is not gone:
                return text
            if time.monotonic() > deadline:
                raise AssertionError(f"{what!r} was waited for in vain; there is:\n{text}")
            time.sleep(_LOOK_SECONDS)

    def wait_for_prompt(self, timeout: float = 30.0) -> str:
        """Wait until the shell has the terminal back; what is to be seen then."""
        return self.wait_for(lambda text: text.rstrip().endswith(_PROMPT.strip()), timeout)

    def _run(self, *arguments: str) -> str:
        return subprocess.run(
            [*self._tmux, *arguments],
            env=self._env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=True,
            timeout=20,
        ).stdout
