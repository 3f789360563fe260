from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcache.api import CachedModel, Source, SourceURI, parse_uri, shown_uri
from modelcache.api.uri import URI_PATTERN
from modelcache.errors import UsageError

PIN = "0123456789abcdef" * 4
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
        ("gs://bucket", SourceURI("gs", "bucket", "")),
        ("gs://b.example.com/m%20odels/llama/", SourceURI("gs", "b.example.com", "m odels/llama/")),
        ("https://h/f", SourceURI("https", "h", "/f")),
        ("https://H.Example.:443/a//b", SourceURI("https", "h.example", "/a//b")),
        ("https://h:8443/f?a=b%2F&c=?d", SourceURI("https", "h:8443", "/f", query="a=b%2F&c=?d")),
        ("https://[::1]:8443/f", SourceURI("https", "[::1]:8443", "/f")),
        ("https://h/a%20b+%2Fé@%", SourceURI("https", "h", "/a%20b+%2F%C3%A9@%25")),
        (f"https://h/f#sha256={PIN.upper()}", SourceURI("https", "h", "/f", sha256=PIN)),
        (f"http://h:80/f#sha256={PIN}", SourceURI("http", "h", "/f", sha256=PIN)),
        ("http://localhost:8080/f", SourceURI("http", "localhost:8080", "/f")),
        ("http://127.0.0.2/f", SourceURI("http", "127.0.0.2", "/f")),
        ("http://[::1]/f", SourceURI("http", "[::1]", "/f")),
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
        ("ftp://x/y", "supported are hf, s3, gs, oci, https, http, file"),
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
        ("gs://", "names no bucket: write gs://bucket/prefix"),
        ("gs://b/x", "names no bucket"),
        ("https://", "no host name"),
        ("https:///f", "no host name"),
        ("https://-/f", "no host name"),
        ("https://h:/f", "no host name"),
        ("https://h:0/f", "no host name"),
        ("https://h:65536/f", "no host name"),
        ("https://h:" + "9" * 5000 + "/f", "no host name"),
        ("https://a..b/f", "no host name"),
        ("https://bücher.example/f", "no host name"),
        ("https://[::g]/f", "no host name"),
        ("https://[127.0.0.1]/f", "no host name"),
        ("https://h", "names no file"),
        ("https://h/", "names no file"),
        ("https://h/folder/", "names no file"),
        ("https://h/folder%2F", "names no file"),
        ("https://h/a/../b", "no '.', '..' or backslash"),
        ("https://h/a/%2e%2e/b", "no '.', '..' or backslash"),
        ("https://h/..%2Fb", "no '.', '..' or backslash"),
        ("https://h/a\\b", "no '.', '..' or backslash"),
        ("https://h\\@evil/f", "user name or a password"),
        ("https://h/%ff", "not UTF-8"),
        ("https://h/a%0ab", "control character"),
        ("https://user:password@h/f", "user name or a password in it: put them into a Secret"),
        ("https://h/f#", "only sha256="),
        ("https://h/f#main", "only sha256="),
        (f"https://h/f#sha256={PIN[1:]}", "only sha256="),
        (f"https://h/f#md5={PIN}", "only sha256="),
        ("http://h/f", "without TLS"),
        ("http://10.0.0.1:8080/f", "without TLS"),
        ("http://localhost.evil.example/f", "without TLS"),
        ("http://127.0.0.1.evil.example/f", "without TLS"),
        ("file://host/path", "not an absolute path on this machine"),
        ("file://path", "not an absolute path on this machine"),
        ("file:///a/../etc", "no '..'"),
        ("file:///a/%2e%2e/etc", "no '..'"),
        ("file:///a%2F..%2Fetc", "no '..'"),
        ("oci://", "names no registry"),
        ("oci://org/name", "names no registry"),
        ("oci://user:secret@quay.io/a", "user name or a password in it: put them into a Secret"),
        (f"oci://name@{DIGEST}", f"'oci://name@{DIGEST}' names no registry"),
        ("oci://name@sha256:abc", "user name or a password"),
        ("oci://ghcr.io", "names no repository"),
        ("gcs://bucket/p", "did you mean gs://"),
        ("docker://quay.io/a", "did you mean oci://"),
        ("HTTPS://h/f", "did you mean https://"),
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
        st.sampled_from(["s3", "gs"]),
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


_web = st.builds(
    "https://{}/{}{}{}".format,
    st.from_regex(r"[a-z0-9][a-z0-9.-]{0,20}[a-z0-9](:[1-9][0-9]{0,3})?", fullmatch=True),
    _text,
    st.just("") | _text.map("?{}".format),
    st.sampled_from(["", f"#sha256={PIN}"]),
)


@given(_web)
def test_a_url_is_sent_as_it_was_written(text: str) -> None:
    try:
        uri = parse_uri(text)
    except UsageError:
        return
    again = parse_uri(uri.url + (f"#sha256={uri.sha256}" if uri.sha256 else ""))
    assert again == uri
    assert uri.url.isascii()
    assert re.match(URI_PATTERN, str(uri))


