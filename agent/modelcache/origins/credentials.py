"""Secrets for origins: read from mounted directories, and sent only where they say themselves.

A secret is a directory with one file per key, as a Kubernetes Secret is mounted:

    token                                       for hf, and for https as a bearer token
    username, password                          for https
    AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
    AWS_SESSION_TOKEN, AWS_REGION               for s3; the last two may be missing
    GOOGLE_APPLICATION_CREDENTIALS_JSON,
    GOOGLE_CLOUD_QUOTA_PROJECT                  for gs; the last may be missing
    .dockerconfigjson, or username, password    for oci
    hosts                                       where it may be sent to

An imagePullSecret says itself which registries its logins are for: there `hosts` may be missing, or
adds to them, as a token server that has another name than its registry.
`hosts` holds host names or `*.suffix` patterns (any host below the suffix, not the suffix itself),
separated by commas or white space. `host:port` means that port only, `host` any. So whoever may
write a CachedModel can't have a secret sent to a host of their own.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from modelcache.api.uri import is_loopback
from modelcache.errors import AuthFailed
from modelcache.origins.dockerconfig import DockerConfig, covers

MAX_KEY_BYTES: Final = 1024 * 1024
"""A Kubernetes Secret is no larger."""

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
_HOST = re.compile(r"(?:\*\.)?[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_])?")
_WILDCARD = re.compile(r"[*?]")
_UNREADABLE_URL = re.compile(r"[\\@\s\x00-\x1f\x7f]")
_KEYS = (
    "token",
    "username",
    "password",
    "GOOGLE_APPLICATION_CREDENTIALS_JSON",
    "GOOGLE_CLOUD_QUOTA_PROJECT",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    ".dockerconfigjson",
)
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class HostPattern:
    """One entry of `hosts`: a host, or with a leading `*.` all hosts below it.

    `by_label`: it is a registry's of an imagePullSecret, in which `*` stays within one label.
    """

    host: str
    port: int | None = None
    by_label: bool = False

    @classmethod
    def parse(cls, text: str) -> HostPattern | None:
        """Read `host`, `*.suffix`, `host:port` or `[::1]:port`; None when it is none of them."""
        host, colon, port = text, "", ""
        if text.count(":") == 1 or "]:" in text:
            host, colon, port = text.rpartition(":")
        host = _plain(host.removeprefix("[").removesuffix("]"))
        if colon and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            return None
        if not _HOST.fullmatch(host) and not _is_address(host):
            return None
        return cls(host, int(port) if colon else None)

    @classmethod
    def of_registry(cls, text: str) -> HostPattern | None:
        """Read a registry of an imagePullSecret; None for what is none, or too many."""
        stand_in = cls.parse(_WILDCARD.sub("x", text))
        if stand_in is None:
            return None
        host = text if stand_in.port is None else text.rpartition(":")[0]
        if _WILDCARD.search(host.rpartition(".")[2]):
            return None
        return replace(stand_in, host=_plain(host.strip("[]")), by_label=True)

    def matches(self, host: str, port: int) -> bool:
        """Whether a secret with this entry may go to the host."""
        if self.port is not None and self.port != port:
            return False
        if self.by_label:
            return covers(self.host, host)
        if self.host.startswith("*."):
            return host.endswith(self.host[1:]) and len(host) > len(self.host) - 1
        return host == self.host


@dataclass(frozen=True, slots=True)
class Secret:
    """An origin's credentials and the hosts that they may be sent to."""

    name: str
    hosts: tuple[HostPattern, ...]
    values: dict[str, str] = field(repr=False)

    def get(self, key: str) -> str | None:
        """The value of one key, or None where the secret hasn't got it."""
        return self.values.get(key)

    def need(self, key: str) -> str:
        """The value of one key.

        Raises:
            AuthFailed: the secret hasn't got it.
        """
        if value := self.values.get(key):
            return value
        raise AuthFailed(f"the secret {self.name} has no key {key}: add it")

    def permits(self, url: str) -> bool:
        """Whether the secret may be sent to the URL's host.

        Never without TLS, except to this machine itself.
        """
        return self._objection(url) is None

    def require(self, url: str) -> None:
        """Check that the secret may be sent to the URL's host.

        Raises:
            AuthFailed: it may not; says what to change.
        """
        if objection := self._objection(url):
            raise AuthFailed(f"the secret {self.name} is not to be sent to {objection}")

    def _objection(self, url: str) -> str | None:
        """Why not, as the end of a sentence."""
        try:
            parts = urlsplit(url)
            port = parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)
        except ValueError:
            return "a URL that can't be read"
        # User names and backslashes are read in different ways by different clients.
        if _UNREADABLE_URL.search(parts.netloc) or not parts.hostname or not port:
            return "a URL that can't be read"
        host = _plain(parts.hostname)
        if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
            return f"{host} without TLS: use an https URL"
        if not any(pattern.matches(host, port) for pattern in self.hosts):
            return f"{parts.netloc}: add it to the secret's key 'hosts'"
        return None


