"""S3 for tests: moto's server over HTTP, and a stub for the answers that moto never gives."""

from __future__ import annotations

import logging
import threading
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import TYPE_CHECKING, Self

from boto3.session import Session
from botocore.config import Config
from moto.server import ThreadedMotoServer

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

ACCESS_KEY = "AKIATESTTESTTESTTEST"
SECRET_KEY = "no-secret-but-a-test"
REGION = "us-east-1"


class S3Server:
    """moto's server on a port that the kernel chooses.

    moto's state is one per process and outlives the server. It believes every signature, and its
    only errors are for what is not there.
    """

    def __init__(self) -> None:
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self.endpoint = ""

    def __enter__(self) -> Self:
        # One line per request on stderr otherwise.
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.endpoint = f"http://{host}:{port}"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.stop()

    def reset(self) -> None:
        """Forget all buckets, of all servers in this process."""
        request = urllib.request.Request(f"{self.endpoint}/moto-api/reset", method="POST")
        with urllib.request.urlopen(request, timeout=20):
            pass

    def client(self) -> S3Client:
        """A client that may do anything and depends on nothing in the environment."""
        session = Session(ACCESS_KEY, SECRET_KEY, region_name=REGION)
        config = Config(
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            retries={"mode": "standard", "total_max_attempts": 1},
        )
        client: S3Client = session.client("s3", endpoint_url=self.endpoint, config=config)
        return client


@dataclass(frozen=True)
class Answer:
    """What the stub says to a request; `code` makes a body as S3's errors have it."""

    status: int = 200
    code: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


class S3Stub:
    """A server that gives one answer per method, whatever is asked for.

    `requests` are those it has seen; `authorized` counts the ones with credentials.
    """

    def __init__(self, **answers: Answer) -> None:
        """Take the answers, such as ``HEAD=Answer(403)``."""
        self.requests: list[str] = []
        self.authorized = 0
        self._answers = answers
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, method: str, path: str, headers: Mapping[str, str]) -> Answer:
        """What is said to a request."""
        return self._answers[method]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer()

            def do_PUT(self) -> None:
                # A client that expects it waits for a second otherwise.
                if self.headers.get("Expect") == "100-continue":
                    self.send_response_only(100)
                    self.end_headers()
                self.rfile.read(int(self.headers["Content-Length"]))
                self._answer()

            def do_DELETE(self) -> None:
                self._answer()

            def do_HEAD(self) -> None:
                self._answer()

            def _answer(self) -> None:
                stub.requests.append(f"{self.command} {self.path}")
                stub.authorized += "Authorization" in self.headers
                answer = stub.answer(self.command, self.path, dict(self.headers.items()))
                body = answer.body or _error_body(answer.code)
                self.send_response(answer.status)
                headers = {"Content-Length": str(len(body)), **answer.headers}
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Say nothing."""

        return Handler


def _error_body(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode() if code else b""
