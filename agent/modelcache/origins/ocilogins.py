"""Who asks a registry: a Secret's login, or that of docker's own configuration."""

from __future__ import annotations

from functools import cached_property

from modelcache.api import SourceURI
from modelcache.errors import AuthFailed
from modelcache.origins.credentials import Secret
from modelcache.origins.dockerconfig import DockerConfig, Login, default_config
from modelcache.origins.network import Network
from modelcache.origins.ociclient import RegistryClient


def open_registry(
    uri: SourceURI,
    *,
    secret: Secret | None = None,
    network: Network | None = None,
    actions: str = "pull",
) -> RegistryClient:
    """The registry of a URI. Makes no request yet.

    Args:
        uri: `oci://registry/repository`; a tag or digest is not looked at.
        secret: has the key `.dockerconfigjson`, or `username` and `password`; None: docker's own
            configuration has the login, or nobody asks.
        network: how the world is reached; by default as the environment says.
        actions: what is to be done: `pull`, or `pull,push`.

    Raises:
        AuthFailed: the secret has no login for the registry, or may not be sent there.
    """
    registry, _, repository = uri.authority.partition("/")
    keys = _SecretKeys(secret, registry, repository) if secret else None
    client = RegistryClient(
        registry,
        repository,
        keys or _DockersKeys(registry, repository),
        network or Network(),
        actions=actions,
    )
    if secret is not None:
        secret.require(client.base)
    return client


class _SecretKeys:
    """A secret's login: it goes to the secret's hosts alone, token servers included."""

    def __init__(self, secret: Secret, registry: str, repository: str) -> None:
        self._secret = secret
        config = secret.get(".dockerconfigjson")
        if config is not None:
            found = DockerConfig(config, f"the secret {secret.name}").login(registry, repository)
        else:
            found = Login(secret.need("username"), secret.need("password"))
        if found is None:
            raise AuthFailed(f"the secret {secret.name} has no login for {registry}: add one")
        self._login = found

    def login(self) -> Login:
        return self._login

    def require(self, url: str) -> None:
        self._secret.require(url)


class _DockersKeys:
    """The login of docker's configuration, which goes wherever the registry sends docker."""

    def __init__(self, registry: str, repository: str) -> None:
        self._place = registry, repository

    @cached_property
    def _login(self) -> Login | None:
        config = default_config()
        return config.login(*self._place) if config else None

    def login(self) -> Login | None:
        return self._login

    def require(self, url: str) -> None:
        """The registry's token server is the registry's choice, and without TLS there is none."""
