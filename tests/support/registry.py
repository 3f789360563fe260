"""A registry for tests: Debian's docker-registry on loopback, and a server of tokens for it."""

from __future__ import annotations

import base64
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import pytest
import urllib3
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tests.support.cluster.processes import Program, free_port
from tests.support.cluster.waiting import eventually

USER = "puller"
PASSWORD = "test-password"
_BCRYPT = "$2b$04$GunNMzV5rVNPeEVeZuZWWO.jcrGEbOKPDZHiypn7jjmHzoCI6Y.r6"
"""Of the password, with the least cost there is."""

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
TITLE = "org.opencontainers.image.title"

Descriptor = dict[str, Any]


class Registry:
    """docker-registry as a process of its own, which ends with the block."""

    def __init__(self, *, basic: bool = False, tokens: TokenServer | None = None) -> None:
        """`basic`: it wants USER and PASSWORD; `tokens`: it wants a token of that server."""
        if not shutil.which("docker-registry"):
            pytest.skip("docker-registry is missing: apt-get install docker-registry")
        self._folder = Path(tempfile.mkdtemp(prefix="registry-"))
        self.storage = self._folder / "storage"
        self.host = f"127.0.0.1:{free_port()}"
        config: dict[str, Any] = {
            "version": 0.1,
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {
                "filesystem": {"rootdirectory": str(self.storage)},
                "delete": {"enabled": True},
                "cache": {"blobdescriptor": "inmemory"},
            },
            "http": {"addr": self.host},
        }
        self._headers: dict[str, str] = {}
        if basic:
            (self._folder / "htpasswd").write_text(f"{USER}:{_BCRYPT}\n")
            path = str(self._folder / "htpasswd")
            config["auth"] = {"htpasswd": {"realm": "tests", "path": path}}
            self._headers["Authorization"] = _basic(USER, PASSWORD)
        if tokens is not None:
            (self._folder / "bundle.pem").write_bytes(tokens.certificate_pem)
            config["auth"] = {
                "token": {
                    "realm": f"{tokens.url}/token",
                    "service": "tests",
                    "issuer": "tests",
                    "rootcertbundle": str(self._folder / "bundle.pem"),
                }
            }
        self._tokens = tokens
        (self._folder / "config.yml").write_text(yaml.safe_dump(config))
        command = ["docker-registry", "serve", str(self._folder / "config.yml")]
        self._program = Program("registry", command, self._folder)
        self._http = urllib3.PoolManager(retries=False, maxsize=8)

    def __enter__(self) -> Self:
        self._program.start()
        eventually(self._answers, timeout=20, what="the registry", pause=0.02)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._program.kill()
        shutil.rmtree(self._folder)

    def _answers(self) -> bool:
        assert self._program.running, self._program.log.read_text()
        try:
            return self._http.request("GET", f"http://{self.host}/v2/").status in (200, 401)
        except urllib3.exceptions.HTTPError:
            return False

    def uri(self, repository: str, reference: str = "") -> str:
        """As a CachedModel has it; `reference` with its `:` or `@`."""
        return f"oci://{self.host}/{repository}{reference}"

    # Pushing, as https://github.com/opencontainers/distribution-spec says

    def ask(
        self, method: str, path: str, body: bytes = b"", **headers: str
    ) -> urllib3.BaseHTTPResponse:
        """One request; fails unless it is answered 2xx."""
        if self._tokens is not None:
            repository = path.removeprefix("/v2/").partition("/blobs/")[0].partition("/manif")[0]
            self._headers["Authorization"] = f"Bearer {self._tokens.token(repository, 'pull,push')}"
        url = path if path.startswith("http") else f"http://{self.host}{path}"
        answer = self._http.request(method, url, body=body, headers={**self._headers, **headers})
        assert 200 <= answer.status < 300, (method, path, answer.status, answer.data[:300])
        return answer

    def push_blob(self, repository: str, content: bytes, media_type: str = "") -> Descriptor:
        """Its descriptor."""
        digest = f"sha256:{sha256(content).hexdigest()}"
        begun = self.ask("POST", f"/v2/{repository}/blobs/uploads/")
        place = begun.headers["Location"]
        path = place.removeprefix(f"http://{self.host}")
        separator = "&" if "?" in path else "?"
        header = {"Content-Type": "application/octet-stream"}
        self.ask("PUT", f"{path}{separator}digest={digest}", content, **header)
        return {"mediaType": media_type, "digest": digest, "size": len(content)}

    def _plant_blob(self, repository: str, content: bytes, media_type: str) -> Descriptor:
        """A blob put where the registry keeps it: a thousand pushed ones would take ten seconds."""
        digest = sha256(content).hexdigest()
        top = self.storage / "docker" / "registry" / "v2"
        data = top / "blobs" / "sha256" / digest[:2] / digest / "data"
        link = top / "repositories" / repository / "_layers" / "sha256" / digest / "link"
        for path, text in ((data, content), (link, f"sha256:{digest}".encode())):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    def push_manifest(self, repository: str, reference: str, document: Mapping[str, Any]) -> str:
        """Its digest."""
        body = json.dumps(document).encode()
        header = {"Content-Type": document["mediaType"]}
        self.ask("PUT", f"/v2/{repository}/manifests/{reference}", body, **header)
        return f"sha256:{sha256(body).hexdigest()}"

    def push_image(
        self,
        repository: str,
        *layers: tuple[bytes, str],
        tag: str = "latest",
        architecture: str = "amd64",
        media_type: str = OCI_MANIFEST,
        config_type: str = OCI_CONFIG,
    ) -> str:
        """An image of layers, each with its media type. Returns its digest."""
        config = json.dumps({"architecture": architecture, "os": "linux"}).encode()
        document = {
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": self.push_blob(repository, config, config_type),
            "layers": [self.push_blob(repository, *layer) for layer in layers],
        }
        return self.push_manifest(repository, tag, document)

    def push_artifact(
        self,
        repository: str,
        *layers: tuple[bytes, str, Mapping[str, str]],
        tag: str = "latest",
        artifact_type: str = "application/vnd.tests",
    ) -> str:
        """An artifact of layers, each with media type and annotations. Returns its digest."""

        push = self.push_blob if len(layers) < 100 else self._plant_blob
        descriptors = [
            {**push(repository, content, media_type), "annotations": dict(annotations)}
            for content, media_type, annotations in layers
        ]
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": artifact_type,
            "config": self.push_blob(repository, b"{}", OCI_EMPTY),
            "layers": descriptors,
        }
        return self.push_manifest(repository, tag, document)

    def push_index(self, repository: str, manifests: list[Descriptor], tag: str = "latest") -> str:
        """An index. Returns its digest."""
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}
        return self.push_manifest(repository, tag, document)

    def descriptor(self, repository: str, reference: str, **more: Any) -> Descriptor:
        """That of a manifest that was pushed."""
        accept = f"{OCI_MANIFEST}, {OCI_INDEX}"
        answer = self.ask("GET", f"/v2/{repository}/manifests/{reference}", Accept=accept)
        digest = f"sha256:{sha256(answer.data).hexdigest()}"
        return {
            "mediaType": answer.headers["Content-Type"],
            "digest": digest,
            "size": len(answer.data),
            **more,
        }


