from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcache.api import CachedModel, SourceURI, parse_uri
from modelcache.api.uri import URI_PATTERN
from modelcache.errors import UsageError

DIGEST = "sha256:" + "0a" * 32


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("hf://org/name", SourceURI("hf", "org/name", "")),
        ("hf://org/name@main", SourceURI("hf", "org/name", "", "main")),
        ("hf://org/name@main/sub/dir", SourceURI("hf", "org/name", "sub/dir", "main")),
        ("hf://org/name/sub/file.json", SourceURI("hf", "org/name", "sub/file.json")),
        ("hf://org/name/a@b", SourceURI("hf", "org/name", "a@b")),
        ("hf://org/name@feature%2Fx/y", SourceURI("hf", "org/name", "y", "feature/x")),
        ("hf://org/name@refs/pr/7", SourceURI("hf", "org/name", "", "refs/pr/7")),
        ("hf://org/name@refs/pr/7/y", SourceURI("hf", "org/name", "y", "refs/pr/7")),
        ("hf://org/n-1.0_b/my%20file", SourceURI("hf", "org/n-1.0_b", "my file")),
        ("s3://bucket", SourceURI("s3", "bucket", "")),
        ("s3://bucket/models/llama/", SourceURI("s3", "bucket", "models/llama/")),
        ("s3://bucket//a", SourceURI("s3", "bucket", "/a")),
        ("s3://bucket/a%20b+c", SourceURI("s3", "bucket", "a b+c")),
        ("file:///mnt/models/llama", SourceURI("file", "", "/mnt/models/llama")),
        ("file://localhost/mnt/models/", SourceURI("file", "", "/mnt/models")),
        ("file:///", SourceURI("file", "", "/")),
        ("oci://quay.io/org/name", SourceURI("oci", "quay.io/org/name", "")),
        ("oci://quay.io/name:1.0_a", SourceURI("oci", "quay.io/name", "", "1.0_a")),
        ("oci://r:5000/a/b/c:v", SourceURI("oci", "r:5000/a/b/c", "", "v")),
        ("oci://localhost/a__b/c--d.e", SourceURI("oci", "localhost/a__b/c--d.e", "")),
        (f"oci://[::1]:5000/a@{DIGEST}", SourceURI("oci", "[::1]:5000/a", "", DIGEST)),
        (f"oci://quay.io/a:tag@{DIGEST}", SourceURI("oci", "quay.io/a", "", DIGEST)),
    ],
)
def test_good(text: str, parsed: SourceURI) -> None:
    assert parse_uri(text) == parsed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not a URI"),
        ("org/name", "is not a URI"),
        ("://x", "is not a URI"),
        ("ftp://x/y", "supported are hf, s3, oci, file"),
        ("hf://name", "names no repository"),
        ("hf:///name", "names no repository"),
        ("hf://org/", "names no repository"),
        ("hf://.org/name", "names no repository"),
        ("hf://org/na me", "has a space in it: write %20"),
        ("hf://org/name@", "empty revision"),
        ("hf://org/name@/x", "empty revision"),
        ("hf://org/a--b", "neither"),
        ("hf://org/a..b", "neither"),
        ("hf://org/name/%ff", "not UTF-8"),
        ("hf://org/name/\udcff", "not valid UTF-8"),
        ("hf://org/name/%00", "control character"),
        ("hf://org/name@a%0Ab", "control character"),
        ("s3://", "names no bucket"),
        ("s3://b/x", "names no bucket"),
        ("s3://bucket/a\nb", "control character"),
        ("s3://bucket/a%0ab", "control character"),
        ("file://host/path", "not an absolute path on this machine"),
        ("file://path", "not an absolute path on this machine"),
        ("file:///a/../etc", "no '..'"),
        ("file:///a/%2e%2e/etc", "no '..'"),
        ("file:///a%2F..%2Fetc", "no '..'"),
        ("oci://", "names no registry"),
        ("oci://quay.io", "names no registry"),
        ("oci://org/name", "names no registry"),
        ("oci://user:secret@quay.io/a", "names no registry"),
        ("oci://quay.io/", "names no repository"),
        ("oci://quay.io/Org/name", "names no repository"),
        ("oci://quay.io/a/../b", "names no repository"),
        ("oci://quay.io/a//b", "names no repository"),
        ("oci://quay.io/a%2Fb", "names no repository"),
        ("oci://quay.io/a?b", "names no repository"),
        ("oci://quay.io/" + "a" * 256, "names no repository"),
        ("oci://quay.io/a:", "a tag that can't be one"),
        ("oci://quay.io/a:b/c", "a tag that can't be one"),
        ("oci://quay.io/a:-b", "a tag that can't be one"),
        ("oci://quay.io/a@", "not sha256: and 64 hex digits"),
        ("oci://quay.io/a@sha256:abc", "not sha256: and 64 hex digits"),
        ("oci://quay.io/a@sha512:" + "0" * 128, "not sha256: and 64 hex digits"),
        ("oci://quay.io/a@sha256:" + "A" * 64, "not sha256: and 64 hex digits"),
    ],
)
def test_bad(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        parse_uri(text)


_name = st.from_regex(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,20}[A-Za-z0-9_])?", fullmatch=True).filter(
    lambda name: "--" not in name and ".." not in name
)
_text = st.one_of(
    st.text(st.sampled_from("%4aF/@?#. é"), max_size=12),
    st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=20),
)
_inner = _text.map(lambda text: text.strip("/"))
_uris = st.one_of(
    st.builds(
        SourceURI,
        st.just("hf"),
        st.builds("{}/{}".format, _name, _name),
        _inner,
        st.none() | _text.filter(bool),
    ),
    st.builds(
        SourceURI,
        st.just("s3"),
        st.from_regex(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", fullmatch=True),
        _text,
    ),
    st.builds(
        SourceURI,
        st.just("file"),
        st.just(""),
        _inner.filter(lambda path: ".." not in path.split("/")).map("/{}".format),
    ),
    st.builds(
        SourceURI,
        st.just("oci"),
        st.from_regex(
            r"[a-z0-9]+\.io(:[0-9]{1,5})?(/[a-z0-9]+([._]|__|-+)[a-z0-9]+){1,4}", fullmatch=True
        ),
        st.just(""),
        st.none()
        | st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", fullmatch=True)
        | st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True),
    ),
)


@given(_uris)
def test_round_trip(uri: SourceURI) -> None:
    assert parse_uri(str(uri)) == uri


@given(_uris)
def test_what_is_written_passes_the_schema(uri: SourceURI) -> None:
    assert re.match(URI_PATTERN, str(uri))


@given(
    st.sampled_from(["hf://", "s3://", "oci://", "oci://a.b/c", "file://", ""]),
    st.text(max_size=40),
)
def test_any_text_is_read_or_refused(scheme: str, text: str) -> None:
    try:
        uri = parse_uri(scheme + text)
    except UsageError:
        return
    assert parse_uri(str(uri)) == uri
    assert re.match(URI_PATTERN, scheme + text)


def test_the_class_says_what_the_parser_says() -> None:
    document: dict[str, Any] = {
        "metadata": {"name": "a"},
        "spec": {"source": {"uri": "hf://org/name@"}},
    }
    with pytest.raises(ValueError, match="empty revision"):
        CachedModel.from_document(document)
