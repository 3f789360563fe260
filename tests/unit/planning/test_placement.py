from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcache.api import CachedModelSpec
from modelcache.api.cachedmodel import NodeAffinity, NodeSelector, NodeSelectorTerm, Source
from modelcache.api.cachedmodel import SelectorRequirement as Requirement
from modelcache.planning.placement import selects

LABELS = {"gpu": "h200", "zone": "a", "count": "8", "empty": "", "word": "x8"}


def spec(*terms: NodeSelectorTerm, node_selector: dict[str, str] | None = None) -> CachedModelSpec:
    required = NodeSelector(node_selector_terms=terms) if terms else None
    return CachedModelSpec(
        source=Source(uri="hf://org/name"),
        node_selector=node_selector or {},
        node_affinity=NodeAffinity(required_during_scheduling_ignored_during_execution=required),
    )


def expressions(*requirements: Requirement) -> NodeSelectorTerm:
    return NodeSelectorTerm(match_expressions=requirements)


def fields(*requirements: Requirement) -> NodeSelectorTerm:
    return NodeSelectorTerm(match_fields=requirements)


def need(key: str, operator: Any, *values: str) -> Requirement:
    return Requirement(key=key, operator=operator, values=values)


def test_no_condition_selects_every_node() -> None:
    assert selects(CachedModelSpec(source=Source(uri="hf://org/name")), "n", {})
    assert selects(spec(), "n", {})


@pytest.mark.parametrize(
    ("selector", "selected"),
    [
        ({"gpu": "h200"}, True),
        ({"gpu": "h200", "zone": "a"}, True),
        ({"gpu": "h200", "zone": "b"}, False),
        ({"absent": ""}, False),
        ({"empty": ""}, True),
    ],
)
def test_node_selector(selector: dict[str, str], selected: bool) -> None:
    assert selects(spec(node_selector=selector), "n", LABELS) is selected


@pytest.mark.parametrize(
    ("requirement", "selected"),
    [
        (need("gpu", "In", "h100", "h200"), True),
        (need("gpu", "In", "h100"), False),
        (need("absent", "In", "x"), False),
        (need("empty", "In", ""), True),
        (need("absent", "In", ""), False),
        (need("gpu", "NotIn", "h100"), True),
        (need("gpu", "NotIn", "h200"), False),
        (need("absent", "NotIn", "x"), True),
        (need("gpu", "Exists"), True),
        (need("empty", "Exists"), True),
        (need("absent", "Exists"), False),
        (need("gpu", "DoesNotExist"), False),
        (need("absent", "DoesNotExist"), True),
        (need("count", "Gt", "7"), True),
        (need("count", "Gt", "8"), False),
        (need("count", "Gt", "+7"), True),
        (need("count", "Gt", "-1"), True),
        (need("count", "Lt", "9"), True),
        (need("count", "Lt", "8"), False),
        (need("absent", "Gt", "0"), False),
        (need("absent", "Lt", "0"), False),
        (need("word", "Gt", "0"), False),
        (need("word", "Lt", "100"), False),
        (need("empty", "Lt", "100"), False),
        # Beyond an int64 Go can't parse it.
        (need("count", "Lt", "9223372036854775807"), True),
        (need("count", "Lt", "9223372036854775808"), False),
        (need("count", "Gt", "-9223372036854775809"), False),
        # A value that no label can have makes the term one that can't be parsed.
        (need("gpu", "NotIn", "not a label"), False),
        (need("gpu", "In", "h200", "not a label"), False),
        (need("gpu", "NotIn", "x" * 64), False),
    ],
)
def test_match_expressions(requirement: Requirement, selected: bool) -> None:
    assert selects(spec(expressions(requirement)), "n", LABELS) is selected


@pytest.mark.parametrize("value", ["8 ", "0x8", "8.0", "1_0", "٨", "9223372036854775808"])
def test_labels_that_are_no_integers(value: str) -> None:
    assert not selects(spec(expressions(need("count", "Gt", "0"))), "n", {"count": value})


