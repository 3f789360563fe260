from __future__ import annotations

from typing import Any

import pytest

from modelcache.catalog.problems import KINDS
from modelcache.catalog.wording import RULES
from tests.unit.catalog.samples import compile_cache, model, problem, problems


@pytest.mark.parametrize(
    ("more", "field", "said"),
    [
        (
            'priority: "5"',
            "spec.priority",
            "an integer is wanted, not a string: write 5 without quotes",
        ),
        ("priority: high", "spec.priority", 'an integer is wanted, not "high"'),
        ("priority: 1.5", "spec.priority", "an integer is wanted, not 1.5"),
        ("priority: 2000000000", "spec.priority", "is too large: at most 1000000000 is allowed"),
        (f"priority: {'9' * 400}", "spec.priority", "too large"),
        (f"priority: {'9' * 5000}", "spec.priority", "is not what its tag int says"),
        ("pinned: 'true'", "spec.pinned", "not a string: write true without quotes"),
        ("pinned: 1", "spec.pinned", "true or false is wanted, not 1"),
        ("pinned: yeah", "spec.pinned", 'true or false is wanted, not "yeah"'),
        (
            "pageCache: warm",
            "spec.pageCache",
            '"warm" is not allowed; did you mean Warm? None or Warm',
        ),
        ("pageCache: no", "spec.pageCache", "false is not allowed: None or Warm"),
        ("refresh: {policy: poll}", "spec.refresh.policy", "did you mean Poll?"),
        ("refresh: {interval: 1 h}", "spec.refresh.interval", "90s, 15m, 1h30m"),
        ("refresh: {interval: 10s}", "spec.refresh.interval", "at least 60s, at most 366d"),
        ("refresh: {interval: 99999999d}", "spec.refresh.interval", "at most 366d"),
        ("refresh: Never", "spec.refresh", 'a mapping of fields is wanted, not "Never"'),
        ("refresh:", "spec.refresh", "is empty: a mapping of fields is wanted (leave the line out"),
        ("nodeSelector: [a]", "spec.nodeSelector", "a mapping is wanted, not a list"),
        (
            "nodeSelector: {nvidia.com/gpu.present: true}",
            "spec.nodeSelector[nvidia.com/gpu.present]",
            'a string is wanted, but YAML reads true as the boolean true: write "true"',
        ),
        (
            "nodeSelector: {size: 18:30}",
            "spec.nodeSelector.size",
            "a string is wanted",
        ),
        (
            "nodeSelector: {disk: a b}",
            "spec.nodeSelector.disk",
            '"a b" is not allowed: letters, digits, hyphens, underscores and dots,',
        ),
        (
            "nodeSelector: {a/b/c: d}",
            "spec.nodeSelector",
            "'a/b/c' can't be a label's key: at most",
        ),
        ("nodeSelector: {on: 'x'}", "spec.nodeSelector", "the field name on is no string in YAML"),
        ("nodeSelector: {[a]: b}", "spec.nodeSelector", "a list or mapping is no field name"),
        ("prority: 5", "spec.prority", "unknown field; did you mean priority? allowed are node"),
        ("x: 5", "spec.x", "unknown field; allowed are nodeAffinity, nodeSelector, pageCache,"),
        ("priority: !!int five", "spec.priority", "'five' is not what its tag int says"),
        ("priority: !money 5", "spec.priority", "the tag !money is not allowed"),
        (
            (
                "nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: "
                "{nodeSelectorTerms: [{matchExpressions: [{key: a, operator: In}]}]}}"
            ),
            (
                "spec.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution"
                ".nodeSelectorTerms[0].matchExpressions[0]"
            ),
            "operator In needs at least one value",
        ),
        (
            (
                "nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: "
                "{nodeSelectorTerms: []}}"
            ),
            "spec.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms",
            "has 0 entries: at least 1 are needed",
        ),
    ],
)
def test_spec(more: str, field: str, said: str) -> None:
    wrong = problem(model("a", more=more))
    assert (wrong.field, wrong.line, wrong.object) == (field, 8, "CachedModel/a")
    assert said in wrong.message
    assert "\n" not in str(wrong)
    assert len(str(wrong)) < 400