class TokenServer:
    """Gives out tokens that last as long as is said, to who knows the password.

    `asked` has the query of each request, and who asked.
    """

    def __init__(self, *, seconds: int = 300, public: bool = False) -> None:
        self.seconds = seconds
        self.public = public
        self.asked: list[tuple[dict[str, list[str]], str | None]] = []
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tests")])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._key.public_key())
            .serial_number(1)
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .sign(self._key, hashes.SHA256())
        )
        self.certificate_pem = certificate.public_bytes(serialization.Encoding.PEM)
        self._der = certificate.public_bytes(serialization.Encoding.DER)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

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

    def token(self, repository: str, actions: str) -> str:
        """A JSON web token as docker-registry wants it."""
        now = int(time.time())
        header = {"typ": "JWT", "alg": "ES256", "x5c": [base64.b64encode(self._der).decode()]}
        access = [{"type": "repository", "name": repository, "actions": actions.split(",")}]
        claims: dict[str, object] = {
            "iss": "tests",
            "sub": USER,
            "aud": "tests",
            "access": access,
            "jti": str(now),
        }
        claims |= {"nbf": now - 10, "iat": now, "exp": now + self.seconds}
        signed = b".".join(_plain64(json.dumps(part).encode()) for part in (header, claims))
        r, s = decode_dss_signature(self._key.sign(signed, ec.ECDSA(hashes.SHA256())))
        signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
        return (signed + b"." + _plain64(signature)).decode()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                query = parse_qs(urlsplit(self.path).query)
                who = self.headers.get("Authorization")
                server.asked.append((query, who))
                if who != _basic(USER, PASSWORD) and not (server.public and who is None):
                    self._answer(401, {"errors": [{"code": "UNAUTHORIZED"}]})
                    return
                _, repository, actions = query["scope"][0].split(":")
                token = server.token(repository, actions)
                self._answer(200, {"token": token, "expires_in": server.seconds})

            def _answer(self, status: int, document: object) -> None:
                body = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Say nothing."""

        return Handler


def docker_config(*hosts: str, user: str = USER, password: str = PASSWORD) -> str:
    """A config.json with one login for all hosts."""
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    return json.dumps({"auths": {host: {"auth": auth} for host in hosts}})


def _basic(user: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


def _plain64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


@dataclass(frozen=True)
class Reply:
    """What the stub says to a request."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class RegistryStub:
    """A server for the answers that a registry never gives, by the beginning of the path, or of
    the method and the path.

    `requests` are the paths it was asked for; `authorizations` what came with them.
    """

    def __init__(self, replies: Mapping[str, Reply]) -> None:
        self.replies = dict(replies)
        self.requests: list[str] = []
        self.authorizations: list[str | None] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self.host = f"127.0.0.1:{self._server.server_address[1]}"

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

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer()

            def do_HEAD(self) -> None:
                self._answer()

            def do_DELETE(self) -> None:
                self._answer()

            def do_PUT(self) -> None:
                self.do_POST()

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self._answer()

            def _answer(self) -> None:
                stub.requests.append(self.path)
                stub.authorizations.append(self.headers.get("Authorization"))
                asked = f"{self.command} {self.path}"
                reply = next(
                    (
                        r
                        for path, r in stub.replies.items()
                        if self.path.startswith(path) or asked.startswith(path)
                    ),
                    Reply(404),
                )
                self.send_response(reply.status)
                for name, value in {
                    "Content-Length": str(len(reply.body)),
                    **reply.headers,
                }.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(reply.body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Say nothing."""

        return Handler
