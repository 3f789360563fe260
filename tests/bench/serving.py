"""nginx on loopback as an origin: S3-style URLs and a Hub, with the files locked in memory.

nginx gives the bytes. What it can't make up itself lies ready as files: the Hub's answers to
questions for a commit; and the listing of a bucket comes from a stub behind it.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import mmap
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from awscrt.checksums import crc32c

from tests.support.cluster.certificates import Authority
from tests.support.cluster.processes import Program, free_port
from tests.support.cluster.waiting import eventually

MIB = 1024 * 1024
COMMIT = "c" * 40
BUCKET = "models"
_MAP_LOCKED = 0x2000
"""As mmap(2) has it on x86 and Arm; the module mmap doesn't."""
_CONFIG = """\
daemon off;
user root;
pid {folder}/nginx.pid;
worker_processes 2;
error_log {folder}/error.log warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000;
    types_hash_max_size 2048;
    types {{ }}
    default_type application/octet-stream;
    client_body_temp_path {folder}/tmp;
    proxy_temp_path {folder}/tmp;
    fastcgi_temp_path {folder}/tmp;
    uwsgi_temp_path {folder}/tmp;
    scgi_temp_path {folder}/tmp;
    map_hash_max_size 16384;
    map_hash_bucket_size 256;
    map $args $stub {{ "~(^|&)(list-type|prefix|delimiter|location)(=|&|$)" 1; default 0; }}
    map $uri $crc32c {{ include {folder}/crc32c.map; }}
    server {{
        listen 127.0.0.1:{port};
        listen 127.0.0.1:{tls_port} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        location /{bucket} {{
            error_page 418 = @stub;
            if ($stub) {{ return 418; }}
            root {folder};
            try_files $uri =404;
        }}
        location ~ "^/download/storage/v1/b/{bucket}/o/(.+)$" {{
            alias {folder}/{bucket}/$1;
            etag off;
            add_header X-Goog-Hash $crc32c;
            add_header X-Goog-Generation 1;
        }}
        location /storage/ {{ proxy_pass http://127.0.0.1:{stub_port}; }}
        location @stub {{ proxy_pass http://127.0.0.1:{stub_port}; }}
        location = /up {{ return 200 ok; }}
        include {folder}/hub.conf;
    }}
}}
"""


@dataclass(frozen=True)
class Case:
    """Files to fetch: `count` of `size` bytes each, below a prefix (or repository) of this name."""

    name: str
    title: str
    count: int
    size: int
    suffix: str

    @property
    def total(self) -> int:
        """Bytes of all files."""
        return self.count * self.size

    @property
    def files(self) -> list[str]:
        """Their names."""
        return [f"{self.name}-{number:05d}{self.suffix}" for number in range(self.count)]


@dataclass(frozen=True)
class Origin:
    """Where the files are.

    Attributes:
        url, tls_url: the server, plain and with TLS.
        authority: the certificate of who signed the server's, PEM.
    """

    url: str
    tls_url: str
    authority: Path


