"""Google Cloud Storage for tests: gcp-storage-emulator, with what it leaves out of the real one.

The emulator stores, lists and serves. Added here, as the documentation of the JSON API has it:
pages, generations (an object asked for at a generation that is gone is not found, and one that is
to be new is not put in the place of another), decompressive transcoding, tokens and who pays;
beside it the two places where Google's libraries get tokens, and faults. Google's own client works
against it in `test_gcs.py`: that keeps it honest.
"""

from __future__ import annotations

import gzip
import json
import logging
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from http.server import ThreadingHTTPServer
from io import BytesIO
from types import TracebackType
from typing import Any, Self
from unittest import mock
from urllib.parse import parse_qs, unquote, urlsplit

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers.buckets import create_bucket
from gcp_storage_emulator.handlers.objects import _checksums, _make_object_resource
from gcp_storage_emulator.server import RequestHandler
from gcp_storage_emulator.storage import Storage
from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Client

ACCOUNT = "agent@project.iam.gserviceaccount.com"
PAGE = 1000
"""Objects in a page, at most."""


@dataclass(frozen=True)
class Asked:
    """A request that came."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Fault:
    """An answer in place of the right one, to the next `times` requests whose path has `where`."""

    status: int
    where: str = "/b/"
    message: str = "no"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    times: int = 1_000_000


class GcsServer:
    """The emulator on a port that the kernel chooses. Public, until `private` is set.

    Attributes:
        url: to be named in STORAGE_EMULATOR_HOST or API_ENDPOINT_OVERRIDE.
        private: whether a token is wanted.
        payer: the project that has to be named as userProject, if any.
        requests: those that came, but the ones that change something.
        uploads: those that begin an upload.
        tokens: those that were given out; only the last one is believed.
    """

    def __init__(self) -> None:
        self.private = False
        self.payer: str | None = None
        self.requests: list[Asked] = []
        self.uploads: list[Asked] = []
        self.writing = threading.Lock()
        self.tokens: list[str] = []
        self.faults: list[Fault] = []
        self.storage = Storage(use_memory_fs=True)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self.netloc = f"127.0.0.1:{self._server.server_address[1]}"
        self.url = f"http://{self.netloc}"

    def __enter__(self) -> Self:
        for name in ("api.object", "gcp_storage_emulator.server"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
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

    def reset(self) -> None:
        """As new: public, empty, without faults, and nobody asked yet."""
        self.private, self.payer = False, None
        self.storage = Storage(use_memory_fs=True)
        self.requests.clear()
        self.uploads.clear()
        self.tokens.clear()
        self.faults.clear()

    def bucket(self, name: str) -> str:
        """Make a bucket."""
        create_bucket(name, self.storage)
        return name

    def client(self) -> Client:
        """Google's own client, without credentials."""
        nobody = AnonymousCredentials()  # type: ignore[no-untyped-call]
        return Client(project="p", credentials=nobody, client_options={"api_endpoint": self.url})

    def put(self, bucket: str, name: str, data: bytes, **metadata: str) -> int:
        """Store an object by Google's own client; its generation."""
        blob = self.client().bucket(bucket).blob(name)
        for key, value in metadata.items():
            setattr(blob, key, value)
        blob.upload_from_string(data, content_type="application/octet-stream")
        return int(blob.generation)

    def put_many(self, bucket: str, objects: Mapping[str, bytes]) -> None:
        """Store many objects at once: a thousand uploads would take ten seconds."""
        with mock.patch.object(Storage, "_write_config_to_file"):
            for name, data in objects.items():
                found = _make_object_resource(self.url, bucket, name, "text/plain", str(len(data)))
                self.storage.create_file(bucket, name, data, _checksums(data, found))

    def delete(self, bucket: str, name: str) -> None:
        """Remove an object."""
        self.storage.delete_file(bucket, name)

    def key(self) -> dict[str, str]:
        """A service account's key in JSON, with this server as the place where tokens are had."""
        return {
            "type": "service_account",
            "project_id": "project",
            "private_key_id": "planted_key_id",
            "private_key": _PRIVATE_KEY,
            "client_email": ACCOUNT,
            "client_id": "1",
            "token_uri": f"{self.url}/token",
        }

    def asked_for(self, where: str) -> list[Asked]:
        """The requests whose path has this in it."""
        return [request for request in self.requests if where in request.path]

    def new_token(self) -> str:
        """Give out a token; those before it are refused from now on."""
        self.tokens.append(f"ya29.planted-{len(self.tokens) + 1}")
        return self.tokens[-1]


