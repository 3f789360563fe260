from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from modelcache.catalog.splitting import split


def test_each_document_knows_its_first_line() -> None:
    assert list(split("a: 1\n---\nb: 2\n---\nc: 3\n")) == [
        (1, "a: 1\n"),
        (2, "---\nb: 2\n"),
        (4, "---\nc: 3\n"),
    ]


@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\r"])
def test_every_line_break_counts_once(line_break: str) -> None:
    text = "a: 1\n---\nb: 2\n...\nc: 3\n".replace("\n", line_break)
    assert [line for line, _ in split(text)] == [1, 2, 4]


@pytest.mark.parametrize(
    "text", ["", "\n\n", "# only\n# comments\n", "---\n", "---\n---\n...\n", "\ufeff", "--- # c\n"]
)
def test_nothing_is_no_document(text: str) -> None:
    assert list(split(text)) == []


@pytest.mark.parametrize(
    "text",
    ["a: |\n  x\n  ---\n  y\n", "a: ---b\n", "----\n", "a: 1 ---\n", "# ---\na: 1\n", "...a\n"],
)
def test_only_a_marker_at_the_beginning_of_a_line_cuts(text: str) -> None:
    assert list(split(text)) == [(1, text)]


def test_content_may_stand_beside_the_marker() -> None:
    assert [chunk for _, chunk in split("--- {a: 1}\n--- {b: 2}\n")] == [
        "--- {a: 1}\n",
        "--- {b: 2}\n",
    ]


def test_directives_belong_to_the_document_that_follows() -> None:
    tag = "%YAML 1.1\n%TAG !y! tag:yaml.org,2002:\n"
    text = f"{tag}---\na: !y!str 1\n...\n# more\n{tag}---\nb: !y!str 2\n"
    assert [yaml.safe_load(chunk) for _, chunk in split(text)] == [{"a": "1"}, {"b": "2"}]


def test_what_only_looks_like_a_directive_is_a_document_of_its_own() -> None:
    assert len(list(split("%include base.yaml\n---\na: 1\n"))) == 2


def test_a_byte_order_mark_does_not_hide_a_marker() -> None:
    assert len(list(split("\ufeffa: 1\n\ufeff---\nb: 2\n"))) == 2


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(st.text(max_size=5), _values, min_size=1), max_size=5))
def test_it_cuts_where_yaml_does(documents: list[object]) -> None:
    text = yaml.safe_dump_all(documents, explicit_start=True, allow_unicode=True)
    assert [yaml.safe_load(chunk) for _, chunk in split(text)] == list(yaml.safe_load_all(text))
