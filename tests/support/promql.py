"""What queries of dashboards and rules ask for, by their syntax trees."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import promql_parser as promql
import yaml

from modelcache.metrics.contract import FAMILIES, CounterFamily, Family, HistogramFamily, InfoFamily

TARGET: Final = frozenset({"cluster", "node", "job", "instance", "namespace", "pod"})
"""Labels that every series has from what is scraped."""

BY_PROMETHEUS: Final[Mapping[str, Mapping[str, tuple[str, ...] | None]]] = {
    "up": {},
    "ALERTS": {
        "alertname": None,
        "alertstate": ("pending", "firing"),
        "severity": ("critical", "warning"),
        "model": None,
    },
}
"""Metrics that Prometheus makes itself, with their labels but a target's."""

EXPOSED: Final[Mapping[str, Family]] = {
    name: family for family in FAMILIES for name in family.exposed
}
"""The family of each series that our programs expose."""

COUNTERS: Final = frozenset(
    name for name, family in EXPOSED.items() if isinstance(family, CounterFamily | HistogramFamily)
)


def as_grafana_asks(query: str, **variables: str) -> str:
    """A query with its variables replaced: by their values, all of them where none is given."""
    builtin = {"__rate_interval": "4m", "__range": "6h", "__interval": "1m"}
    everything = dict.fromkeys(("cluster", "node", "model", "compile_cache"), ".*")
    for name, value in {**builtin, **everything, **variables}.items():
        query = re.sub(rf"\$\{{{name}\}}|\${name}\b", value, query)
    return query


def selectors(query: str) -> Iterator[tuple[promql.VectorSelector, Sequence[Any]]]:
    """Each selector of series in a query, with what stands around it, the innermost last."""
    around: list[Any] = []
    found: list[tuple[promql.VectorSelector, Sequence[Any]]] = []

    def enter(node: Any) -> None:
        if isinstance(node, promql.VectorSelector):
            found.append((node, tuple(around)))
        around.append(node)

    def leave(_: Any) -> None:
        around.pop()

    promql.walk(promql.parse(query), enter, leave)
    yield from found


def labels_of(query: str, recorded: Mapping[str, Iterable[str]] | None = None) -> frozenset[str]:
    """The labels that the series of an answer can have.

    `recorded`: the labels of series that recording rules make, by their names.

    Raises:
        ValueError: it asks for what there isn't, or groups or joins by a label that isn't there.
    """
    return _labels(promql.parse(query), recorded or {})


def complaints_of_promtool(queries: Iterable[str], folder: Path) -> str:
    """What Prometheus' own parser has to say, with variables replaced; empty: nothing."""
    rules = [
        {"record": f"query:{index}", "expr": query} for index, query in enumerate(sorted(queries))
    ]
    path = folder / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", "--lint=none", path], capture_output=True, text=True
    )
    return done.stderr if done.returncode else ""


def family_labels(name: str) -> Mapping[str, tuple[str, ...] | None]:
    """The labels of a series, each with the values that there can be; None: names of objects.

    Raises:
        ValueError: there is no such series.
    """
    if name in BY_PROMETHEUS:
        return BY_PROMETHEUS[name]
    if name not in EXPOSED:
        raise ValueError(f"no program exposes {name}")
    family = EXPOSED[name]
    labels = {label.name: label.values for label in family.labels}
    if isinstance(family, InfoFamily):
        labels |= {label.name: label.values for label in family.facts}
    if name.endswith("_bucket"):
        labels["le"] = None
    return labels


def _labels(node: Any, recorded: Mapping[str, Iterable[str]]) -> frozenset[str]:
    match node:
        case promql.VectorSelector():
            return _labels_of_series(node, recorded)
        case promql.MatrixSelector():
            return _labels_of_series(node.vector_selector, recorded)
        case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            return _labels(node.expr, recorded)
        case promql.AggregateExpr():
            return _aggregated(node, recorded)
        case promql.BinaryExpr():
            return _joined(node, recorded)
        case promql.Call():
            found = frozenset().union(*(_labels(each, recorded) for each in node.args))
            return found - {"le"} if node.func.name == "histogram_quantile" else found
        case _:
            return frozenset()


