"""Where models come from, as a URI.

    hf://org/name[@revision][/path]     a Hugging Face repository, or a folder or file of it
    s3://bucket/prefix                  the objects under a prefix, or one object
    gs://bucket/prefix                  the same of Google Cloud Storage
    https://host/path/file              one file of a web server
    https://host/path/SHA256SUMS        all files that a list names, which lie beside it
    file:///path                        a directory or a file of a mounted file system
    oci://registry/repository[:tag|@digest]
                                        an image with /models in it, or an artifact of files

A revision with a slash is written percent-encoded (`@feature%2Fx`); `refs/pr/7` may stand as it is.

A web server's URL means a list where its last part is the name of a checksum list (`SHA256SUMS`,
`sha256sum.txt`, `*.sha256`, `*.sha256sums` and the like, in any case) or of a list of our own
(`modelcache.json`, `*.modelcache.json`; `modelcache.origins.weblist` has both forms). Any other
name means that one file. `#sha256=<64 hex digits>` at the end pins the content of what the URL
names, so with a list that of all its files. Plain `http://` needs such a pin, except on this
machine itself: anybody on the way could change what comes.

What follows a `?` may be a signature. It is sent, and neither shown nor stored: in its place stands
`?query-sha256=` with twelve digits of its digest (`shown_uri`).
An image has no path inside: a repository's name has slashes itself, and `include` says it as well.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from modelcache.errors import UsageError

SCHEMES: Final = ("hf", "s3", "gs", "oci", "https", "http", "file")
"""The schemes that have an origin in this version."""

URI_PATTERN: Final = r"^(hf|s3|gs|oci|https?|file)://\S+$"
"""What a schema can say of a URI; `parse_uri` says the rest."""

_HF_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9_.])?")
_PIN = re.compile(r"sha256=([0-9A-Fa-f]{64})")
_HIDDEN = re.compile(r"query-sha256=[0-9a-f]{12}")
_CHECKSUM_LIST = re.compile(r"(?i)(?:sha256sums?(?:\.txt)?|.+\.sha256(?:sums?)?)")
_OWN_LIST = re.compile(r"(?:.+\.)?modelcache\.json")
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_DEFAULT_PORTS = {"http": "80", "https": "443"}
# https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#pulling-manifests
_REGISTRY = re.compile(
    r"(?:localhost|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|\[[0-9a-f:]+\](?=:)"
    r"|[A-Za-z0-9-]+(?=:))(?::[0-9]{1,5})?"
)
_REPOSITORY_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_REPOSITORY_PART}(?:/{_REPOSITORY_PART})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MEANT = {"gcs": "gs", "docker": "oci"}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True)
class SourceURI:
    """A parsed URI. As a string it holds no query.

    Attributes:
        scheme: one of `SCHEMES`.
        authority: `org/name` for hf, the bucket for s3 and gs, `registry/repository` for oci,
            `host[:port]` for http and https, empty for file.
        path: the path inside, without a leading slash for hf, s3 and gs, absolute for file; for
            http and https as it is sent, percent-encoded and with its slash.
        revision: the branch, tag or commit (hf), or the tag or digest (oci) asked for, or None.
        query: what follows the `?` (http and https), as it is sent.
        sha256: the digest that pins what the URL names (http and https), or None.
    """

    scheme: str
    authority: str
    path: str
    revision: str | None = None
    query: str = field(default="", repr=False)
    sha256: str | None = None

    def __str__(self) -> str:
        if self.is_web:
            query = f"?{_hidden(self.query)}" if self.query else ""
            pin = f"#sha256={self.sha256}" if self.sha256 else ""
            return f"{self.scheme}://{self.authority}{self.path}{query}{pin}"
        if self.scheme == "oci":
            separator = "@" if ":" in (self.revision or "") else ":"
            return f"oci://{self.authority}" + (f"{separator}{self.revision}" * bool(self.revision))
        at = f"@{quote(self.revision, safe='')}" if self.revision else ""
        path = quote(self.path, safe="/+=,:@~!$&'()*")
        if self.scheme == "file":
            return f"file://{path}"
        return f"{self.scheme}://{self.authority}{at}" + (f"/{path}" if path else "")

    @property
    def is_web(self) -> bool:
        """Whether it is a web server's URL."""
        return self.scheme in ("https", "http")

    @property
    def url(self) -> str:
        """The URL of a web server with its query: to be sent, not to be shown."""
        query = f"?{self.query}" if self.query else ""
        return f"{self.scheme}://{self.authority}{self.path}{query}"

    @property
    def file_name(self) -> str:
        """The last part of the path of a web server's URL, decoded."""
        return unquote(self.path).rpartition("/")[2]

    @property
    def is_checksum_list(self) -> bool:
        """Whether it names a list of SHA-256 digests."""
        return self.is_web and _CHECKSUM_LIST.fullmatch(self.file_name) is not None

    @property
    def is_own_list(self) -> bool:
        """Whether it names a list in the JSON of `modelcache.origins.weblist`."""
        return self.is_web and _OWN_LIST.fullmatch(self.file_name) is not None


