from __future__ import annotations

import time

import pytest
import yaml

from modelcache.api import CachedModel, CompileCache
from modelcache.catalog import Document, Problem, Severity, composing, documents, read_documents
from tests.unit.catalog.samples import (
    API,
    compile_cache,
    entries,
    model,
    names,
    problem,
    problems,
    stream,
)


def test_both_kinds_are_read_with_their_places() -> None:
    first, second = entries(stream(model("llama"), compile_cache("llama-vllm")))
    assert isinstance(first, Document)
    assert isinstance(second, Document)
    assert isinstance(first.object, CachedModel)
    assert isinstance(second.object, CompileCache)
    assert (first.number, first.line, second.number, second.line) == (1, 1, 2, 9)
    assert str(second.key) == "CompileCache/llama-vllm"
    assert second.place == "models.yaml, document 2, line 9"


def test_json_is_read_too() -> None:
    text = (
        f'{{\n\t"apiVersion": "{API}", "kind": "CachedModel", "metadata": {{"name": "a"}},\n'
        '\t"spec": {"source": {"uri": "s3://bucket/prefix"}}\n}'
    )
    assert names(text) == ["a"]


def test_a_problem_is_one_line_that_says_where() -> None:
    text = stream(model("a"), model("llama", uri="ftp://x/y"))
    assert str(problem(text)) == (
        "models.yaml: document 2 (CachedModel/llama), line 15, spec.source.uri: "
        "unknown scheme 'ftp' in 'ftp://x/y': supported are hf, s3, gs, oci, https, http, file"
    )


def test_what_breaks_the_terminal_is_escaped() -> None:
    assert str(Problem("a\nb", "x\x1b[31m")) == r"a\nb: x\x1b[31m"


@pytest.mark.parametrize("text", ["", " \n\t\n", "# nothing\n", "---\n---\n", "~\n"])
def test_an_empty_file_is_a_warning(text: str) -> None:
    empty = problem(text)
    assert empty.severity is Severity.WARNING
    assert str(empty) == "models.yaml: is empty: it has no document with an object"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x1f\x8b\x08\x00", "no text in UTF-8 (byte 0x8b at offset 1)"),
        (b"\x00\x00\x00\x00", "is binary"),
        (model("a").encode("utf-16"), "UTF-16: save it in UTF-8"),
        (b"\xff" * 1000, "no text in UTF-8"),
        (b"a: \x07\n", "special characters are not allowed"),
    ],
)
def test_rubbish_is_one_clear_problem(content: bytes, said: str) -> None:
    # libyaml and PyYAML differ in the word for a control character.
    message = problem(content).message.replace("control characters", "special characters")
    assert said in message


def test_a_file_has_a_largest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_FILE_BYTES", 100)
    assert "split it into several files" in problem(" " * 101).message


def test_a_file_has_a_largest_number_of_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_DOCUMENTS", 2)
    text = stream(model("a"), model("b"), model("c"))
    assert names(text) == ["a", "b"]
    assert "more than 2 documents" in problem(text).message


@pytest.mark.parametrize(
    "broken",
    [
        "a: [1, 2\n",
        "a: 'b\n",
        "a: b: c\n",
        "a:\n\t- b\n",
        "{{ .Values.model }}\n",
        "<<<<<<< HEAD\na: 1\n",
        "&a [*a]\n",
        "*nothing\n",
        "!!python/object/apply:os.system ['true']\n",
    ],
)
def test_a_syntax_error_stays_within_its_document(broken: str) -> None:
    text = stream(model("before"), broken, model("after"))
    assert names(text) == ["before", "after"]
    wrong = problem(text)
    assert wrong.document == 2
    assert wrong.line is not None
    assert 8 < wrong.line <= 12


def test_a_tab_is_called_a_tab() -> None:
    text = stream(model("a"), "spec:\n\tsource: x\n")
    assert str(problem(text)) == (
        "models.yaml: document 2, line 10: is no YAML: a tab in the indentation: YAML wants spaces"
    )