@pytest.mark.parametrize(
    ("source", "field", "said"),
    [
        ("{}", "spec.source.uri", "is missing and required: hf://org/name"),
        ("hf://a/b", "spec.source", 'a mapping of fields is wanted, not "hf://a/b"'),
        ("", "spec.source", "is empty"),
        ("{uri: hf://a/b, include: '*.x'}", "spec.source.include", 'write ["*.x"]'),
        ("{uri: hf://a/b, include: [1]}", "spec.source.include[0]", 'a number: write "1"'),
        ("{uri: hf://a/b, include: ['']}", "spec.source.include[0]", "is empty: at least one"),
        ("{uri: hf://a/b c}", "spec.source.uri", "has a space in it: write %20"),
        ("{uri: gs://b}", "spec.source.uri", "names no bucket: write gs://bucket/prefix"),
        (
            "{uri: https://h}",
            "spec.source.uri",
            "write https://host/path/file, or the URL of a list",
        ),
        ("{uri: http://h/f}", "spec.source.uri", "fetched without TLS"),
        ("{uri: 'https://u:p@h/f'}", "spec.source.uri", "put them into a Secret, with the keys"),
        ("{uri: 'https://h/f#v1'}", "spec.source.uri", "only sha256=<64 hex digits> is"),
        ("{uri: hf://a/b, secretName: A_b}", "spec.source.secretName", "digits, hyphens and dots"),
        (
            "{uri: hf://a/b, include: [" + "a," * 300 + "]}",
            "spec.source.include",
            "has 300 entries: at most 256 are allowed",
        ),
    ],
)
def test_source(source: str, field: str, said: str) -> None:
    text = model("a").replace("source:\n    uri: hf://org/name", f"source: {source}")
    wrong = problem(text)
    assert (wrong.field, wrong.line) == (field, 6)
    assert said in wrong.message


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("on", 'a string is wanted, but YAML reads on as the boolean true: write "on"'),
        ("5", 'a string is wanted, but YAML reads 5 as a number: write "5"'),
        ("0o7.", '"0o7." is not allowed: lower-case letters, digits and hyphens'),
        ("~", "is empty: a string is wanted"),
        ("x" * 300, "has 300 characters: at most 54 are allowed"),
        ("Llama", '"Llama" is not allowed: lower-case letters, digits and hyphens'),
        ("a_b", "lower-case letters"),
        ("-a", "the first and the last no hyphen"),
    ],
)
def test_name(name: str, said: str) -> None:
    wrong = problem(model(name))
    assert (wrong.field, wrong.line) == ("metadata.name", 4)
    assert said in wrong.message
    assert len(str(wrong)) < 250


def test_the_namespace_is_to_go() -> None:
    wrong = problem(model("a").replace("  name: a", "  name: a\n  namespace: default"))
    assert (wrong.field, wrong.line) == ("metadata.namespace", 5)
    assert wrong.message == "the object is cluster-scoped: remove namespace"


def test_all_that_is_wrong_is_told_from_top_to_bottom() -> None:
    text = model("A", uri="x", more="foo: 1\npriority: x")
    assert [p.line for p in problems(text)] == [4, 7, 8, 9]


def test_an_allowed_value_that_is_alone() -> None:
    text = compile_cache("a").replace("vllm,", "vlm,")
    assert "did you mean vllm? vllm, sglang, torch, neuron or other" in problem(text).message


def _patterns(schema: Any) -> set[str]:
    if isinstance(schema, dict):
        own = {schema["pattern"]} if isinstance(schema.get("pattern"), str) else set()
        return own.union(*(_patterns(part) for part in schema.values()))
    return set().union(*(_patterns(part) for part in schema)) if isinstance(schema, list) else set()


@pytest.mark.parametrize("kind", KINDS)
def test_each_pattern_has_a_rule_in_words(kind: str) -> None:
    # The URI's pattern is for the API server alone: here parse_uri says what is wrong.
    uri = KINDS["CachedModel"].model_json_schema()["$defs"]["Source"]["properties"]["uri"]
    found = _patterns(KINDS[kind].model_json_schema())
    assert found
    assert found - {uri["pattern"]} <= RULES.keys()
