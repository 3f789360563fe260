"""A registry over HTTP: manifests, and who is asking.

https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md, and for tokens
https://distribution.github.io/distribution/spec/auth/token/. Written here, since the libraries for
registries (oras 0.2) verify nothing of what they hand out.

Without TLS only this machine itself is spoken to.
"""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import SplitResult, urlencode, urlsplit

from modelcache.api.uri import is_loopback
from modelcache.errors import (
    AuthFailed,
    ChecksumMismatch,
    ModelCacheError,
    NotFound,
    OriginUnavailable,
    RateLimited,
)
from modelcache.origins.asking import Answer, Asker
from modelcache.origins.dockerconfig import DOCKER_HUB, Login
from modelcache.origins.names import shown
from modelcache.origins.network import Network
from modelcache.origins.ocimanifests import DIGEST_PATTERN, INDEX_TYPES, MANIFEST_TYPES
from modelcache.origins.reach import ANYWHERE, Reach
from modelcache.origins.redirecting import REDIRECTS, Hop, redirected, same_origin
from modelcache.origins.waiting import retry_after_seconds

MAX_MANIFEST_BYTES: Final = 4 * 1024 * 1024
"""What a registry has to take at least, and so what nobody exceeds (the specification)."""

_MAX_TOKEN_BYTES = 1024 * 1024
_TOKEN_SECONDS = 60
"""How long a token is good for where the server says nothing (the specification)."""
_CHALLENGE = re.compile(
    r"(?:^|,)\s*(Basic|Bearer)\s+(.*?)(?=,\s*(?:Basic|Bearer)\s|$)", re.IGNORECASE | re.DOTALL
)
_PARAMETER = re.compile(r'([A-Za-z_]+)\s*=\s*(?:"([^"]*)"|([^\s,"]+))')
_TOKEN = re.compile(r"[\x21-\x7e]+")
_CODE = re.compile(r"[A-Z_]{1,40}")


class Logins(Protocol):
    """Who has the credentials."""

    def login(self) -> Login | None:
        """The login for the registry; None for nobody."""
        ...

    def require(self, url: str) -> None:
        """Check that it may be sent to the URL's host. Raises AuthFailed."""
        ...


@dataclass(frozen=True, slots=True)
class _Authorization:
    """A header's value; good until a moment of `time.monotonic`. Empty for nobody.

    `known`: whether a login was given for it, and not a token for anybody.
    """

    value: str = field(repr=False)
    until: float = float("inf")
    known: bool = False

    @property
    def headers(self) -> dict[str, str]:
        """What to send."""
        return {"Authorization": self.value} if self.value else {}


