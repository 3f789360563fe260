"""What servers say, before it is said again.

A server, or what stands before it, may say back who asked, and with what; reports and logs are
read by more people than its answers.
"""

from __future__ import annotations

import re

_CREDENTIALS = re.compile(
    r"(?<=\bbearer )\S+|(?<=\bbasic )\S+|\bya29\.\S+|\beyJ[\w.~+/=-]+"
    r"|[\w+=~]{32,}",
    re.IGNORECASE,
)
"""What follows the name of a scheme, Google's tokens, JSON Web Tokens, long words with digits."""


def without_credentials(text: str) -> str:
    """The text without what may be credentials."""
    return _CREDENTIALS.sub(_hidden, text)


def _hidden(found: re.Match[str]) -> str:
    word = found.group()
    return "…" if any(map(str.isdigit, word)) or len(word) < 32 else word
