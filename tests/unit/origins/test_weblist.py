from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcache.errors import BrokenContent
from modelcache.origins.weblist import Listed, read_checksums, read_own

A, B = "a" * 64, "0123456789abcdef" * 4
PLACE = "https://h/SHA256SUMS"


def read(text: str, name: str = "SHA256SUMS") -> dict[str, str | None]:
    return {file.path: file.sha256 for file in read_checksums(text.encode(), name, PLACE)}


@pytest.mark.parametrize(
    ("line", "path"),
    [
        (f"{A}  config.json", "config.json"),
        (f"{A} *config.json", "config.json"),
        (f"{A.upper()}  a b/c d.bin ", "a b/c d.bin "),
        (f"{A}  *starred", "*starred"),
        (f"{A} single-space", "single-space"),
        (f"{A}\ttab", "tab"),
        (f"{A}  ./here.json", "here.json"),
        (f"{A}  .//./here.json", "here.json"),
        (f"{A}  .hidden", ".hidden"),
        (f"{A}  ../up", "../up"),
        (f"{A}  /etc/passwd", "/etc/passwd"),
        (f"{A}  back\\slash", "back\\slash"),
        (f"\\{A}  back\\\\slash\\nand\\rmore", "back\\slash\nand\rmore"),
        (f"\\{A}  odd\\x\\", "odd\\x\\"),
        (f"SHA256 (a (b) = c.json) = {A}", "a (b) = c.json"),
        (f"SHA256(openssl.bin)= {A}", "openssl.bin"),
        (f"SHA2-256(openssl3.bin)= {A}", "openssl3.bin"),
        (f"\\SHA256 (a\\nb) = {A}", "a\nb"),
        (f"{A}  模型/é\x85\x0b\u2028.json", "模型/é\x85\x0b\u2028.json"),
    ],
)
def test_a_line(line: str, path: str) -> None:
    assert read(line) == {path: A}
    assert read(f"\ufeff{line}\r\n\r\n# a comment\n{B}  other\n") == {path: A, "other": B}


def test_other_algorithms_say_nothing() -> None:
    text = f"MD5 (a) = {'0' * 32}\nSHA256 (a) = {A}\nSHA512 (a) = {'1' * 128}\n"
    assert read(text) == {"a": A}


def test_what_a_list_says_of_itself_is_passed_over() -> None:
    assert read(f"{A}  a\n{B}  SHA256SUMS\n{B}  ./SHA256SUMS\n") == {"a": A}


def test_a_file_that_is_named_twice() -> None:
    assert read(f"{A}  a\n{A} *a\n") == {"a": A}
    with pytest.raises(BrokenContent, match="'a' twice, and not alike"):
        read(f"{A}  a\n{B}  a\n")


@pytest.mark.parametrize("name", ["model.gguf.sha256", "model.gguf.SHA256SUM"])
def test_a_digest_alone_is_of_the_file_that_the_list_is_named_after(name: str) -> None:
    assert read(f"{A.upper()}\n", name) == {"model.gguf": A}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("<html>", 1),
        (f"{A}  a\n\nrubbish", 3),
        (A, 1),
        (f"{A}\n{B}", 1),
        (f"{A[1:]}  a", 1),
        (f"{A}x  a", 1),
        (f"{A} ", 1),
        (f"SHA256 (a) = {A[1:]}x", 1),
        ("-----BEGIN PGP SIGNED MESSAGE-----", 1),
    ],
)
def test_what_is_no_checksum_list(text: str, line: int) -> None:
    with pytest.raises(BrokenContent, match=f"its line {line} is "):
        read(text)


def test_what_is_no_text() -> None:
    with pytest.raises(BrokenContent, match="not UTF-8"):
        read_checksums(b"\xff", "SHA256SUMS", PLACE)


_names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


@given(st.lists(st.tuples(_names, st.binary(min_size=32, max_size=32)), unique_by=lambda e: e[0]))
def test_what_coreutils_writes_is_read(files: list[tuple[str, bytes]]) -> None:
    """md5sum(1): a backslash, a newline or a carriage return is escaped, with a backslash ahead."""
    lines: list[str] = []
    expected: dict[str, str] = {}
    for name, digest in files:
        escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
        lines.append(f"{chr(92) if escaped != name else ''}{digest.hex()}  {escaped}\n")
        plain = name
        while plain.startswith("./"):
            plain = plain[2:].lstrip("/")
        if plain == "SHA256SUMS" or expected.setdefault(plain, digest.hex()) != digest.hex():
            return
    assert read("".join(lines)) == expected


@given(st.text(max_size=100))
def test_any_text_is_read_or_refused(text: str) -> None:
    said = ""
    try:
        read_checksums(text.encode(errors="replace"), "a.sha256", PLACE)
        read_own(text.encode(errors="replace"), PLACE)
    except BrokenContent as error:
        said = str(error)
    assert "\n" not in said


def own(*entries: Any) -> list[Listed]:
    return read_own(json.dumps(entries).encode(), "https://h/modelcache.json")


def test_a_list_of_our_own() -> None:
    assert own(
        {"path": "config.json", "size": 2, "sha256": A.upper()},
        {"path": "m/model.gguf", "size": 0, "sha256": B, "url": "https://cdn/8b.gguf?x=y"},
    ) == [
        Listed("config.json", A, 2),
        Listed("m/model.gguf", B, 0, "https://cdn/8b.gguf?x=y"),
    ]


GOOD = {"path": "a", "size": 1, "sha256": A}


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({**GOOD, "size": -1}, "size of entry 1: "),
        ({**GOOD, "size": "1"}, "size of entry 1: "),
        ({**GOOD, "size": True}, "size of entry 1: "),
        ({**GOOD, "sha256": A[1:]}, "sha256 of entry 1: "),
        ({**GOOD, "sha256": A + "\n"}, "sha256 of entry 1: "),
        ({**GOOD, "path": ""}, "path of entry 1: "),
        ({**GOOD, "url": ""}, "url of entry 1: "),
        ({**GOOD, "more": 1}, "more of entry 1: "),
        ({"path": "a", "sha256": A}, "size of entry 1: "),
        ("a", "entry 1: "),
    ],
)
def test_what_is_no_entry(entry: Any, said: str) -> None:
    with pytest.raises(BrokenContent, match=f"is no list of files: {said}"):
        own(entry)


@pytest.mark.parametrize("text", ["", "<html>", "{}", "null", '{"files": []}', "[[]]", "\xff"])
def test_what_is_no_list(text: str) -> None:
    with pytest.raises(BrokenContent, match="is no list of files"):
        read_own(text.encode("latin-1"), PLACE)


def test_an_entry_twice() -> None:
    assert len(own(GOOD, GOOD)) == 1
    with pytest.raises(BrokenContent, match="twice"):
        own(GOOD, {**GOOD, "size": 2})
