"""A web server for tests: Debian's nginx, with TLS by an authority of our own.

It is a process of its own, on ports of loopback, with everything it writes in one folder; it ends
with the tests. What the paths of the files begin with says how they are served (`_LOCATIONS`).
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import pytest

from tests.support.cluster.certificates import Authority
from tests.support.cluster.processes import Program, free_port
from tests.support.cluster.waiting import eventually
from tests.support.hub.client import get

USER, PASSWORD, TOKEN = "reader", "planted pässword", "planted-token"

WHY_NONE = "nginx is not installed: apt-get install nginx"

_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin"

_CONFIG = """
daemon off;
master_process off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
    log_format asked '$server_port $request_method $request_uri $status [$http_authorization]'
                     ' [$http_range] [$http_accept_encoding]';
    access_log {folder}/access.log asked;
    client_body_temp_path {folder}/temp;
    proxy_temp_path {folder}/temp;
    fastcgi_temp_path {folder}/temp;
    uwsgi_temp_path {folder}/temp;
    scgi_temp_path {folder}/temp;
    default_type application/octet-stream;
    keepalive_requests 100000;
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    root {folder}/files;
    server {{
        listen 127.0.0.1:{tls} ssl;
        listen 127.0.0.1:{plain};
        {locations}
    }}
    server {{
        # Another host, as far as credentials go.
        listen 127.0.0.1:{other} ssl;
        location /busy/ {{ return 429; }}
        location /dated/ {{ etag off; }}
    }}
}}
"""

_LOCATIONS = """
location / { }
location = /logged { access_log off; return 204; }
location /whole/ { max_ranges 0; }
location /dated/ { etag off; }
location /heedless/ {
    proxy_pass http://127.0.0.1:PLAIN/dated/;
    proxy_set_header If-Unmodified-Since "";
}
location /weak/ { etag off; add_header ETag 'W/"same"'; }
location /balanced/ { etag off; add_header ETag '"$request_id"'; }
location /onlyweak/ { etag off; add_header ETag 'W/"same"'; add_header Last-Modified ""; }
location /misdated/ { etag off; add_header Last-Modified "Mön, 01 Jan"; }
location /unnamed/ { etag off; add_header Last-Modified ""; }
location /encoded/ { add_header Content-Encoding gzip; }
location /endless/ { sub_filter_types *; sub_filter a b; }
location /nohead/ { if ($request_method = HEAD) { return 405; } }
location /emptyhead/ { if ($request_method = HEAD) { return 200; } }
location /signed/ {
    if ($request_method = HEAD) { return 403; }
    if ($arg_sig != "planted") { return 403; }
}
location /private/ { auth_basic x; auth_basic_user_file FOLDER/users; }
location /token/ { if ($http_authorization != "Bearer planted-token") { return 401; } }
location /busy/ { add_header Retry-After 17 always; return 429; }
location /broken/ { add_header Retry-After 17 always; return 503; }
location /teapot/ { return 418; }
location /gone/ { return 410; }
location /moved/ { rewrite ^/moved/(.*)$ https://127.0.0.1:OTHER/$1 redirect; }
location /movedhere/ { rewrite ^/movedhere/(.*)$ /$1 permanent; }
location /unsafe/ { return 302 http://127.0.0.1:PLAIN/model.gguf; }
location /elsewhere/ { return 302 http://192.0.2.1/model.gguf; }
location /unreadable/ { return 302 "https://[bad"; }
location /nowhere/ { return 302 ftp://127.0.0.1/model.gguf; }
location /circle/ { return 302 /circle/round; }
"""


@dataclass(frozen=True)
class Asked:
    """A request that came, as nginx logged it."""

    port: int
    method: str
    target: str
    status: int
    authorization: str
    range: str
    accept_encoding: str


def nginx() -> str | None:
    """Where nginx is, if it is."""
    return shutil.which("nginx", path=_PATH)


class WebServer:
    """nginx over one folder of files.

    Attributes:
        files: what it serves.
        url, other: two hosts with TLS, as far as clients can tell, with the same files.
        plain: the first without TLS.
        authority: the certificate to be trusted, for SSL_CERT_FILE.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.files = folder / "files"
        self.files.mkdir()
        (folder / "temp").mkdir()
        (folder / "users").write_text(f"{USER}:{{PLAIN}}{PASSWORD}\n")
        authority = Authority(folder / "authority")
        self.authority = authority.certificate
        pair = authority.server("nginx", ["127.0.0.1"], ["localhost"])
        tls, plain, other = free_port(), free_port(), free_port()
        self._port = tls
        self.url, self.other = f"https://127.0.0.1:{tls}", f"https://127.0.0.1:{other}"
        self.plain = f"http://127.0.0.1:{plain}"
        locations = _LOCATIONS
        for name, value in {"FOLDER": folder, "OTHER": other, "PLAIN": plain}.items():
            locations = locations.replace(name, str(value))
        config = folder / "nginx.conf"
        config.write_text(
            _CONFIG.format(
                folder=folder,
                certificate=pair.certificate,
                key=pair.key,
                tls=tls,
                plain=plain,
                other=other,
                locations=locations,
            )
        )
        binary = nginx()
        assert binary is not None, WHY_NONE
        error_log = str(folder / "error.log")
        command = [binary, "-p", str(folder), "-c", str(config), "-e", error_log]
        self._program = Program("nginx", command, folder)
        self._clock = 1_000_000_000
        self._mutex = threading.Lock()
        self._passed_over = 0

    def __enter__(self) -> Self:
        self._program.start()
        try:
            eventually(self._answers, what="nginx", pause=0.01)
        except BaseException:
            self._program.kill()
            raise
        return self

    def _answers(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self._port)) == 0

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._program.kill()

    def put(self, files: Mapping[str, bytes]) -> None:
        """Add files, or replace them. Each has a time of its own, and so another ETag."""
        for path, data in files.items():
            place = self.files / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
            with self._mutex:
                self._clock += 1
                os.utime(place, (self._clock, self._clock))

    def sum_up(self, folder: str, name: str = "SHA256SUMS", *flags: str) -> None:
        """Have coreutils write a checksum list, as the docs say it is done."""
        command = (
            f"find . -type f ! -name {name} -printf '%P\\0' | LC_ALL=C sort -z"
            f" | xargs -0 sha256sum {' '.join(flags)} > {name}"
        )
        subprocess.run(["bash", "-ec", command], cwd=self.files / folder, check=True)

    def locate(self, path: str) -> str:
        """The URL of a file."""
        return f"{self.url}/{quote(path)}"

    @property
    def requests(self) -> list[Asked]:
        """What was asked since `forget` was last called."""
        # A request is logged when all of its answer was sent, perhaps after the client has read it,
        # but before nginx, which has one thread here, turns to the next.
        get(f"{self.plain}/logged")
        log = self._folder / "access.log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [_asked(line) for line in lines[self._passed_over :]]

    def forget(self) -> None:
        """Begin `requests` anew."""
        self._passed_over += len(self.requests)


@pytest.fixture(scope="session")
def web_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    if nginx() is None:
        pytest.skip(WHY_NONE)
    with WebServer(tmp_path_factory.mktemp("nginx")) as server:
        yield server


@pytest.fixture
def web(web_server: WebServer, monkeypatch: pytest.MonkeyPatch) -> WebServer:
    """A web server whose authority is trusted."""
    web_server.forget()
    monkeypatch.setenv("SSL_CERT_FILE", str(web_server.authority))
    return web_server


def _asked(line: str) -> Asked:
    port, method, target, status, rest = line.split(" ", 4)
    authorization, range_, encoding = (
        "" if part == "-" else part for part in rest[1:-1].split("] [")
    )
    return Asked(int(port), method, target, int(status), authorization, range_, encoding)
