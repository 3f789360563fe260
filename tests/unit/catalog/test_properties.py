"""What holds for every text: reading never raises, and mistakes stay where they are."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from modelcache.catalog import FileCatalog, Problem
from tests.unit.catalog.samples import compile_cache, entries, model, stream

_FRAGMENTS = [
    *("apiVersion: modelcache.dev/v1alpha1", "kind: CachedModel", "kind: List", "metadata:"),
    *("name: a", "spec:", "source:", "uri: hf://a/b", "items:", "labels:", "<<: *a", "&a", "*a"),
    *("- ", "? ", ": ", "  ", "\n", "\r\n", "\t", "---", "...", "%YAML 1.1", "%TAG ! x", "!!int"),
    *("!!float", "!!binary", "!x", "[", "]", "{", "}", "'", '"', "|", ">", "#", "~", "0b", "0x_"),
    *("1:2:3", "1e400", ".inf", "2024-01-01", "on", "=", "\ufeff", "\u2028", "\x07", '"\\xff"'),
    *('"\\ud800"', '"\\UFFFFFFFF"', "!<tag:yaml.org,2002:int> x", "@", "`", "--- |\n"),
]
_yaml_like = st.lists(st.sampled_from(_FRAGMENTS) | st.text(max_size=3), max_size=30).map("".join)
_texts = st.binary(max_size=200) | _yaml_like.map(lambda text: text.encode(errors="replace"))


@given(st.lists(_texts, min_size=1, max_size=4))
@settings(max_examples=300)
@example([b"\xed\xa0\x80", b'"\\ud800": 1', b"!!int _", b"!!float ''", b"!!bool x", b"0b_: 1"])
@example([b"%YAML 9999999999.1\n---\na", b"%YAML 1.1\n%YAML 1.1\n---\na", b"%\n---\n---\n"])
def test_reading_never_raises(texts: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "models.yaml"
        catalog = FileCatalog(Path(folder))
        path.write_text(model("stays"))
        catalog.read()
        for text in texts:
            path.write_bytes(text)
            read = catalog.read()
            for problem in read.problems:
                assert str(problem).isprintable()
            # Nothing of this is a valid catalog that leaves the model out.
            assert "stays" in read.models


# A directive is part of the document that follows.
@given(_yaml_like.filter(lambda text: "%" not in text), st.integers(0, 2))
@settings(max_examples=300)
def test_a_broken_document_changes_no_other(broken: str, position: int) -> None:
    good = [model("a"), compile_cache("b")]
    texts = [*good[:position], f"{broken}\n", *good[position:]]
    read = entries(stream(*texts).encode(errors="replace"))
    keys = [str(entry.key) for entry in read if not isinstance(entry, Problem)]
    if all(entry.document is not None for entry in read if isinstance(entry, Problem)):
        assert {"CachedModel/a", "CompileCache/b"} <= set(keys)