@contextmanager
def serve(folder: Path, cases: list[Case]) -> Iterator[Origin]:
    """Serve files of random bytes, made anew.

    Raises:
        FileNotFoundError: there is no nginx.
        PermissionError: the files can't be locked in memory; with what to do.
    """
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    if not os.access(program, os.X_OK):
        raise FileNotFoundError("nginx")
    folder.mkdir()
    (folder / "tmp").mkdir()
    made = {case.name: _make(folder / BUCKET / case.name, case) for case in cases}
    digests = {name: [sha256 for sha256, _ in each] for name, each in made.items()}
    checksums = {
        f"{case.name}/{file}": crc32c
        for case in cases
        for file, (_, crc32c) in zip(case.files, made[case.name], strict=True)
    }
    (folder / "crc32c.map").write_text(
        "".join(
            f'/download/storage/v1/b/{BUCKET}/o/{name} "crc32c={crc32c}";\n'
            for name, crc32c in checksums.items()
        )
    )
    (folder / "hub.conf").write_text(
        "".join(_hub(folder, case, digests[case.name]) for case in cases)
    )
    authority = Authority(folder / "keys")
    pair = authority.server("nginx", ["127.0.0.1"], ["localhost"])
    port, tls_port = free_port(), free_port()
    stub = ThreadingHTTPServer(("127.0.0.1", 0), _Listing)
    stub.cases = {case.name: case for case in cases}  # type: ignore[attr-defined]
    stub.folder = folder  # type: ignore[attr-defined]
    stub.checksums = checksums  # type: ignore[attr-defined]
    threading.Thread(target=stub.serve_forever, daemon=True).start()
    (folder / "nginx.conf").write_text(
        _CONFIG.format(
            folder=folder,
            bucket=BUCKET,
            port=port,
            tls_port=tls_port,
            stub_port=stub.server_port,
            certificate=pair.certificate,
            key=pair.key,
        )
    )
    files = [folder / BUCKET / case.name / file for case in cases for file in case.files]
    nginx = Program("nginx", [program, "-p", str(folder), "-c", str(folder / "nginx.conf")], folder)
    nginx.start()
    try:
        url = f"http://127.0.0.1:{port}"
        eventually(
            lambda: subprocess.run(["curl", "-sf", "-o", os.devnull, f"{url}/up"], check=True)
        )
        with _locked(files):
            yield Origin(url, f"https://127.0.0.1:{tls_port}", authority.certificate)
    finally:
        nginx.stop()
        stub.shutdown()
        stub.server_close()


@contextmanager
def _locked(paths: list[Path]) -> Iterator[None]:
    """Keep files in memory. A kernel that takes idle pages back (DAMON, a host that is short of
    memory) would have whoever comes first wait for the disk.

    Raises:
        PermissionError: so much may not be locked; with what to do.
    """
    with ExitStack() as stack:
        for path in paths:
            with path.open("rb") as file:
                flags = mmap.MAP_SHARED | mmap.MAP_POPULATE | _MAP_LOCKED
                try:
                    pages = mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ)
                except OSError as error:  # EAGAIN beyond the limit, EPERM where it is none
                    raise PermissionError(
                        "the origin's files can't be locked in memory: run this as root, or with"
                        " `ulimit -l unlimited`"
                    ) from error
                stack.enter_context(pages)
        yield


def _make(folder: Path, case: Case) -> list[tuple[str, str]]:
    """Write the files; their SHA-256 (hex) and CRC32C (base64)."""
    folder.mkdir(parents=True)
    made = []
    for name in case.files:
        digest, crc = hashlib.sha256(), 0
        with (folder / name).open("wb") as file:
            for start in range(0, case.size, 8 * MIB):
                piece = os.urandom(min(8 * MIB, case.size - start))
                digest.update(piece)
                crc = crc32c(piece, crc)
                file.write(piece)
        made.append((digest.hexdigest(), base64.b64encode(crc.to_bytes(4, "big")).decode()))
    return made


def _hub(folder: Path, case: Case, digests: list[str]) -> str:
    """What nginx is to answer for a repository bench/<case>, as a part of its configuration."""
    repository = f"bench/{case.name}"
    listing = [
        {
            "type": "file",
            "oid": digest[:40],
            "size": case.size,
            "path": name,
            "lfs": {"oid": digest, "size": case.size, "pointerSize": 134},
        }
        for name, digest in zip(case.files, digests, strict=True)
    ]
    answers = folder / "answers"
    answers.mkdir(exist_ok=True)
    info = {
        "id": repository,
        "modelId": repository,
        "sha": COMMIT,
        "private": False,
        "gated": False,
        "disabled": False,
        "tags": [],
        "siblings": [{"rfilename": name} for name in case.files],
    }
    (answers / f"{case.name}.info").write_text(json.dumps(info))
    (answers / f"{case.name}.tree").write_text(json.dumps(listing))
    text = ""
    for place, kind in (
        (f"revision/{COMMIT}", "info"),
        ("revision/main", "info"),
        (f"tree/{COMMIT}", "tree"),
    ):
        text += (
            f"location = /api/models/{repository}/{place} {{"
            f" default_type application/json; alias {answers}/{case.name}.{kind}; }}\n"
        )
    for name, digest in zip(case.files, digests, strict=True):
        text += (
            f"location = /{repository}/resolve/{COMMIT}/{name} {{"
            f" alias {folder}/{BUCKET}/{case.name}/{name}; etag off;"
            f" add_header ETag '\"{digest}\"'; add_header X-Linked-ETag '\"{digest}\"';"
            f" add_header X-Linked-Size {case.size}; add_header X-Repo-Commit {COMMIT}; }}\n"
        )
    return text


