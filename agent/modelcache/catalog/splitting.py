"""A YAML stream, cut into its documents before any of them is parsed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

LINE_BREAK: Final = re.compile(r"\r\n|\r|\n")
"""What ends a line, for YAML as for editors."""

_MARKER: Final = re.compile(r"(?:(?<=[\r\n])|\A)\ufeff?(?P<mark>---|\.\.\.)(?=[ \t\r\n]|\Z)")
_DIRECTIVE: Final = re.compile(r"%(YAML[ \t]+1\.[0-9]|TAG[ \t]+\S+[ \t]+\S+)([ \t]+#.*)?")
_LINE: Final = re.compile(r"[^\r\n]+")


def split(text: str) -> Iterator[tuple[int, str]]:
    """The documents of a stream, each with the number of its first line; without empty ones.

    It is cut at the lines `---` and `...` before anything is parsed: YAML allows them nowhere
    else (1.2.2, 9.1.2), and a syntax error stays within its document.
    """
    start, line = 0, 1
    in_prologue = False
    for marker in _MARKER.finditer(text):
        end = marker.end() if marker["mark"] == "..." else marker.start()
        chunk = text[start:end]
        if marker["mark"] == "---" and not in_prologue and _is_prologue(chunk):
            in_prologue = True
            continue
        in_prologue = False
        if has_content(chunk):
            yield line, chunk
        line += len(LINE_BREAK.findall(chunk))
        start = end
    if has_content(text[start:]):
        yield line, text[start:]


def has_content(chunk: str) -> bool:
    """Whether there is more than white space, comments, markers and directives."""
    return any(not _DIRECTIVE.fullmatch(line) for line in _content(chunk))


def _is_prologue(chunk: str) -> bool:
    """Whether it holds directives (%YAML, %TAG) and no more: they belong to what follows."""
    first = next(_content(chunk), "")
    return bool(_DIRECTIVE.fullmatch(first)) and not has_content(chunk)


def _content(chunk: str) -> Iterator[str]:
    for match in _LINE.finditer(chunk):
        line = match.group().strip("\ufeff \t")
        if line.startswith("---") and line[3:4] in ("", " ", "\t"):
            line = line[3:].strip()
        if line and line != "..." and not line.startswith("#"):
            yield line
