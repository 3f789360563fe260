"""A real terminal for tests: a shell in a tmux of its own, whose screen can be read.

tmux (Debian's package) is both ends at once: it gives the program a terminal that understands what
a terminal has to, and says what a person would see on it.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from rich.color import Color
from rich.color_triplet import ColorTriplet
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import DIMMED_MONOKAI
from rich.text import Text

from tests.support.agent import COMMAND

_LOOK_SECONDS: Final = 0.05
_PROMPT: Final = "ready$ "
_FRONT, _BACK = DIMMED_MONOKAI.foreground_color, DIMMED_MONOKAI.background_color
_PAGE: Final = """<!doctype html><meta charset="utf-8"><style>
body {{ margin: 0; background: transparent }}
main {{ display: inline-block; padding: 14px 18px; border-radius: 8px;
  color: {foreground}; background: {background} }}
pre {{ margin: 0; font: 13px/1.3 "DejaVu Sans Mono", monospace }}
</style><main><pre>{code}</pre></main>"""


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


def as_html(coloured: str, width: int) -> str:
    """A page with a terminal's content in its `main`, for a browser to draw.

    Args:
        coloured: what is to be seen, with its escape sequences.
        width: in cells.
    """
    console = Console(
        record=True, file=io.StringIO(), force_terminal=True, color_system="truecolor", width=width
    )
    for line in coloured.rstrip("\n").split("\n"):
        console.print(_unreversed(Text.from_ansi(line)), soft_wrap=True)
    return console.export_html(theme=DIMMED_MONOKAI, inline_styles=True, code_format=_PAGE)


def _unreversed(text: Text) -> Text:
    """With colours for what is reversed, which the export to HTML loses."""
    front, back = (Color.from_triplet(ColorTriplet(*rgb)) for rgb in (_FRONT, _BACK))
    for place, span in enumerate(text.spans):
        if isinstance(span.style, Style) and span.style.reverse:
            style = span.style + Style(reverse=False, color=back, bgcolor=front)
            text.spans[place] = span._replace(style=style)
    return text
