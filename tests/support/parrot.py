"""A server that says back whatever it was told, in all places that end up in somebody's message."""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import parse_qsl, urlsplit

_MODE = re.compile(r"m(401|403|404|429|500|html|moved|cut|ok)(?=[/-])")
CONTENT = b"the content of a model"


class Parrot:
    """Plays any origin, badly. What a path has in it says how: `m404`, `mmoved`, `mok`.

    Attributes:
        told: of each request its line, its headers and its body, in one text.
        given: tokens and signatures that were made for one request only.
    """

    def __init__(self, host: str = "127.0.0.1", *, leads_to: str = "", token: str = "") -> None:
        """`leads_to`: where redirects go; `token`: what its token server gives."""
        self.told: list[str] = []
        self.given: set[str] = set()
        self.leads_to = leads_to
        self.token = token
        parrot = self

        class Handler(_Handler):
            server_parrot = parrot

        self._server = _Server((host, 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self.netloc = f"{host}:{self._server.server_address[1]}"
        self.url = f"http://{self.netloc}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that hang up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_parrot: Parrot

    def _meet(self) -> None:
        parrot = self.server_parrot
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        headers = "".join(f"{name}: {value}\n" for name, value in self.headers.items())
        parrot.told.append(f"{self.command} {self.path}\n{headers}{body}")
        for pairs in (urlsplit(self.path).query, body):
            for name, value in parse_qsl(pairs):
                if name in ("X-Amz-Signature", "assertion"):
                    parrot.given.add(value)
        path = urlsplit(self.path).path
        found = _MODE.search(path)
        mode = found[1] if found else "ok" if path == "/token" else "404"
        known = self.headers.get("Authorization") is not None
        secrets = " ".join(
            [
                self.headers.get("Authorization", ""),
                self.headers.get("X-Amz-Security-Token", ""),
                urlsplit(self.path).query,
                body,
            ]
        )
        if path.startswith("/v2/") and not known:
            way = "Bearer" if "bearer" in path else "Basic"
            challenge = f'{way} realm="{parrot.url}/token",service="x"'
            self._say(401, {"WWW-Authenticate": challenge}, b"{}")
        elif path.endswith("/token") and mode == "ok":
            given = {"token": parrot.token, "access_token": parrot.token, "expires_in": 300}
            self._say(200, {"Content-Type": "application/json"}, json.dumps(given).encode())
        elif mode == "ok":
            self._say(200, {"ETag": '"one"'}, CONTENT)
        elif mode == "moved":
            self._say(302, {"Location": f"{parrot.leads_to}{path}"}, secrets.encode())
        elif mode == "cut":
            self.close_connection = True
        else:
            self._squawk(200 if mode == "html" else int(mode), secrets)

    do_GET = do_HEAD = do_POST = do_PUT = _meet  # noqa: N815 - the base class's way

    def _squawk(self, status: int, secrets: str) -> None:
        line = " ".join(secrets.split())
        if "bucket" in self.path and "/storage/" not in self.path:
            text = line.replace("&", "&amp;").replace("<", "&lt;")
            code = f"<Code>{'AccessDenied' if status == 403 else text}</Code>"
            content = f"<Error>{code}<Message>{text}</Message></Error>"
        else:
            error = {"code": status, "message": line, "errors": [{"message": line}]}
            content = json.dumps({"error": error, "errors": [{"code": line, "message": line}]})
        headers = {
            "X-Error-Message": line,
            "X-Error-Code": "Odd",
            "WWW-Authenticate": f'Basic realm="{line}"',
            "Content-Type": "application/json",
        }
        self._say(status, headers, content.encode(), reason=line)

    def _say(
        self, status: int, headers: dict[str, str], body: bytes, reason: str | None = None
    ) -> None:
        self.send_response(status, reason)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's
        """Say nothing."""