class _Handler(RequestHandler):  # type: ignore[misc]
    protocol_version = "HTTP/1.1"
    rfile: Any

    def __init__(self, gcs: GcsServer, *given: Any) -> None:
        self._gcs = gcs
        super().__init__(gcs.storage, *given)

    def do_GET(self) -> None:  # noqa: N802
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.path.startswith("/computeMetadata") or parts.path == "/":
            self._metadata(parts.path)
            return
        self._gcs.requests.append(Asked("GET", parts.path, query, dict(self.headers.items())))
        if self._faulty(parts.path) or self._refused(query):
            return
        _, _, found = parts.path.partition("/b/")
        bucket, _, rest = found.partition("/")
        name = unquote(rest.removeprefix("o/"))
        if rest == "o":
            self._list(bucket, query)
            return
        if "generation" in query and query["generation"] != self._generation(bucket, name):
            self._error(404, f"No such object: {bucket}/{name}")
            return
        if "alt" in query and self._transcoded(bucket, name):
            return
        try:
            super().do_GET()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def do_POST(self) -> None:  # noqa: N802
        if self.path == "/token":
            self.rfile.read(int(self.headers["Content-Length"]))
            if not self._faulty("/token"):
                self._json(200, self._token())
            return
        if self.path == "/refused/token":
            self.rfile.read(int(self.headers["Content-Length"]))
            self._error(401, "invalid_grant")
            return
        parts = urlsplit(self.path)
        if "/upload/" not in parts.path:
            super().do_POST()
            return
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        uploads = Asked("POST", parts.path, query, dict(self.headers.items()))
        self._gcs.uploads.append(uploads)
        if any("upload" in fault.where for fault in self._gcs.faults) and self._faulty(parts.path):
            return
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.rfile = BytesIO(body)
        with self._gcs.writing:
            if query.get("ifGenerationMatch") == "0":
                name = re.search(rb'"name": ?"([^"]*)"', body)
                bucket = parts.path.partition("/b/")[2].partition("/")[0]
                assert name is not None
                if self._generation(bucket, name[1].decode()) is not None:
                    self._error(412, "At least one of the pre-conditions did not hold.")
                    return
            super().do_POST()

    def _token(self) -> dict[str, Any]:
        return {
            "access_token": self._gcs.new_token(),
            "expires_in": 3600,
            "token_type": "Bearer",
        }

    def _metadata(self, path: str) -> None:
        """The node's metadata server, as the GKE one answers under Workload Identity."""
        answer: Any = {"email": ACCOUNT, "scopes": ["x"], "aliases": ["default"]}
        if path.endswith("/token"):
            answer = self._token()
        elif path.endswith("/universe-domain"):
            answer = "googleapis.com"
        elif "/service-accounts" not in path:
            answer = "project"
        body = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        kind = "application/text" if isinstance(answer, str) else "application/json"
        self._send(200, body, {"Metadata-Flavor": "Google", "Content-Type": kind})

    def _faulty(self, path: str) -> bool:
        for number, fault in enumerate(self._gcs.faults):
            if fault.where in path:
                self._gcs.faults[number : number + 1] = (
                    [] if fault.times == 1 else [_once_less(fault)]
                )
                if fault.body is not None:
                    self._send(fault.status, fault.body, fault.headers)
                else:
                    self._error(fault.status, fault.message, fault.headers)
                return True
        return False

    def _refused(self, query: Mapping[str, str]) -> bool:
        gcs = self._gcs
        if gcs.private:
            given = self.headers.get("Authorization", "")
            if not given:
                self._error(401, "Anonymous caller does not have storage.objects.list access.")
                return True
            if not gcs.tokens or given != f"Bearer {gcs.tokens[-1]}":
                self._error(401, "Invalid Credentials")
                return True
        payer = query.get("userProject") or self.headers.get("x-goog-user-project")
        if gcs.payer and payer != gcs.payer:
            self._error(400, "Bucket is a requester pays bucket but no user project provided.")
            return True
        return False

    def _list(self, bucket: str, query: Mapping[str, str]) -> None:
        try:
            items, _ = self._gcs.storage.get_file_list(bucket, query.get("prefix"), None)
        except NotFound:
            self._error(404, "The specified bucket does not exist.")
            return
        items = sorted(items, key=lambda item: item["name"].encode())
        start = int(query.get("pageToken", "0"))
        size = min(PAGE, int(query.get("maxResults", PAGE)))
        page: dict[str, Any] = {"kind": "storage#objects", "items": items[start : start + size]}
        if start + size < len(items):
            page["nextPageToken"] = str(start + size)
        self._json(200, page)

    def _generation(self, bucket: str, name: str) -> str | None:
        try:
            return str(self._gcs.storage.get_file_obj(bucket, name)["generation"])
        except NotFound:
            return None

    def _transcoded(self, bucket: str, name: str) -> bool:
        """https://cloud.google.com/storage/docs/transcoding#decompressive_transcoding"""
        try:
            found = self._gcs.storage.get_file_obj(bucket, name)
        except NotFound:
            return False
        if found.get("contentEncoding") != "gzip":
            return False
        data = self._gcs.storage.get_file(bucket, name)
        headers = {"Content-Type": "application/octet-stream"}
        if "gzip" in self.headers.get("Accept-Encoding", ""):
            self._send(200, data, {**headers, "Content-Encoding": "gzip"})
        else:
            self._send(200, gzip.decompress(data), headers)
        return True

    def _error(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        self._json(status, {"error": {"code": status, "message": message}}, headers)

    def _json(self, status: int, answer: Any, headers: Mapping[str, str] | None = None) -> None:
        all_headers = {"Content-Type": "application/json", **(headers or {})}
        self._send(status, json.dumps(answer).encode(), all_headers)

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _once_less(fault: Fault) -> Fault:
    return Fault(
        fault.status, fault.where, fault.message, fault.headers, fault.body, fault.times - 1
    )


_PRIVATE_KEY = (
    rsa.generate_private_key(public_exponent=65537, key_size=2048)
    .private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    .decode()
)