class SecretStore:
    """The directory with one mounted secret per subdirectory; None where there is none."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory

    def read(self, name: str) -> Secret:
        """Read a secret. It is read anew each time, so that a rotated one takes effect.

        Raises:
            AuthFailed: it is missing, unreadable, or does not name its hosts.
        """
        if not _NAME.fullmatch(name):
            raise AuthFailed(f"{name!r} is not the name of a secret")
        if self._directory is None:
            raise AuthFailed(
                f"the secret {name} can't be read: no directory of secrets is configured"
                " (mount them, and set --secrets-dir)"
            )
        folder = self._directory / name
        # The kubelet swaps this link when a secret changes: following it once keeps the keys of
        # two generations apart.
        generation = (folder / "..data").resolve() if (folder / "..data").exists() else folder
        if not generation.is_dir():
            raise AuthFailed(f"there is no secret {name}: mount it at {folder}")
        values = {key: value for key in _KEYS if (value := _key(generation, name, key))}
        registries: tuple[str, ...] = ()
        if config := values.get(".dockerconfigjson"):
            registries = DockerConfig(config, f"the secret {name}").hosts
        known = [found for each in registries if (found := HostPattern.of_registry(each))]
        hosts = _key(generation, name, "hosts")
        more = () if known and not hosts else _hosts(name, hosts)
        return Secret(name, (*known, *more), values)


def _key(folder: Path, name: str, key: str) -> str | None:
    """One key's value without the white space around it (an editor's last newline)."""
    try:
        with (folder / key).open("rb") as file:
            value = file.read(MAX_KEY_BYTES + 1)
        if len(value) > MAX_KEY_BYTES:
            raise AuthFailed(f"the secret {name}: its key {key} is longer than any secret")
        return value.decode().strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise AuthFailed(
            f"the secret {name}: its key {key} can't be read ({error.strerror}): make it readable"
            " for the agent's user or group"
        ) from error
    except UnicodeDecodeError:
        # Not chained: the exception holds the value.
        raise AuthFailed(f"the secret {name}: its key {key} is not UTF-8") from None


def _hosts(name: str, text: str | None) -> tuple[HostPattern, ...]:
    entries = re.split(r"[,\s]+", text.strip(", \t\r\n")) if text else []
    if not any(entries):
        raise AuthFailed(
            f"the secret {name} does not say where it may be sent to: add a key 'hosts', such as"
            " huggingface.co"
        )
    patterns = []
    for entry in entries:
        pattern = HostPattern.parse(entry)
        if pattern is None:
            raise AuthFailed(
                f"the secret {name}: {entry[:100]!r} in its key 'hosts' is neither a host name"
                " nor *.suffix"
            )
        patterns.append(pattern)
    return tuple(patterns)


def _plain(host: str) -> str:
    return host.lower().removesuffix(".")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