def _labels_of_series(
    selector: promql.VectorSelector, recorded: Mapping[str, Iterable[str]]
) -> frozenset[str]:
    name = selector.name
    assert name is not None
    if name in recorded:
        there = frozenset(recorded[name])
    else:
        values = family_labels(name)
        there = TARGET | values.keys()
        for matcher in selector.matchers.matchers:
            _check_value(name, matcher, values.get(matcher.name))
    if missing := {matcher.name for matcher in selector.matchers.matchers} - there:
        raise ValueError(f"{name} has no label {sorted(missing)}")
    return there


def _check_value(name: str, matcher: promql.Matcher, values: tuple[str, ...] | None) -> None:
    if values is None:
        return
    if matcher.op in (promql.MatchOp.Equal, promql.MatchOp.NotEqual):
        asked = [matcher.value]
    else:
        asked = matcher.value.split("|")
    for value in asked:
        if not any(re.fullmatch(value, each) for each in values):
            raise ValueError(f"{name}: {matcher.name} is never {value!r}, but one of {values}")


def _aggregated(
    node: promql.AggregateExpr, recorded: Mapping[str, Iterable[str]]
) -> frozenset[str]:
    inner = _labels(node.expr, recorded)
    if node.modifier is None:
        return frozenset()
    named = frozenset(node.modifier.labels)
    if missing := named - inner:
        raise ValueError(f"{sorted(missing)} are no labels of {node.expr.prettify()}")
    return named if node.modifier.type == promql.AggModifierType.By else inner - named


def _joined(node: promql.BinaryExpr, recorded: Mapping[str, Iterable[str]]) -> frozenset[str]:
    left, right = _labels(node.lhs, recorded), _labels(node.rhs, recorded)
    if _is_scalar(node.lhs) or _is_scalar(node.rhs):
        return left | right
    operator = str(node.op)
    if operator == "or":
        return left | right
    modifier = node.modifier
    if modifier is None or modifier.matching is None:
        if left != right:
            raise ValueError(
                f"{node.prettify()} joins {sorted(left)} with {sorted(right)} by nothing"
            )
        return left
    matching = modifier.matching
    named = frozenset(matching.labels)
    if missing := named - (left & right):
        raise ValueError(f"{sorted(missing)} are not on both sides of {node.prettify()}")
    if operator in ("and", "unless"):
        return left
    if matching.type != promql.LabelModifierType.Include:
        return left - named
    return named | frozenset(modifier.group_labels or ())


def _is_scalar(node: Any) -> bool:
    match node:
        case promql.NumberLiteral():
            return True
        case promql.ParenExpr() | promql.UnaryExpr():
            return _is_scalar(node.expr)
        case promql.BinaryExpr():
            return _is_scalar(node.lhs) and _is_scalar(node.rhs)
        case promql.Call():
            return bool(node.func.return_type == promql.ValueType.Scalar)
        case _:
            return False


_OPERATORS: Final = (
    (promql.MatchOp.Equal, "="),
    (promql.MatchOp.NotEqual, "!="),
    (promql.MatchOp.Re, "=~"),
    (promql.MatchOp.NotRe, "!~"),
)


def written(selector: promql.VectorSelector) -> str:
    """A selector as a query of its own: without an offset, and with its strings quoted rightly."""
    parts = (
        # PromQL's strings are Go's; JSON's are a part of these.
        each.name
        + next(sign for kind, sign in _OPERATORS if kind == each.op)
        + json.dumps(each.value)
        for each in selector.matchers.matchers
    )
    return f"{selector.name or ''}{{{','.join(parts)}}}"


_COMPARISONS: Final = frozenset({"==", "!=", ">", "<", ">=", "<="})


def compared(query: str) -> list[str]:
    """What is compared in a query, but numbers: it has values where what is asked is not so."""
    found: list[str] = []

    def look(node: Any) -> bool:
        if isinstance(node, promql.BinaryExpr) and str(node.op) in _COMPARISONS:
            sides = (node.lhs, node.rhs)
            found.extend(str(side) for side in sides if not _is_scalar(side))
        return True

    promql.walk(promql.parse(query), look)
    return found
