"""Lines of a log, made fit to be kept: printable, short, and without secrets."""

from __future__ import annotations

import re
from typing import Final

MAX_CHARACTERS: Final = 500

_ESCAPE: Final = re.compile(
    r"\x1b(?:\[[0-9;:?]{0,32}[ -/]{0,4}[@-~]|\][^\x07\x1b]{0,256}(?:\x07|\x1b\\))"
)
_BLANKS: Final = re.compile(r"\s+")
_HIDDEN: Final = "***"

_USERINFO: Final = re.compile(r"(?<=://)[^/\s@'\"]{1,512}@")
_QUERY: Final = re.compile(r"(://[^\s?#'\"]{1,1024})[?#][^\s'\"]*")
# What is said to be one: --api-key X, 'api_key': 'X', HF_TOKEN=X, Authorization: Bearer X.
_NAMED: Final = re.compile(
    r"((?:api[-_]?key|token|secret|passw(?:or)?d|credential|authorization|signature|private[-_]?key"
    r"|access[-_]?key)[A-Za-z_-]{0,20}['\"]?\s{0,3}[\s=:]\s{0,3}(?:bearer |basic )?['\"\[(]{0,3})"
    r"[^\s'\",)\]}]+",
    re.IGNORECASE,
)
# What looks like one: Hugging Face, OpenAI, GitHub, GitLab, AWS, Google, Slack, NVIDIA; a JWT.
_SHAPED: Final = re.compile(
    r"\b(?:hf_|sk-|gh[opsu]_|github_pat_|glpat-|AKIA|ASIA|AIza|ya29\.|xox[abp]-|nvapi-|eyJ)"
    r"[A-Za-z0-9_.-]{12,}"
)


def plain(text: str) -> str:
    """The text without colours and other control sequences."""
    return _ESCAPE.sub("", text) if "\x1b" in text else text


def fit(text: str) -> str:
    """One line to keep: at most 500 printable characters, what may be a secret as `***`."""
    # Cut before what costs time, with a margin in which a secret that is cut is still known.
    line = plain(text[: 4 * MAX_CHARACTERS])
    line = "".join(c if c.isprintable() else " " for c in line)
    line = _BLANKS.sub(" ", line).strip()
    line = _USERINFO.sub(f"{_HIDDEN}@", line)
    line = _QUERY.sub(rf"\1?{_HIDDEN}", line)
    line = _NAMED.sub(rf"\1{_HIDDEN}", line)
    line = _SHAPED.sub(_HIDDEN, line)
    return line if len(line) <= MAX_CHARACTERS else f"{line[: MAX_CHARACTERS - 1]}…"
