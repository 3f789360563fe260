import time
import unicodedata
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from modelcache.errors import UnsafePath
from modelcache.origins.names import check_names, shown


@pytest.mark.parametrize(
    "path",
    [
        "config.json",
        "model-00001-of-00002.safetensors",
        "onnx/model.onnx",
        ".gitattributes",
        "..data/token",
        "a...b/c",
        "模型/déjà vu (1) [x] {y} ~#%&+=@!,;'$.json",
        "console.txt",
        "com10",
        "a" * 255,
        "/".join(["d" * 100] * 10),
    ],
)
def test_ordinary_names_pass(path: str) -> None:
    check_names([path])


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "empty"),
        ("/etc/passwd", "absolute"),
        ("//host/share", "absolute"),
        ("C:/x", "drive letter"),
        ("c:x", "drive letter"),
        ("a/../b", "'..'"),
        ("..", "'..'"),
        ("./a", "'.'"),
        ("a//b", "empty component"),
        ("a/", "empty component"),
        ("a\\..\\b", "character"),
        ("a\0b", "character"),
        ("a\nb", "character"),
        ("a\x1b[31m", "character"),
        ("a\x7f", "character"),
        ("a\x9bm", "character"),
        ("a\ud800", "UTF-8"),
        ("a\udcff/b", "UTF-8"),
        ("a" * 256, "255 bytes"),
        ("ä" * 128, "255 bytes"),
        ("/".join(["d" * 99] * 11), "1024 bytes"),
        ("CON", "device"),
        ("nul.txt", "device"),
        ("x/Com1.tar.gz", "device"),
        ("lpt¹", "device"),
        ("aux .json", "device"),
        ("CONIN$", "device"),
        ("a.", "dot or a space"),
        ("a /b", "dot or a space"),
        *[(f"ab{character}c", "character") for character in '<>:"|?*'],
    ],
)
def test_unsafe_names_are_refused_with_the_reason(path: str, reason: str) -> None:
    with pytest.raises(UnsafePath, match=reason):
        check_names(["good", path])


@pytest.mark.parametrize(
    "paths",
    [
        ["README.md", "readme.md"],
        ["a/B/c", "A/b/C"],
        ["same", "same"],
        ["Straße", "STRASSE"],
        ["é", "e\N{COMBINING ACUTE ACCENT}"],
        ["\N{KELVIN SIGN}", "k"],
    ],
)
def test_names_that_are_one_where_case_is_ignored_collide(paths: list[str]) -> None:
    with pytest.raises(UnsafePath, match="case is ignored"):
        check_names(paths)


@pytest.mark.parametrize("paths", [["a", "a/b"], ["a/b/c", "a/b"], ["A/b/c", "a"]])
def test_a_file_that_is_also_a_directory_is_refused(paths: list[str]) -> None:
    with pytest.raises(UnsafePath, match="also a directory"):
        check_names(paths)


def test_directories_may_differ_in_case_while_files_do_not_collide() -> None:
    check_names(["Docs/a", "docs/b"])


def test_the_message_is_short_printable_and_names_the_path() -> None:
    with pytest.raises(UnsafePath) as caught:
        check_names(["evil\x1b[2J" + "x" * 5000])
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 300
    assert "evil\\x1b" in message


def test_a_hundred_thousand_names_take_less_than_two_seconds() -> None:
    paths = [f"shards/{n // 1000:03}/model-{n:06}.safetensors" for n in range(100_000)]
    started = time.process_time()
    check_names(paths)
    assert time.process_time() - started < 2


NAMES = st.text(st.characters(), max_size=30) | st.text(st.sampled_from("./\\aAß "), max_size=6)
"""Any text; and text of little more than what is special in a path, which chance rarely finds."""


@given(st.lists(NAMES, max_size=5))
@example(["a/../../b"])
@example(["a/./b"])
def test_what_passes_stays_inside_and_stays_apart(paths: Sequence[str]) -> None:
    try:
        check_names(paths)
    except UnsafePath:
        return
    folded = {unicodedata.normalize("NFC", path).casefold() for path in paths}
    assert len(folded) == len(paths)
    for path in paths:
        components = path.split("/")
        assert "" not in components
        assert ".." not in components
        assert "." not in components
        assert "\\" not in path
        assert path.encode().decode() == path
        assert len(path.encode()) <= 1024


@given(st.text(st.characters()))
def test_any_name_can_be_shown(name: str) -> None:
    assert shown(name).isprintable()
    assert len(shown(name)) <= 121
