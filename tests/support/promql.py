"""What a PromQL expression asks for."""

from __future__ import annotations

import json
from typing import Final

import promql_parser

_OPERATORS: Final = ("=", "!=", "=~", "!~")
_KINDS: Final = (
    promql_parser.MatchOp.Equal,
    promql_parser.MatchOp.NotEqual,
    promql_parser.MatchOp.Re,
    promql_parser.MatchOp.NotRe,
)


def selectors(expression: str) -> list[str]:
    """Its selectors of series: names and what their labels are to match, without any time.

    >>> selectors('sum(rate(x{job=~"a|b"}[5m] offset 1h)) > on () y')
    ['x{job=~"a|b"}', 'y{}']
    """
    found: list[str] = []

    def look(node: promql_parser.Expr) -> bool:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(_written(node))
        return True

    promql_parser.walk(promql_parser.parse(expression), look)
    return found


def _written(selector: promql_parser.VectorSelector) -> str:
    parts = (
        # PromQL's strings are Go's; JSON's are a part of these.
        f"{each.name}{_OPERATORS[_KINDS.index(each.op)]}{json.dumps(each.value)}"
        for each in selector.matchers.matchers
    )
    return f"{selector.name or ''}{{{','.join(parts)}}}"
