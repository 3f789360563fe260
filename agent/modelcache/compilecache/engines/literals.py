"""Reads a Python literal of an untrusted file: dicts, lists, tuples, strings, numbers, None.

`ast.literal_eval` runs nothing, but a text that nests deeply can bring the interpreter down with
it (its documentation says so). So a text is let through to it only if it consists of nothing but
the tokens of such literals, and is shallow.
"""

from __future__ import annotations

import ast
import re
from typing import Any, Final

MAX_CHARACTERS: Final = 4 * 1024 * 1024
MAX_DEPTH: Final = 16

_TOKEN: Final = re.compile(
    r"\s+|#[^\n]*"
    r"|(?P<open>[(\[{])|(?P<close>[)\]}])|[,:]"
    r"|[bru]?'(?:[^'\\\n]|\\.)*'"
    r'|[bru]?"(?:[^"\\\n]|\\.)*"'
    # The digits of one number: converting many takes quadratic time.
    r"|[-+]?[0-9][0-9_.eE]{0,40}(?![0-9A-Za-z_.])"
    r"|(?:None|True|False)\b",
    re.DOTALL,
)


def read_literal(text: str) -> Any:
    """The value of a literal.

    Raises:
        ValueError: it is none, or is too large or too deep.
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"has more than {MAX_CHARACTERS} characters")
    position = depth = 0
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None:
            raise ValueError("is no Python literal")
        depth += (token["open"] is not None) - (token["close"] is not None)
        if depth > MAX_DEPTH:
            raise ValueError(f"nests deeper than {MAX_DEPTH} levels")
        position = token.end()
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError("is no Python literal") from error
