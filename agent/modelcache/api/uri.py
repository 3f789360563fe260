"""Where models come from, as a URI.

    hf://org/name[@revision][/path]     a Hugging Face repository, or a folder or file of it
    s3://bucket/prefix                  the objects under a prefix, or one object
    file:///path                        a directory or a file of a mounted file system
    oci://registry/repository[:tag|@digest]
                                        an image with /models in it, or an artifact of files

A revision with a slash is written percent-encoded (`@feature%2Fx`); `refs/pr/7` may stand as it is.
An image has no path inside: a repository's name has slashes itself, and `include` says it as well.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote

from modelcache.errors import UsageError

SCHEMES: Final = ("hf", "s3", "oci", "file")
"""The schemes that have an origin in this version."""

URI_PATTERN: Final = r"^(hf|s3|oci|file)://\S+$"
"""What a schema can say of a URI; `parse_uri` says the rest."""

_HF_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
# https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#pulling-manifests
_REGISTRY = re.compile(
    r"(?:localhost|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|\[[0-9a-f:]+\](?=:)"
    r"|[A-Za-z0-9-]+(?=:))(?::[0-9]{1,5})?"
)
_REPOSITORY_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_REPOSITORY_PART}(?:/{_REPOSITORY_PART})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True)
class SourceURI:
    """A parsed URI.

    Attributes:
        scheme: one of `SCHEMES`.
        authority: `org/name` for hf, the bucket for s3, `registry/repository` for oci, empty for
            file.
        path: the path inside, without a leading slash for hf and s3, absolute for file.
        revision: the branch, tag or commit (hf), or the tag or digest (oci) asked for, or None.
    """

    scheme: str
    authority: str
    path: str
    revision: str | None = None

    def __str__(self) -> str:
        if self.scheme == "oci":
            separator = "@" if ":" in (self.revision or "") else ":"
            return f"oci://{self.authority}" + (f"{separator}{self.revision}" * bool(self.revision))
        at = f"@{quote(self.revision, safe='')}" if self.revision else ""
        path = quote(self.path, safe="/+=,:@~!$&'()*")
        if self.scheme == "file":
            return f"file://{path}"
        return f"{self.scheme}://{self.authority}{at}" + (f"/{path}" if path else "")


def parse_uri(text: str) -> SourceURI:
    """Read a URI.

    Raises:
        UsageError: saying what is wrong and how such a URI is written.
    """
    if _CONTROL.search(text):
        raise UsageError(f"{text!r} has a control character in it")
    if _SURROGATE.search(text):
        raise UsageError(f"{text!r} is not valid UTF-8")
    if re.search(r"\s", text):
        raise UsageError(f"{text!r} has a space in it: write %20")
    scheme, separator, rest = text.partition("://")
    if not separator or not scheme:
        raise UsageError(
            f"{text!r} is not a URI: write hf://org/name, s3://bucket/prefix,"
            " oci://registry/repository:tag or file:///path"
        )
    if scheme not in SCHEMES:
        raise UsageError(
            f"unknown scheme {scheme!r} in {text!r}: supported are {', '.join(SCHEMES)}"
        )
    try:
        rest = unquote(rest, errors="strict") if scheme in ("s3", "file") else rest
    except UnicodeDecodeError as error:
        raise UsageError(f"{text!r} has percent-encoding that is not UTF-8") from error
    read = {"hf": _parse_hf, "s3": _parse_s3, "oci": _parse_oci, "file": _parse_file}[scheme]
    parsed = read(text, rest)
    if _CONTROL.search(parsed.path) or _CONTROL.search(parsed.revision or ""):
        raise UsageError(f"{text!r} has a control character in it")
    return parsed


def _parse_hf(text: str, rest: str) -> SourceURI:
    how = "write hf://org/name[@revision][/path]"
    repository, revision, path = rest, None, ""
    head, at, tail = rest.partition("@")
    if at and head.count("/") == 1:
        repository = head
        special = re.match(r"refs/(?:pr|convert)/[^/]+", tail)
        revision = special.group() if special else tail.partition("/")[0]
        path = tail[len(revision) :].lstrip("/")
    elif rest.count("/") >= 2:
        org, name, path = rest.split("/", 2)
        repository = f"{org}/{name}"
    org, slash, name = repository.partition("/")
    if not slash or not _HF_NAME.fullmatch(org) or not _HF_NAME.fullmatch(name):
        raise UsageError(f"{text!r} names no repository: {how}")
    if ".." in repository or "--" in repository:
        raise UsageError(f"{text!r}: a repository's name has neither '..' nor '--' in it")
    if revision is not None and not revision:
        raise UsageError(f"{text!r} has an empty revision: {how}")
    try:
        return SourceURI(
            "hf",
            repository,
            unquote(path, errors="strict").strip("/"),
            unquote(revision, errors="strict") if revision else None,
        )
    except UnicodeDecodeError as error:
        raise UsageError(f"{text!r} has percent-encoding that is not UTF-8") from error


def _parse_s3(text: str, rest: str) -> SourceURI:
    bucket, _, prefix = rest.partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise UsageError(f"{text!r} names no bucket: write s3://bucket/prefix")
    return SourceURI("s3", bucket, prefix)


def _parse_oci(text: str, rest: str) -> SourceURI:
    how = "write oci://registry/repository:tag or oci://registry/repository@sha256:..."
    name, at, digest = rest.partition("@")
    registry, slash, name = name.partition("/")
    repository, colon, tag = name.partition(":")
    if not slash or not _REGISTRY.fullmatch(registry):
        # "org/name" alone would be Docker Hub's to docker, and a registry's to others.
        raise UsageError(f"{text!r} names no registry, with a dot or a port in it: {how}")
    if not _REPOSITORY.fullmatch(repository) or len(repository) > 255:
        raise UsageError(f"{text!r} names no repository, which is in lower case: {how}")
    if at and not _DIGEST.fullmatch(digest):
        raise UsageError(f"{text!r} has a digest that is not sha256: and 64 hex digits: {how}")
    if colon and not _TAG.fullmatch(tag):
        raise UsageError(f"{text!r} has a tag that can't be one: {how}")
    # With both, the digest is what counts, as everywhere.
    return SourceURI("oci", f"{registry}/{repository}", "", digest or tag or None)


def _parse_file(text: str, rest: str) -> SourceURI:
    host, slash, path = rest.partition("/")
    if host not in ("", "localhost") or not slash:
        raise UsageError(f"{text!r} is not an absolute path on this machine: write file:///path")
    if ".." in path.split("/"):
        raise UsageError(f"{text!r}: a path has no '..' in it")
    return SourceURI("file", "", "/" + path.strip("/"))
