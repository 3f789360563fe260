"""Logins for registries, as docker writes them: `~/.docker/config.json`, or an imagePullSecret.

Both have `auths`, by registry. Credential helpers (`credHelpers`, `credsStore`) are programs that
docker would run; they are not run here. A registry may be a pattern, as for kubelet:
`*.dkr.ecr.*.amazonaws.com`, in which each `*` stands for what is within one label.
https://kubernetes.io/docs/concepts/containers/images/#config-json
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from modelcache.errors import AuthFailed

DOCKER_HUB: Final = "docker.io"
DOCKER_HUB_HOSTS: Final = ("docker.io", "index.docker.io", "registry-1.docker.io", "auth.docker.io")
"""Docker Hub's name, its name in docker's files, its registry, and its token server."""

_MAX_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Login:
    """What a registry, or its token server, is to be given.

    `refresh` is an OAuth2 refresh token (`identitytoken`), used instead of the password.
    """

    username: str = ""
    password: str = field(default="", repr=False)
    refresh: str = field(default="", repr=False)


class DockerConfig:
    """The logins of one config.json. Nothing of it is ever printed."""

    def __init__(self, text: str, where: str) -> None:
        """Read it.

        Raises:
            AuthFailed: it is not such a file.
        """
        try:
            auths = json.loads(text).get("auths", {})
        except (ValueError, AttributeError, RecursionError):
            # Not chained: the exception holds the text.
            raise AuthFailed(f"{where} is not JSON as docker writes it") from None
        if not isinstance(auths, Mapping):
            raise AuthFailed(f"{where} has no mapping 'auths'")
        self._where = where
        self._auths = {_place(key): entry for key, entry in auths.items()}

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts, or patterns of hosts, that its logins are for."""
        found = dict.fromkeys(place.partition("/")[0] for place in self._auths)
        hub = DOCKER_HUB_HOSTS if DOCKER_HUB in found else ()
        return tuple(dict.fromkeys((*found, *hub)))

    def login(self, registry: str, repository: str) -> Login | None:
        """The login for a repository: that of the longest path that it lies below.

        One of a pattern counts only where no registry is named as it is.

        Raises:
            AuthFailed: the entry can't be read.
        """
        wanted, _, repository = _place(f"{registry}/{repository}").partition("/")
        found = []
        for place in self._auths:
            host, _, path = place.partition("/")
            if covers(host, wanted) and f"{repository}/".startswith(f"{path}/" if path else ""):
                found.append((host == wanted, len(path), len(re.sub(r"[*?]", "", host)), place))
        return self._read(self._auths[max(found)[-1]], max(found)[-1]) if found else None

    def _read(self, entry: object, place: str) -> Login | None:
        if not isinstance(entry, Mapping):
            raise AuthFailed(f"{self._where}: its entry for {place} is no mapping")
        given = {key: value for key, value in entry.items() if isinstance(value, str) and value}
        username, password = given.get("username", ""), given.get("password", "")
        if "auth" in given:
            try:
                both = base64.b64decode(given["auth"], validate=True).decode()
            except (binascii.Error, UnicodeDecodeError):
                raise AuthFailed(
                    f"{self._where}: its 'auth' for {place} is not user:password in base64"
                ) from None
            username, _, password = both.rstrip("\0").partition(":")
        refresh = given.get("identitytoken", "")
        # An entry without anything is what docker writes where a credential helper has the login.
        return Login(username, password, refresh) if (username and password) or refresh else None


def covers(pattern: str, host: str) -> bool:
    """Whether a host, perhaps with a port, is the one that a key names, or one of its pattern."""
    parts, labels = pattern.split("."), host.split(".")
    if pattern == host or not re.search(r"[*?]", pattern):
        return pattern == host
    return len(parts) == len(labels) and all(map(fnmatchcase, labels, parts))


def default_config() -> DockerConfig | None:
    """The file of `docker login`: $DOCKER_CONFIG/config.json, or ~/.docker/config.json.

    Raises:
        AuthFailed: it is there and can't be read.
    """
    folder = os.environ.get("DOCKER_CONFIG")
    try:
        path = Path(folder) if folder else Path.home() / ".docker"
        with (path / "config.json").open("rb") as file:
            content = file.read(_MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError, RuntimeError):
        return None  # RuntimeError: nobody's home
    except OSError as error:
        raise AuthFailed(
            f"{error.filename} can't be read ({error.strerror}): make it readable, or set"
            " DOCKER_CONFIG"
        ) from error
    return DockerConfig(content.decode("utf-8", "replace"), str(path / "config.json"))


def _place(key: str) -> str:
    """`registry[:port][/path]` of a key, which may be a URL: https://index.docker.io/v1/."""
    place = key.strip().partition("://")[2] or key.strip()
    place = place.rstrip("/")
    for version in ("/v1", "/v2"):
        place = place.removesuffix(version)
    host, slash, path = place.partition("/")
    host = host.lower()
    return f"{DOCKER_HUB if host in DOCKER_HUB_HOSTS else host}{slash}{path}"