class RegistryClient:
    """One repository of one registry. Safe for threads."""

    def __init__(
        self,
        registry: str,
        repository: str,
        logins: Logins,
        network: Network,
        *,
        actions: str = "pull",
    ) -> None:
        """Make no request yet. `actions`: what tokens are to be good for: `pull`, `pull,push`."""
        host = "registry-1.docker.io" if registry == DOCKER_HUB else registry
        parts = urlsplit(f"//{host}")
        self._loopback = is_loopback(parts.hostname or "")
        self.base = f"{'http' if self._loopback else 'https'}://{host}"
        self._name = f"{registry}/{repository}"
        official = registry == DOCKER_HUB and "/" not in repository
        self._repository = f"library/{repository}" if official else repository
        self._logins = logins
        self._actions = actions
        self._asking = threading.Lock()
        self._known: _Authorization | None = None
        self._challenge: Answer | None = None
        """The last 401: what it asks for is what renews a token."""
        # Few questions, and nobody says when the last was asked.
        self._asker = Asker(network, keep_alive=False)

    @property
    def name(self) -> str:
        """The repository, as messages name it."""
        return self._name

    def url(self, path: str) -> str:
        """The URL of a path of the repository: `tags/list`, `blobs/uploads/`."""
        return f"{self.base}/v2/{self._repository}/{path}"

    def blob_url(self, digest: str) -> str:
        """Where a blob is."""
        assert re.fullmatch(DIGEST_PATTERN, digest)
        return self.url(f"blobs/{digest}")

    def manifest(self, reference: str | None) -> tuple[bytes, str, str]:
        """A manifest by tag or by digest; by `latest` where there is neither.

        Returns:
            Its bytes, their digest (`sha256:...`), and their type as the answer has it.

        Raises:
            ChecksumMismatch: it is not the one that was asked for, or promised.
            AuthFailed, NotFound, RateLimited, OriginUnavailable
        """
        accept = {"Accept": ", ".join((*MANIFEST_TYPES, *INDEX_TYPES))}
        asked = reference or "latest"
        name = f"{self._name}{'@' if ':' in asked else ':'}{asked}"
        answer = self.request("GET", self.url(f"manifests/{asked}"), accept)
        if answer.status in (404, 410):
            hint = "" if reference else "; without a tag it is latest"
            raise NotFound(
                f"{name}: the registry has no such image, tag or digest{_code(answer)}{hint}"
            )
        if answer.status != 200:
            raise self.refusal(answer)
        digest = f"sha256:{sha256(answer.body).hexdigest()}"
        promised = asked if ":" in asked else answer.headers.get("Docker-Content-Digest")
        if promised is not None and promised.startswith("sha256:") and promised != digest:
            raise ChecksumMismatch(
                f"{self._name}: the registry promised the manifest {shown(promised)}, and what"
                f" came has {digest}"
            )
        return answer.body, digest, answer.headers.get("Content-Type", "")

    def headers(self, refused: Mapping[str, str] | None = None) -> dict[str, str]:
        """What has to be sent along to read a blob. Renewed before it expires.

        `refused`: what the registry would not take, although it has not expired.
        """
        with self._asking:
            known = self._known
            if known is not None and refused == known.headers:
                known = None
            if known is None or known.until <= time.monotonic():
                # The one address that every registry has, to hear what it wants. Some want nothing
                # there, and something elsewhere.
                answer = self._challenge or self._ask(f"{self.base}/v2/", {}, _MAX_TOKEN_BYTES)
                if answer.status == 401:
                    known = self._authorize(answer)
                elif answer.status == 200:
                    known = self._known = _Authorization("")
                else:
                    raise self._refused(answer, known=False)
        return known.headers

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        *,
        most: int = MAX_MANIFEST_BYTES,
        body: bytes | Path | None = None,
        patience: float | None = None,
        check: Callable[[], object] | None = None,
        within: Reach = ANYWHERE,
    ) -> Answer:
        """The answer, to whom it wants to be asked by.

        Args:
            method: redirects are followed of GET and HEAD alone.
            url: the registry's, or where it leads; who asks is told to the registry alone.
            headers: beside that.
            most: bytes of the answer.
            body: what is sent, as `Asker.ask` takes it.
            patience: seconds for the next piece of the answer, as `Asker.ask` takes them.
            check: before each piece of a path's content, as `Asker.ask` takes it.
            within: how far inside the host may be, where it is another than the registry's.

        Raises:
            AuthFailed: the login may not be sent there, or a proxy refuses.
            OriginUnavailable
        """
        known, fresh = self._known, False
        private = same_origin(url, self.base)
        while True:
            value = known.value if known and known.until > time.monotonic() else ""
            sent = dict(headers or {})
            if value and private:
                sent["Authorization"] = value
            answer = self._ask(
                url,
                sent,
                most,
                method=method,
                body=body,
                patience=patience,
                check=check,
                within=within,
            )
            if not private:
                return answer
            if answer.status != 401 or fresh:
                return answer
            known, fresh = self._authorize(answer), True

    # Who is asking

    def _authorize(self, answer: Answer) -> _Authorization:
        """Do what a 401 asks for."""
        challenges = {
            found[1].lower(): {
                key.lower(): quoted or plain for key, quoted, plain in _PARAMETER.findall(found[2])
            }
            for found in _CHALLENGE.finditer(answer.headers.get("WWW-Authenticate", ""))
        }
        login = self._logins.login()
        if "bearer" in challenges:
            known = self._token(challenges["bearer"], login, answer.reach)
        elif login is None:
            raise self._refused(answer, known=False)
        elif "basic" in challenges:
            self._logins.require(self.base)
            known = _Authorization(_basic(login), known=True)
        else:
            raise OriginUnavailable(f"{self.base} wants a login and doesn't say which")
        self._known, self._challenge = known, answer
        return known

    def _token(
        self, challenge: Mapping[str, str], login: Login | None, reach: Reach
    ) -> _Authorization:
        """A token from the server that the registry names, for this repository."""
        realm = self._realm(challenge.get("realm", ""))
        # What the registry asks for is for what it was asked; this is what is wanted of it.
        wanted = {"service": challenge.get("service", "")} if challenge.get("service") else {}
        wanted["scope"] = f"repository:{self._repository}:{self._actions}"
        url, headers = realm.geturl(), {}
        if login is not None:
            self._logins.require(url)
        if login is not None and login.refresh:
            form = {
                **wanted,
                "grant_type": "refresh_token",
                "refresh_token": login.refresh,
                "client_id": "model-cache-agent",
            }
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            body = urlencode(form).encode()
            answer = self._ask(
                url, headers, _MAX_TOKEN_BYTES, method="POST", body=body, within=reach
            )
        else:
            if login is not None:
                headers["Authorization"] = _basic(login)
            separator = "&" if realm.query else "?"
            url = f"{url}{separator}{urlencode(wanted)}"
            answer = self._ask(url, headers, _MAX_TOKEN_BYTES, within=reach)
        if answer.status != 200:
            raise self._token_refused(answer, realm, login is not None)
        return self._read_token(answer, realm, login is not None)

    def _realm(self, text: str) -> SplitResult:
        """The URL of the token server."""
        try:
            realm = urlsplit(text)
            host, _ = realm.hostname or "", realm.port
        except ValueError:
            realm, host = urlsplit(""), ""
        secure = realm.scheme == "https" and host
        if not secure and not (self._loopback and realm.scheme == "http" and is_loopback(host)):
            raise AuthFailed(
                f"{self.base} wants a token from {shown(text, 100)}, which is not https: that is"
                " refused"
            )
        return realm

    def _read_token(self, answer: Answer, realm: SplitResult, known: bool) -> _Authorization:
        try:
            given = json.loads(answer.body)
            token = given.get("token") or given.get("access_token")
            seconds = min(max(int(given.get("expires_in") or _TOKEN_SECONDS), 1), 86_400)
        except (ValueError, AttributeError, TypeError, OverflowError, RecursionError):
            token, seconds = None, 0  # not chained: it may hold the token
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise OriginUnavailable(f"{realm.hostname} gives no token that can be read")
        # A range may be asked for some time after its location was.
        return _Authorization(f"Bearer {token}", time.monotonic() + 0.7 * seconds, known)

    # The wire

    def _ask(
        self,
        url: str,
        headers: Mapping[str, str],
        most: int,
        *,
        method: str = "GET",
        body: bytes | Path | None = None,
        patience: float | None = None,
        check: Callable[[], object] | None = None,
        within: Reach = ANYWHERE,
    ) -> Answer:
        sent, hop = dict(headers), Hop(url, within=within)
        while True:
            answer = self._asker.ask(
                method,
                hop.url,
                sent,
                limit=most,
                body=body,
                patience=patience,
                check=check,
                within=hop.within,
            )
            if answer.status not in REDIRECTS or method not in ("GET", "HEAD"):
                return answer
            location = answer.headers.get("Location")
            hop = redirected(hop, location, pinned=False, reach=answer.reach)
            if not hop.private:
                sent.pop("Authorization", None)

    # What refusals mean

    def refusal(self, answer: Answer) -> ModelCacheError:
        """What an answer means that is none of those that were hoped for."""
        known = self._known
        return self._refused(answer, known=known is not None and known.known)

    def _refused(self, answer: Answer, *, known: bool) -> ModelCacheError:
        code, status = _code(answer), answer.status
        wait = retry_after_seconds(answer.headers.get("Retry-After"))
        if status in (401, 403) and not known:
            what = "wants a login" if status == 401 else "refuses access"
            return AuthFailed(
                f"{self._name}: the registry {what}{code}: the repository is private, or there is"
                " none; for a private one set secretName to an imagePullSecret, or DOCKER_CONFIG"
            )
        if status in (401, 403):
            may = self._actions.replace(",", " and ")
            return AuthFailed(
                f"{self._name}: the registry refuses the login{code}: check that it may {may}"
            )
        if status == 429:
            return RateLimited(f"{self.base} asks for fewer requests{code}", retry_after=wait)
        return OriginUnavailable(f"{self.base} answers {status}{code}", retry_after=wait)

    def _token_refused(self, answer: Answer, realm: SplitResult, known: bool) -> ModelCacheError:
        wait = retry_after_seconds(answer.headers.get("Retry-After"))
        if answer.status == 429:
            return RateLimited(f"{realm.hostname} asks for fewer requests", retry_after=wait)
        if 400 <= answer.status < 500:
            return self._refused(Answer(401, answer.headers, answer.body), known=known)
        return OriginUnavailable(f"{realm.hostname} answers {answer.status}", retry_after=wait)


def _basic(login: Login) -> str:
    pair = f"{login.username}:{login.password}".encode()
    return f"Basic {base64.b64encode(pair).decode()}"


def _code(answer: Answer) -> str:
    """The registry's own word for it, such as MANIFEST_UNKNOWN, in brackets.

    Nothing but such a word, as the specification writes them: a text may say back who asked.
    """
    try:
        found = json.loads(answer.body)["errors"][0]["code"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""
    return f" ({found})" if isinstance(found, str) and _CODE.fullmatch(found) else ""