@given(_web | st.text(max_size=40))
def test_what_is_shown_stays_what_it_is(text: str) -> None:
    assert shown_uri(shown_uri(text)) == shown_uri(text)


SIGNED = "https://h.example/m/model.gguf?X-Sig=planted&part=1"


def test_a_query_is_not_shown_and_still_tells_two_apart() -> None:
    shown = shown_uri(SIGNED)
    assert shown == str(parse_uri(SIGNED))
    assert re.fullmatch(r"https://h\.example/m/model\.gguf\?query-sha256=[0-9a-f]{12}", shown)
    assert shown != shown_uri(SIGNED.replace("part=1", "part=2"))
    assert parse_uri(SIGNED).url == SIGNED
    assert "planted" not in repr(parse_uri(SIGNED)) + repr(Source(uri=SIGNED))


def test_what_is_stored_of_a_source_has_its_digest() -> None:
    source = Source(uri=SIGNED, include=("*.gguf",))
    assert "planted" not in source.to_be_stored().model_dump_json()
    assert source.to_be_stored().digest() == source.digest()
    assert source.digest() != Source(uri=SIGNED + "x", include=("*.gguf",)).digest()
    # As it has been since the first version: digests of what is on the disks.
    assert Source(uri="hf://org/name").digest() == "0fb00e28c22713e8"


@pytest.mark.parametrize(
    "text",
    [
        "https://user:planted@h/f",
        "oci://user:planted@quay.io/a:v1",
        f"oci://user:planted@quay.io/a@{DIGEST}",
        "s3://planted:planted@bucket/prefix",
        "s3://key:pla/planted+/x@bucket/prefix",
        "s3://key:pla?planted#x@bucket/prefix",
        "gs://planted@bucket/prefix",
        "hf://user:planted@org/name",
        "docker://user:planted@quay.io/a",
        "file://user:planted@h/f",
        "HTTPS://user:planted@h/f",
        "http://planted@h/f",
        "https://user:pla/planted@h/f",
        "https://h/f?planted#x",
        "https://h/f#planted",
        "https://h/f ?planted",
        "https://h/\x01?planted",
        "https://h/%ff?planted",
        "http://h/f?planted",
        "https://h/?planted",
        "https://h/../f?planted",
        "ftp+https://h/f",
    ],
)
def test_no_message_holds_a_credential(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_uri(text)
    assert "planted" not in str(caught.value)


def test_no_error_of_a_field_holds_a_credential() -> None:
    with pytest.raises(ValueError, match="user name or a password") as caught:
        Source(uri="https://user:planted@h/f")
    assert "planted" not in str(caught.value) + repr(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        *("SHA256SUMS", "sha256sums", "SHA256SUM", "sha256sum.txt", "SHA256SUMS.txt"),
        *("model.gguf.sha256", "all.sha256sums", "a.SHA256SUM", "%53HA256SUMS"),
    ],
)
def test_checksum_lists(name: str) -> None:
    uri = parse_uri(f"https://h/a/{name}?x=y")
    assert uri.is_checksum_list
    assert not uri.is_own_list


@pytest.mark.parametrize("name", ["modelcache.json", "llama.modelcache.json"])
def test_own_lists(name: str) -> None:
    uri = parse_uri(f"https://h/a/{name}")
    assert uri.is_own_list
    assert not uri.is_checksum_list


@pytest.mark.parametrize(
    "text",
    [
        *(
            "https://h/SHA256SUMS/f",
            "https://h/mysha256sums",
            "https://h/.sha256",
            "s3://bkt/SHA256SUMS",
        ),
        *("https://h/f?SHA256SUMS", "https://h/amodelcache.json", "https://h/config.json"),
    ],
)
def test_single_files(text: str) -> None:
    assert not parse_uri(text).is_checksum_list
    assert not parse_uri(text).is_own_list


@given(_uris)
def test_round_trip(uri: SourceURI) -> None:
    assert parse_uri(str(uri)) == uri


@given(_uris)
def test_what_is_written_passes_the_schema(uri: SourceURI) -> None:
    assert re.match(URI_PATTERN, str(uri))


@given(
    st.sampled_from(
        ["hf://", "s3://", "oci://", "oci://a.b/c", "https://", "http://localhost/", "file://", ""]
    ),
    st.text(max_size=40),
)
def test_any_text_is_read_or_refused(scheme: str, text: str) -> None:
    try:
        uri = parse_uri(scheme + text)
    except UsageError:
        return
    if not uri.query:
        assert parse_uri(str(uri)) == uri
    assert re.match(URI_PATTERN, scheme + text)


def test_the_class_says_what_the_parser_says() -> None:
    document: dict[str, Any] = {
        "metadata": {"name": "a"},
        "spec": {"source": {"uri": "hf://org/name@"}},
    }
    with pytest.raises(ValueError, match="empty revision"):
        CachedModel.from_document(document)