def shown_uri(text: str) -> str:
    """A URI, also one that is not right, as it may be shown and stored.

    The query of a web server's URL is replaced by digits of its digest, so that two of them can
    still be told apart; of any URI a user name and a password by three dots.
    """
    scheme, separator, rest = text.partition("://")
    if not separator:
        return text
    if place := _login_end(rest):
        rest = f"...{rest[place:]}"
    if scheme.lower() not in ("https", "http"):
        return f"{scheme}://{rest}"
    rest, hash_mark, fragment = rest.partition("#")
    rest, _, query = rest.partition("?")
    shown = f"{scheme}://{rest}"
    if query:
        shown += f"?{_hidden(query)}"
    if hash_mark:
        shown += f"#{fragment if _PIN.fullmatch(fragment) else '...'}"
    return shown


def _login_end(rest: str) -> int:
    """Where the @ after a user name or a password is in what follows `://`; 0: there is none.

    A password may have a slash in it, as keys of S3 do: what it follows then is no port.
    """
    head = re.split(r"[/?#]", rest)[0]
    if "@" in head:
        before, _, after = head.rpartition("@")
        # oci://name@sha256:..., which lacks its registry.
        return 0 if _DIGEST.fullmatch(after) and ":" not in before else len(before)
    tail = head.partition(":")[2]
    if not tail or head.startswith("[") or tail.isdigit():
        return 0
    return max(rest.rfind("@"), 0)


def is_loopback(host: str) -> bool:
    """Whether a host, as a URL names it, is this machine itself."""
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return host == "localhost"


def parse_uri(text: str) -> SourceURI:
    """Read a URI.

    Raises:
        UsageError: saying what is wrong and how such a URI is written.
    """
    shown = shown_uri(text)
    if _CONTROL.search(text):
        raise UsageError(f"{shown!r} has a control character in it")
    if _SURROGATE.search(text):
        raise UsageError(f"{shown!r} is not valid UTF-8")
    if re.search(r"\s", text):
        raise UsageError(f"{shown!r} has a space in it: write %20")
    scheme, separator, rest = text.partition("://")
    if not separator or not scheme:
        raise UsageError(
            f"{shown!r} is not a URI: write hf://org/name, s3://bucket/prefix, gs://bucket/prefix,"
            " oci://registry/repository:tag, https://host/path/file or file:///path"
        )
    if scheme not in SCHEMES:
        meant = _MEANT.get(scheme.lower(), scheme.lower())
        hint = f"did you mean {meant}://? S" if meant in SCHEMES else "s"
        raise UsageError(
            f"unknown scheme {scheme!r} in {shown!r}: {hint}upported are {', '.join(SCHEMES)}"
        )
    if _login_end(rest) and scheme != "file":
        web = scheme in ("https", "http")
        keys = " with the keys username and password (or token)," if web else ""
        raise UsageError(
            f"the {scheme} URI has a user name or a password in it: put them into a Secret,{keys}"
            " and name it as secretName"
        )
    try:
        rest = unquote(rest, errors="strict") if scheme in ("s3", "gs", "file") else rest
    except UnicodeDecodeError as error:
        raise UsageError(f"{shown!r} has percent-encoding that is not UTF-8") from error
    parsed = _PARSERS[scheme](shown, rest)
    if _CONTROL.search(parsed.path) or _CONTROL.search(parsed.revision or ""):
        raise UsageError(f"{shown!r} has a control character in it")
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


