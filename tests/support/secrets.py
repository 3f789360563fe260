"""Origins with a Secret, as it is mounted for the agent."""

from __future__ import annotations

from pathlib import Path

from modelcache.api import Source
from modelcache.origins import Origin, OriginSettings, SecretStore, open_origin


def with_secret(folder: Path, uri: str, hosts: str | None = "127.0.0.1", **keys: str) -> Origin:
    """The origin of a source whose secret has these keys, and no others.

    `dockerconfigjson` stands for the key with a dot; `hosts` None: it has no such key.
    """
    mounted = folder / "secrets" / "mounted"
    mounted.mkdir(parents=True, exist_ok=True)
    for old in mounted.iterdir():
        old.unlink()
    if hosts is not None:
        keys["hosts"] = hosts
    for key, value in keys.items():
        (mounted / key.replace("dockerconfigjson", ".dockerconfigjson")).write_text(value)
    settings = OriginSettings(folder / "cache", secrets=SecretStore(folder / "secrets"))
    return open_origin(Source(uri=uri, secret_name="mounted"), settings)
