"""The two HTTP faces: the Hub with its API and ``/resolve``, and the CDN behind signed URLs."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from socketserver import BaseServer
from typing import Any, ClassVar
from urllib.parse import parse_qsl, quote, unquote

from tests.support.hub import api
from tests.support.hub.api import ApiError
from tests.support.hub.backend import Backend
from tests.support.hub.content import Content, Resized
from tests.support.hub.delivery import BrokenConnectionError, Delivery, reset, stall
from tests.support.hub.faults import (
    Fault,
    IgnoreRange,
    Reset,
    Span,
    Stall,
    Status,
    WrongContentRange,
    WrongLength,
)
from tests.support.hub.ranges import (
    PreconditionFailedError,
    UnsatisfiableRangeError,
    check_if_match,
    requested_span,
)
from tests.support.hub.repository import Commit, Entry, Repository
from tests.support.hub.signing import FORGED_BODY, MISSING_BODY, RefusedUrlError
from tests.support.hub.traffic import Request, ServerName

_REPO = r"(?P<repo>[^/]+(?:/[^/]+)??)"
_INFO = re.compile(rf"/api/models/{_REPO}(?:/revision/(?P<revision>[^/]+))?")
_TREE = re.compile(rf"/api/models/{_REPO}/tree/(?P<revision>[^/]+)(?:/(?P<under>.+))?")
_RESOLVE = re.compile(rf"/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
_RESOLVE_CACHE = re.compile(
    rf"/api/resolve-cache/models/{_REPO}/(?P<revision>[0-9a-f]{{40}})/(?P<path>.+)"
)
_SIGNED = re.compile(rf"/repos/{_REPO}/(?P<sha256>[0-9a-f]{{64}})")
_JSON = "application/json; charset=utf-8"
_TEXT = "text/plain; charset=utf-8"
_XML = "application/xml"
_BINARY = "application/octet-stream"


@dataclass(frozen=True)
class _Served:
    """A file about to be given out."""

    repo: str
    path: str
    content: Content
    etag: str
    headers: Mapping[str, str]


class Handler(BaseHTTPRequestHandler):
    """What both servers do alike: logging, plain answers, and file bodies with their faults."""

    protocol_version = "HTTP/1.1"
    server_name: ClassVar[ServerName]

    def __init__(self, backend: Backend, request: Any, address: Any, server: BaseServer) -> None:
        self.backend = backend
        super().__init__(request, address, server)

    def do_GET(self) -> None:
        self._handle()

    def do_HEAD(self) -> None:
        self._handle()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - named by the base class
        """Say nothing: the log is `RequestLog`."""

    def respond(self, path: str, query: Mapping[str, str]) -> None:
        """Answer the request for this URL path (not unquoted)."""
        raise NotImplementedError

    def _handle(self) -> None:
        self.lowered = {name.lower(): value for name, value in self.headers.items()}
        self.record = Request(
            time=time.time(),
            server=self.server_name,
            method=self.command,
            path=self.path,
            headers=self.lowered,
            range=self.lowered.get("range"),
        )
        self.backend.log.open(self.record)
        path, _, query = self.path.partition("?")
        try:
            if self.backend.online:
                self.respond(path, dict(parse_qsl(query, keep_blank_values=True)))
            else:
                self.answer(503, b"Service Unavailable", _TEXT)
        except ApiError as error:
            body = json.dumps({"error": error.message}).encode()
            self.answer(error.status, body, _JSON, error.headers)
        except BrokenConnectionError:
            self.close_connection = True
        finally:
            self.backend.log.note(self.record, finished=True)

    def answer(
        self, status: int, body: bytes, content_type: str, headers: Mapping[str, str] | None = None
    ) -> None:
        """A small answer that is not a file."""
        self._head(status, len(body), {"Content-Type": content_type, **(headers or {})})
        if self.command != "HEAD":
            self.wfile.write(body)

    def fail(self, status: Status) -> None:
        """The answer that a `Status` fault wants."""
        headers = dict(status.headers)
        if status.retry_after is not None:
            headers["Retry-After"] = str(status.retry_after)
        self.answer(status.code, status.body, _TEXT, headers)

    def serve_file(self, file: _Served) -> None:
        """Answer with a file, or a range of it, or what a fault makes of it."""
        try:
            check_if_match(self.lowered, file.etag)
            if self.command == "HEAD":
                self._head(200, file.content.size, {**file.headers, "ETag": file.etag})
                return
            span = requested_span(self.lowered, file.content.size, file.etag)
            fault = self.backend.faults.for_body(file.repo, file.path, span)
            if isinstance(fault, Status):
                self.fail(fault)
                return
            content, span = self._affected(file, span, fault)
        except PreconditionFailedError:
            self.answer(412, b"Precondition Failed", _TEXT, {"ETag": file.etag})
            return
        except UnsatisfiableRangeError:
            total = {"Content-Range": f"bytes */{file.content.size}"}
            self.answer(416, b"Range Not Satisfiable", _TEXT, total)
            return
        headers = {**file.headers, "ETag": file.etag}
        if span.partial:
            shift = fault.shift if isinstance(fault, WrongContentRange) else 0
            first, last = span.start + shift, span.end - 1 + shift
            headers["Content-Range"] = f"bytes {first}-{last}/{content.size}"
        self._head(206 if span.partial else 200, span.length, headers)
        self._delivery().deliver(content, span, fault)

    def _affected(self, file: _Served, span: Span, fault: Fault | None) -> tuple[Content, Span]:
        if isinstance(fault, IgnoreRange):
            return file.content, Span(0, file.content.size, partial=False)
        if isinstance(fault, WrongLength):
            content = Resized(file.content, max(0, file.content.size + fault.delta))
            return content, requested_span(self.lowered, content.size, file.etag)
        return file.content, span

    def _delivery(self) -> Delivery:
        return Delivery(
            sock=self.connection,
            throttle=self.backend.throttle,
            stop=self.backend.stop,
            sent=lambda count: self.backend.log.note(self.record, sent=count),
        )

    def _head(self, status: int, length: int, headers: Mapping[str, str]) -> None:
        self.backend.log.note(self.record, status=status, length=length)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()


class HubHandler(Handler):
    """The Hub: ``/api/models`` and ``/<repository>/resolve``."""

    server_name = "hub"

    def respond(self, path: str, query: Mapping[str, str]) -> None:
        if match := _RESOLVE_CACHE.fullmatch(path):
            self._resolve(match["repo"], match["revision"], unquote(match["path"]), path, True)
        elif match := _RESOLVE.fullmatch(path):
            revision = unquote(match["revision"])
            self._resolve(match["repo"], revision, unquote(match["path"]), path, False)
        elif self._api_fault(path):
            return
        elif match := _TREE.fullmatch(path):
            repository = self._repository(match["repo"], files=False)
            commit = self.backend.commit(repository, unquote(match["revision"]))
            self._tree(path, commit, unquote(match["under"] or ""), query)
        elif match := _INFO.fullmatch(path):
            repository = self._repository(match["repo"], files=False)
            commit = self.backend.commit(repository, unquote(match["revision"] or "main"))
            blobs = query.get("blobs") == "true"
            self._json(api.model_info(repository, commit, blobs=blobs), {})
        else:
            raise ApiError(404, None, "Sorry, we can't find the page you are looking for.")

    def _tree(self, path: str, commit: Commit, under: str, query: Mapping[str, str]) -> None:
        page, cursor = api.tree_page(commit, under, query, self.backend.page_size)
        link = (
            {}
            if cursor is None
            else {"Link": api.next_link(self.backend.hub_url + path, query, cursor)}
        )
        self._json(page, link)

    def _resolve(self, repo: str, revision: str, path: str, url: str, cached: bool) -> None:
        backend = self.backend
        backend.log.note(self.record, repo=repo, repo_path=path)
        if self.command == "HEAD" and self._api_fault(url):
            return
        repository = self._repository(repo, files=True)
        commit = backend.commit(repository, revision)
        entry = backend.entry(commit, path)
        redirected = entry.lfs or (backend.resolve_cache and not cached)
        if redirected and self.command == "GET" and self._api_fault(url):
            return
        takes_body = self.command == "GET" and not redirected
        content = backend.faults.replacement(repo, path, take=takes_body) or entry.content
        etag = f'"{content.sha256() if entry.lfs else content.git_sha1()}"'
        headers = {
            "X-Repo-Commit": commit.id,
            "Accept-Ranges": "bytes",
            "X-Linked-Size": str(content.size),
            "X-Linked-ETag": etag,
        }
        if entry.lfs:
            self._redirect(302, self._signed(repo, entry), headers)
        elif redirected:
            location = f"/api/resolve-cache/models/{repo}/{commit.id}/{api.quoted_path(path)}"
            query = f"{quote(url, safe='')}=&etag={quote(etag, safe='')}"
            self._redirect(307, f"{location}?{query}", headers)
        else:
            name = quote(path.rpartition("/")[2], safe="")
            headers["Content-Type"] = _TEXT
            headers["Content-Disposition"] = f"inline; filename*=UTF-8''{name}"
            self.serve_file(_Served(repo, path, content, etag, headers))

    def _signed(self, repo: str, entry: Entry) -> str:
        key = f"/repos/{repo}/{entry.content.sha256()}"
        return self.backend.cdn_url + self.backend.signer.sign(key, entry.path)

    def _redirect(self, status: int, location: str, headers: Mapping[str, str]) -> None:
        body = f"Found. Redirecting to {location}".encode()
        self.answer(status, body, _TEXT, {**headers, "Location": location, "Vary": "Accept"})

    def _json(self, document: object, headers: Mapping[str, str]) -> None:
        self.answer(200, json.dumps(document).encode(), _JSON, headers)

    def _repository(self, repo: str, *, files: bool) -> Repository:
        scheme, _, token = self.lowered.get("authorization", "").partition(" ")
        bearer = token.strip() if scheme.lower() == "bearer" else None
        return self.backend.repository(repo, bearer, files=files)

    def _api_fault(self, url_path: str) -> bool:
        """Suffer the fault that is queued for this API request; False when there is none."""
        match self.backend.faults.for_api(url_path):
            case Status() as status:
                self.fail(status)
                return True
            case Reset():
                reset(self.connection, self.backend.stop)
            case Stall(until=until):
                stall(self.connection, self.backend.stop, until)
        return False


class CdnHandler(Handler):
    """The CDN: LFS objects under signed URLs, with ETags that are no digest of the content."""

    server_name = "cdn"

    def respond(self, path: str, query: Mapping[str, str]) -> None:
        match = _SIGNED.fullmatch(path)
        _, _, name = query.get("response-content-disposition", "").partition("UTF-8''")
        try:
            if match is None:
                raise RefusedUrlError(FORGED_BODY)
            repo, repo_path = match["repo"], unquote(name)
            self.backend.log.note(self.record, repo=repo, repo_path=repo_path)
            self.backend.signer.verify(path, query)
        except RefusedUrlError as refused:
            self.answer(403, refused.body, _XML)
            return
        content = self._content(repo, repo_path, match["sha256"])
        if content is None:
            self.answer(404, MISSING_BODY, _XML)
            return
        etag = f'"{hashlib.md5(content.sha256().encode()).hexdigest()}"'
        headers = {
            "Accept-Ranges": "bytes",
            "Content-Type": _BINARY,
            "Content-Disposition": query["response-content-disposition"],
        }
        self.serve_file(_Served(repo, repo_path, content, etag, headers))

    def _content(self, repo: str, path: str, sha256: str) -> Content | None:
        repository = self.backend.repositories.get(repo)
        if repository is None:
            return None
        take = self.command == "GET"
        replaced = self.backend.faults.replacement(repo, path, take=take)
        return replaced or repository.lfs_content(sha256, path)