def test_crlf_and_byte_order_mark() -> None:
    text = "\ufeff" + stream(model("a"), model("b"), model("c", uri="x")).replace("\n", "\r\n")
    assert names(text) == ["a", "b"]
    assert problem(text).line == 23


def test_billion_laughs() -> None:
    levels = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    text = stream(model("a"), "\n".join(["a0: &a0 [ha, ha]", *levels, ""]), model("b"))
    began = time.monotonic()
    assert names(text) == ["a", "b"]
    assert "YAML bomb" in problem(text).message
    assert time.monotonic() - began < 1


def test_an_alias_of_a_large_text_is_a_bomb_too() -> None:
    text = f"a: &a {'x' * 1_000_000}\nb: [{', '.join(['*a'] * 100)}]\n"
    assert "YAML bomb" in problem(text).message


def test_merging_is_counted_as_well() -> None:
    wide = ", ".join(f"k{i}: 0" for i in range(1000))
    text = f"a: &a {{{wide}}}\nb:\n" + "- {<<: *a}\n" * 1000
    assert "YAML bomb" in problem(text).message


@pytest.mark.parametrize("opening", ["[", "- ", "{a: ", "? "])
def test_depth_without_end(opening: str) -> None:
    # PyYAML's own composer, which recurses in C, takes the process down with it.
    assert "nested deeper than 64" in problem(opening * 200_000).message


def test_a_line_break_of_yaml_alone_begins_no_document() -> None:
    # U+2028 ends a line for libyaml, but for no editor.
    assert "a second document begins without a line ---" in problem("a: 1\u2028---\nb: 2\n").message


@pytest.mark.parametrize(
    "text",
    [
        '"\\ud800": 1\n',
        'a: "\\ud800"\n',
        '"\\UFFFFFFFF"\n',
        f"%YAML 1.{'9' * 5000}\n",
        "[" * 2000,
        "a: \x07\n",
        "\u0000",
        "\tb: 1",
    ],
)
def test_without_libyaml(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(composing, "_LOADER", yaml.SafeLoader)
    assert names(stream(model("a"), model("b"))) == ["a", "b"]
    assert len(problems(text)) == 1


def test_half_of_a_surrogate_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(composing, "_LOADER", yaml.SafeLoader)
    half = problem(model("a", more='nodeSelector: {b: "\\ud800"}'))
    assert (half.field, half.message) == (
        "spec.nodeSelector.b",
        "has half of a surrogate pair in it: not Unicode",
    )


def test_depth_by_aliases() -> None:
    text = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 100))
    assert "nested deeper than 64" in problem(text).message


def test_a_document_of_too_many_values() -> None:
    assert "split it into documents" in problem("[" + "a," * 200_000 + "]").message


def test_anchors_and_merges_are_welcome() -> None:
    text = (
        f"apiVersion: {API}\nkind: CachedModel\nmetadata: {{name: a, labels: &l {{x: y}}}}\n"
        "spec:\n  source: {uri: 'hf://a/b', include: &i ['*.json'], exclude: *i}\n"
        "  nodeSelector:\n    <<: *l\n    z: w\n"
    )
    (read,) = entries(text)
    assert isinstance(read, Document)
    assert isinstance(read.object, CachedModel)
    assert read.object.spec.source.exclude == ("*.json",)
    assert read.object.spec.node_selector == {"x": "y", "z": "w"}


def test_what_is_written_wins_over_what_is_merged() -> None:
    more = "nodeSelector: {x: mine, <<: [{x: 1st, y: 1st}, {y: 2nd, z: 2nd}]}"
    (read,) = entries(model("a", more=more))
    assert isinstance(read, Document)
    assert isinstance(read.object, CachedModel)
    assert read.object.spec.node_selector == {"x": "mine", "y": "1st", "z": "2nd"}


def test_a_key_given_twice() -> None:
    twice = problem(model("a", more="priority: 1\npinned: true\npriority: 2"))
    assert (twice.field, twice.line) == ("spec.priority", 10)
    assert twice.message == "is given twice: first in line 8"
    assert twice.object == "CachedModel/a"