def _parse_bucket(text: str, rest: str) -> SourceURI:
    scheme = text.partition("://")[0]
    bucket, _, prefix = rest.partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise UsageError(f"{text!r} names no bucket: write {scheme}://bucket/prefix")
    return SourceURI(scheme, bucket, prefix)


def _parse_web(text: str, rest: str) -> SourceURI:
    scheme = text.partition("://")[0]
    rest, hash_mark, fragment = rest.partition("#")
    rest, _, query = rest.partition("?")
    authority, _, tail = rest.partition("/")
    where = _web_authority(scheme, authority)
    shown = shown_uri(text)
    pin = _PIN.fullmatch(fragment)
    if hash_mark and not pin:
        raise UsageError(f"{shown!r}: after the # only sha256=<64 hex digits> is understood")
    try:
        decoded = unquote(tail, errors="strict")
    except UnicodeDecodeError as error:
        raise UsageError(f"{shown!r} has percent-encoding that is not UTF-8") from error
    if _CONTROL.search(decoded):
        raise UsageError(f"{shown!r} has a control character in it")
    if "\\" in rest or {".", ".."} & set(decoded.split("/")):
        raise UsageError(f"{shown!r}: a path has no '.', '..' or backslash in it")
    if not decoded or decoded.endswith("/"):
        raise UsageError(
            f"{shown!r} names no file: write {scheme}://host/path/file, or the URL of a list of"
            " files, such as .../SHA256SUMS"
        )
    host = urlsplit(f"//{where}").hostname or ""
    if scheme == "http" and not pin and not is_loopback(host):
        raise UsageError(
            f"{shown!r} is fetched without TLS, so anybody on the way could change it: write"
            " https, or pin it with #sha256=<64 hex digits> at the end"
        )
    return SourceURI(
        scheme,
        where,
        "/" + _encoded(tail, "/:@!$&'()*+,;=~"),
        query=_encoded(query, "/:@!$&'()*+,;=~?"),
        sha256=pin[1].lower() if pin else None,
    )


def _web_authority(scheme: str, authority: str) -> str:
    """`host[:port]`, in lower case and without a port that goes without saying."""
    host, port = authority, ""
    if "]:" in authority or authority.count(":") == 1:
        host, _, port = authority.rpartition(":")
    if authority.startswith("["):
        try:
            good = ipaddress.ip_address(host[1:-1]).version == 6 and host.endswith("]")
        except ValueError:
            good = False
    else:
        good = _HOST.fullmatch(host) is not None and ".." not in host
    numbered = port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536
    if not good or (host != authority and not numbered):
        raise UsageError(
            f"the {scheme} URI has no host name that can be read: write {scheme}://host/path/file"
        )
    host = host.lower().removesuffix(".")
    port = port.lstrip("0")
    return f"{host}:{port}" if port and port != _DEFAULT_PORTS[scheme] else host


def _encoded(text: str, safe: str) -> str:
    """Percent-encode what may not stand in a URL; what is encoded stays as it is."""
    return quote(_STRAY_PERCENT.sub("%25", text), safe=safe + "%")


def _hidden(query: str) -> str:
    if _HIDDEN.fullmatch(query):
        return query
    digest = hashlib.sha256(query.encode("utf-8", "surrogatepass")).hexdigest()
    return f"query-sha256={digest[:12]}"


def _parse_oci(text: str, rest: str) -> SourceURI:
    how = "write oci://registry/repository:tag or oci://registry/repository@sha256:..."
    name, at, digest = rest.partition("@")
    registry, _, name = name.partition("/")
    repository, colon, tag = name.partition(":")
    if not _REGISTRY.fullmatch(registry):
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


_PARSERS: Final = {
    "hf": _parse_hf,
    "s3": _parse_bucket,
    "gs": _parse_bucket,
    "oci": _parse_oci,
    "https": _parse_web,
    "http": _parse_web,
    "file": _parse_file,
}
