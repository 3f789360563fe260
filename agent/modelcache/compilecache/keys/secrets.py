"""Keeping secrets out of keys, which are shown, stored beside bundles, and compared by people.

What may be a secret is replaced by 16 hex digits of its SHA-256: two can still be told apart. It is
known by the name that it has (`--hf-token`, `password=`), by where it stands (a URL's login and its
query, `Authorization: Bearer ...`), or by its form (tokens of well-known services).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final

from modelcache.api.uri import shown_uri
from modelcache.compilecache.keys.parts import canonical

_WORDS: Final = {
    *("auth", "authorization", "bearer", "cookie", "credential", "credentials", "key", "apikey"),
    *("keyfile", "pass", "passphrase", "passwd", "password", "passwords", "pin", "pwd", "secret"),
    *("secrets", "signature", "token"),
}
_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_HIDDEN: Final = re.compile(r"sha256:[0-9a-f]{16}")
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,20}://[^\s\"'<>]+")
_NAME: Final = re.compile(
    r"(?P<name>[A-Za-z][\w.-]{0,100}+)[\"']?\s{0,4}[=:]\s{0,4}(?P<quote>[\"']?)"
)
_OPTION: Final = re.compile(
    r"(?<![^\s\"'])--?(?P<name>[A-Za-z][\w-]{0,100}+)\s++(?P<value>(?!-)[^\s\"']+)"
)
_SCHEMED: Final = re.compile(r"(?i)\b(?P<scheme>bearer|basic)\s+(?P<value>[^\s\"']+)")
# Of Hugging Face, OpenAI, GitHub, GitLab, Slack, NVIDIA, AWS; JSON Web Tokens.
_TOKEN: Final = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{8,}|sk-[A-Za-z0-9_-]{8,}|gh[pousr]_[A-Za-z0-9]{8,}"
    r"|glpat-[A-Za-z0-9_-]{8,}|xox[a-z]-[A-Za-z0-9-]{8,}|nvapi-[A-Za-z0-9_-]{8,}"
    r"|(?:AKIA|ASIA)[A-Z0-9]{12,}|eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)*)"
)
_LEAST: Final = 8
_PASSES: Final = 8
_JSON_CHARACTERS: Final = 65_536


def is_secret_name(name: str) -> bool:
    """Whether what has this name may be a secret: api-key, HF_TOKEN, awsSecretAccessKey.

    `max_tokens` and `tokenizer` are none: whole words count.
    """
    return any(word.lower() in _WORDS for word in _WORD.findall(name))


def hidden(value: str) -> str:
    """What stands for a secret: `sha256:` and 16 hex digits. What is hidden stays as it is."""
    if _HIDDEN.fullmatch(value):
        return value
    return f"sha256:{digest16(value)}"


def digest16(value: str) -> str:
    """16 hex digits of a value's SHA-256."""
    return sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def without_secrets(text: str) -> str:
    """A text with its secrets hidden; JSON in its canonical form. Applied again it changes nothing.

    Of a URL the login goes altogether.
    """
    if text[:1] in ("{", "[") and len(text) <= _JSON_CHARACTERS:
        try:
            return canonical(_clean(json.loads(text))).decode()
        except (ValueError, RecursionError):
            pass  # something else that begins like it
    return _plain(text)


def without_values(argv: Sequence[str], env: Mapping[str, str]) -> list[str]:
    """A command line without what its environment has under a telling name, as a shell or kubelet
    put it there (`--foo=$(MY_TOKEN)`). What is short, or a path, is left: it is no secret."""
    values = {
        value
        for name, value in env.items()
        if is_secret_name(name) and len(value) >= _LEAST and not value.startswith("/")
    }
    found = []
    for argument in argv:
        for value in sorted(values, key=lambda value: (-len(value), value)):
            argument = argument.replace(value, hidden(value))
        found.append(argument)
    return found


def _clean(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: hidden(item if isinstance(item, str) else canonical(item).decode())
            if is_secret_name(name)
            else _clean(item)
            for name, item in value.items()
        }
    if isinstance(value, list):
        return [*_cleaned(value)]
    return _plain(value) if isinstance(value, str) else value


def _cleaned(values: list[Any]) -> Iterator[Any]:
    """A list, which may be a command line."""
    before: Any = ""
    for value in values:
        told = isinstance(before, str) and before.startswith("-") and is_secret_name(before)
        yield hidden(value) if told and isinstance(value, str) else _clean(value)
        before = value


def _plain(text: str) -> str:
    for _ in range(_PASSES):  # what one pass puts together may be a name to the next
        before, text = text, _pass(text)
        if text == before:
            break
    return text


def _pass(text: str) -> str:
    text = _URL.sub(_shown_url, text)
    text = _OPTION.sub(_without_value, text)
    text = _SCHEMED.sub(lambda match: f"{match['scheme']} {hidden(match['value'])}", text)
    return _TOKEN.sub(lambda match: hidden(match[0]), _named(text))


def _shown_url(match: re.Match[str]) -> str:
    shown = shown_uri(match[0])
    address, mark, query = shown.partition("?")
    if not mark or query.startswith("query-sha256="):
        return shown
    return f"{address}?{hidden(query)}"


def _without_value(match: re.Match[str]) -> str:
    """Of `--hf-token ...` in a text."""
    if not is_secret_name(match["name"]):
        return match[0]
    return match[0][: match.start("value") - match.start()] + hidden(match["value"])


def _named(text: str) -> str:
    """Hides what follows a telling name: up to the closing quote, else all of the rest."""
    done, place = "", 0
    while match := _NAME.search(text, place):
        end = len(text)
        if is_secret_name(match["name"]):
            if match["quote"]:
                end = text.find(match["quote"], match.end())
                end = len(text) if end < 0 else end
            done += text[place : match.end()]
            done += hidden(text[match.end() : end]) if end > match.end() else ""
            place = end
        else:
            done += text[place : match.end()]
            place = match.end()
    return done + text[place:]