@pytest.mark.parametrize("text", ["- a\n- b\n", "hello\n", "5\n", "true\n", "2024-01-01\n"])
def test_a_document_that_is_no_object(text: str) -> None:
    assert names(text + stream("", model("a"))) == ["a"]
    assert "an object with apiVersion, kind, metadata and spec is wanted" in problem(text).message


@pytest.mark.parametrize(
    ("text", "field", "said"),
    [
        ("kind: ConfigMap\napiVersion: v1\n", "kind", '"ConfigMap" is unknown: CachedModel and'),
        ("kind: cachedmodel\n", "kind", "did you mean CachedModel?"),
        ("kind: [CachedModel]\n", "kind", "a list is unknown"),
        ("kind: NodeCache\n", "kind", "written by agents, not by people"),
        (f"apiVersion: {API}\n", "kind", "is missing and required: CachedModel and CompileCache"),
        ("kind: CachedModel\n", "apiVersion", f"is missing and required: {API}"),
        ("kind: CachedModel\napiVersion: v1\n", "apiVersion", f'"v1" is unknown: {API} is allowed'),
    ],
)
def test_kind_and_version(text: str, field: str, said: str) -> None:
    wrong = problem(text)
    assert wrong.field == field
    assert said in wrong.message


def test_what_kubectl_prints_is_a_catalog() -> None:
    item = (
        f"- apiVersion: {API}\n  kind: CachedModel\n  metadata:\n"
        "    annotations: {a: b}\n    creationTimestamp: 2024-05-01T10:00:00Z\n"
        "    generation: 2\n    managedFields: [{manager: kubectl}]\n    name: NAME\n"
        "    resourceVersion: '12'\n    uid: 0b\n    ownerReferences: []\n"
        "  spec:\n    source: {uri: 'hf://a/b', include: []}\n"
        "  status: {ofALaterVersion: true}\n"
    )
    text = "apiVersion: v1\nkind: List\nmetadata: {resourceVersion: ''}\nitems:\n"
    assert names(text + item.replace("NAME", "a") + item.replace("NAME", "b")) == ["a", "b"]


def test_each_item_of_a_list_is_read_on_its_own() -> None:
    def item(name: str, source: str) -> str:
        return (
            f"- {{apiVersion: {API}, kind: CachedModel, metadata: {{name: {name}}}, "
            f"spec: {{source: {source}}}}}\n"
        )

    text = (
        "apiVersion: v1\nkind: List\nitems:\n"
        + item("a", "{uri: 'hf://a/b'}")
        + item("b", "{uri: 5}")
        + item("c", "{uri: 'hf://a/b', uri: 'hf://a/b'}")
        + "- {kind: List}\n- 5\n"
        + item("d", "{uri: 'hf://a/b'}")
    )
    assert names(text) == ["a", "d"]
    assert [(p.field, p.object, p.line) for p in problems(text)] == [
        ("items[1].spec.source.uri", "CachedModel/b", 5),
        ("items[2].spec.source.uri", "CachedModel/c", 6),
        ("items[3]", None, 7),
        ("items[4]", None, 8),
    ]


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("kind: List\napiVersion: v1\n", "items"),
        ("kind: List\napiVersion: v1\nitems: {}\n", "items"),
        ("kind: List\napiVersion: v2\nitems: []\n", "apiVersion"),
        ("kind: List\napiVersion: v1\nitems: []\nitem: []\n", "item"),
    ],
)
def test_a_list_that_is_none(text: str, field: str) -> None:
    assert problem(text).field == field


def test_a_thousand_mistakes_are_not_all_told() -> None:
    text = model("a", more="\n".join(f"f{i}: 1" for i in range(1000)))
    said = problems(text)
    assert len(said) == 20
    assert said[-1].message == "and 981 more problems in this document"


def test_ten_thousand_documents() -> None:
    text = stream(*(model(f"m{i}") for i in range(10_000))).encode()
    began = time.monotonic()
    read = read_documents(text, "models.yaml")
    assert time.monotonic() - began < 15
    assert len({entry.key for entry in read if isinstance(entry, Document)}) == 10_000