class _Listing(BaseHTTPRequestHandler):
    """What the clients ask before they fetch, as far as they need it: S3's ListObjectsV2 and
    GetBucketLocation, and Google's lists and objects."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = parse_qs(parts.query, keep_blank_values=True)
        if parts.path.startswith("/storage/"):
            self._answer("application/json", json.dumps(self._google(parts.path, query)))
        elif "location" in query:
            self._answer("application/xml", "<LocationConstraint>us-east-1</LocationConstraint>")
        else:
            listed = self._list(query.get("prefix", [""])[0], query.get("encoding-type"))
            self._answer("application/xml", f'<?xml version="1.0" encoding="UTF-8"?>\n{listed}')

    def _answer(self, kind: str, body: str) -> None:
        data = body.encode()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _google(self, path: str, query: dict[str, list[str]]) -> dict[str, Any]:
        checksums: dict[str, str] = self.server.checksums  # type: ignore[attr-defined]
        name = unquote(path.partition("/o/")[2])
        if name:
            return self._object(name, checksums[name])
        prefix = query.get("prefix", [""])[0]
        found = [self._object(*each) for each in checksums.items() if each[0].startswith(prefix)]
        return {"kind": "storage#objects", "items": found}

    def _object(self, name: str, crc: str) -> dict[str, Any]:
        size = (self.server.folder / BUCKET / name).stat().st_size  # type: ignore[attr-defined]
        place = {"bucket": BUCKET, "name": name, "generation": "1", "metageneration": "1"}
        return {"kind": "storage#object", **place, "size": str(size), "crc32c": crc}

    def _list(self, prefix: str, encoding: list[str] | None) -> str:
        name = prefix.partition("/")[0]
        cases: dict[str, Case] = self.server.cases  # type: ignore[attr-defined]
        rows = []
        if name in cases:
            case = cases[name]
            when = "2026-01-01T00:00:00.000Z"
            for file in case.files:
                key = f"{name}/{file}"
                if key.startswith(prefix):
                    rows.append(
                        f"<Contents><Key>{html.escape(key)}</Key><LastModified>{when}</LastModified>"
                        f"<ETag>{html.escape(self._etag(key))}</ETag><Size>{case.size}</Size>"
                        "<StorageClass>STANDARD</StorageClass></Contents>"
                    )
        extra = "<EncodingType>url</EncodingType>" if encoding else ""
        return (
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{BUCKET}</Name><Prefix>{html.escape(prefix)}</Prefix>{extra}"
            f"<KeyCount>{len(rows)}</KeyCount><MaxKeys>100000</MaxKeys>"
            f"<IsTruncated>false</IsTruncated>{''.join(rows)}</ListBucketResult>"
        )

    def _etag(self, key: str) -> str:
        """As nginx makes it: time and size of the file, in hex."""
        found = (self.server.folder / BUCKET / key).stat()  # type: ignore[attr-defined]
        return f'"{int(found.st_mtime):x}-{found.st_size:x}"'

    def log_message(self, *_: object) -> None:
        """Nothing."""