@pytest.mark.parametrize(
    ("requirement", "selected"),
    [
        (need("metadata.name", "In", "node-1"), True),
        (need("metadata.name", "In", "node-2"), False),
        (need("metadata.name", "NotIn", "node-1"), False),
        (need("metadata.name", "NotIn", "node-2"), True),
    ],
)
def test_match_fields(requirement: Requirement, selected: bool) -> None:
    assert selects(spec(fields(requirement)), "node-1", {}) is selected


@pytest.mark.parametrize(
    "requirement",
    [
        need("metadata.uid", "In", "node-1"),
        need("metadata.name", "Exists"),
        need("metadata.name", "In", "node-1", "node-2"),
    ],
)
def test_fields_that_the_scheduler_cannot_parse_select_nothing(requirement: Requirement) -> None:
    # The class refuses them; an older version of it may not have.
    term = NodeSelectorTerm.model_construct(match_expressions=(), match_fields=(requirement,))
    affinity = NodeAffinity.model_construct(
        required_during_scheduling_ignored_during_execution=NodeSelector.model_construct(
            node_selector_terms=(term,)
        )
    )
    placed = CachedModelSpec(source=Source(uri="hf://a/b")).model_copy(
        update={"node_affinity": affinity}
    )
    assert not selects(placed, "node-1", {})


def test_a_name_is_no_label() -> None:
    requirement = need("metadata.name", "In", "node-1")
    assert not selects(spec(expressions(requirement)), "node-1", {})


def test_an_empty_term_selects_nothing() -> None:
    assert not selects(spec(NodeSelectorTerm()), "n", LABELS)
    assert selects(spec(NodeSelectorTerm(), expressions(need("gpu", "Exists"))), "n", LABELS)


def test_terms_are_alternatives_and_requirements_are_not() -> None:
    yes, no = need("gpu", "Exists"), need("absent", "Exists")
    assert selects(spec(expressions(no), expressions(yes)), "n", LABELS)
    assert not selects(spec(expressions(no), expressions(no)), "n", LABELS)
    assert not selects(spec(expressions(yes, no)), "n", LABELS)
    assert selects(spec(expressions(yes, yes)), "n", LABELS)


def test_expressions_and_fields_both_hold() -> None:
    term = NodeSelectorTerm(
        match_expressions=(need("gpu", "Exists"),),
        match_fields=(need("metadata.name", "In", "node-1"),),
    )
    assert selects(spec(term), "node-1", LABELS)
    assert not selects(spec(term), "node-2", LABELS)
    assert not selects(spec(term), "node-1", {})


def test_selector_and_affinity_both_hold() -> None:
    both = spec(expressions(need("gpu", "Exists")), node_selector={"zone": "a"})
    assert selects(both, "n", LABELS)
    assert not selects(both, "n", {"gpu": "h200"})
    assert not selects(both, "n", {"zone": "a"})


_labels = st.dictionaries(st.sampled_from("abc"), st.sampled_from(["", "1", "2", "x"]))
_values = st.sampled_from(["", "1", "2", "x"])


@given(_labels, st.sampled_from("abc"), st.lists(_values, min_size=1, max_size=3))
def test_not_in_is_not_in(labels: dict[str, str], key: str, values: list[str]) -> None:
    inside = selects(spec(expressions(need(key, "In", *values))), "n", labels)
    outside = selects(spec(expressions(need(key, "NotIn", *values))), "n", labels)
    assert inside is not outside


@given(_labels, st.sampled_from("abc"), st.integers(-3, 3).map(str))
def test_greater_and_less_exclude_each_other(labels: dict[str, str], key: str, value: str) -> None:
    greater = selects(spec(expressions(need(key, "Gt", value))), "n", labels)
    less = selects(spec(expressions(need(key, "Lt", value))), "n", labels)
    assert not (greater and less)
