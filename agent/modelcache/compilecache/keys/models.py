"""Which model: as an object's source, or as an engine is given it on its command line."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from modelcache.api import Manifest
from modelcache.api.uri import parse_uri, shown_uri
from modelcache.compilecache.keys.arguments import read_arguments
from modelcache.compilecache.keys.parts import ModelIdentity
from modelcache.errors import UsageError

_CONFIG_BYTES: Final = 16 * 1024 * 1024
_MANIFEST_BYTES: Final = 64 * 1024 * 1024
_REVISION: Final = "--revision="
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_HUB_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_SNAPSHOT: Final = re.compile(
    r".*/models--(?P<org>[A-Za-z0-9._-]+?)--(?P<name>[A-Za-z0-9._-]+)"
    r"/snapshots/(?P<commit>[0-9a-f]{40})"
)


def model_of_object(source_uri: str, revision: str, config_sha256: str) -> ModelIdentity:
    """The model of an object.

    Args:
        source_uri: its source; what it says of a revision doesn't count, nor does a query.
        revision: the commit or digest that is on the node.
        config_sha256: of its config.json, in hex; empty where it has none.
    """
    return ModelIdentity(id=_plain(source_uri), revision=revision, config=config_sha256)


def model_of_manifest(manifest: Manifest) -> ModelIdentity:
    """The model of a snapshot in the store."""
    config = next((file.sha256 for file in manifest.files if file.path == "config.json"), "")
    return model_of_object(manifest.source.uri, manifest.revision, config)


def model_of_command(engine: str, argv: Sequence[str], env: Mapping[str, str]) -> ModelIdentity:
    """The model that a command line names; an empty id where it names none."""
    said = read_arguments(engine, argv)
    revisions = [each for each in said.normal if each.startswith(_REVISION)]
    if not said.model:
        return ModelIdentity(id="")
    revision = revisions[-1].removeprefix(_REVISION) if revisions else "main"
    return model_of_path(said.model, env, revision)


def model_of_path(
    path_or_id: str, env: Mapping[str, str] | None = None, revision: str = "main"
) -> ModelIdentity:
    """The model as an engine is given it: a directory, a Hub's id, or a URI.

    A directory that is a view of ours or a snapshot in a Hub's cache is known by where it came
    from, any other by its path. Whether it has changed since, its config.json tells.

    Args:
        env: the engine's environment, which says where the Hub's cache is; None: ours.
        revision: the branch, tag or commit of a Hub's id.
    """
    path = Path(path_or_id)
    if path.exists():
        return _of_directory(path)
    if "://" in path_or_id:
        return ModelIdentity(id=_plain(path_or_id))
    if _HUB_ID.fullmatch(path_or_id):
        return _of_hub(path_or_id, os.environ if env is None else env, revision)
    return ModelIdentity(id=path_or_id)


def hub_cache(env: Mapping[str, str]) -> Path:
    """Where huggingface_hub keeps snapshots (its constants.py)."""
    home = env.get("HF_HOME") or f"{env.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    folder = env.get("HF_HUB_CACHE") or env.get("HUGGINGFACE_HUB_CACHE") or f"{home}/hub"
    return Path(re.sub(r"^~(?=/|$)", env.get("HOME", "~"), folder))


def _plain(uri: str) -> str:
    """A source without a revision, a query and a login."""
    try:
        parsed = parse_uri(uri)
    except UsageError:
        return re.split(r"[?#]", shown_uri(uri))[0]
    return f"{parsed.scheme}://{parsed.authority}/{parsed.path.strip('/')}".rstrip("/")


def _of_directory(path: Path) -> ModelIdentity:
    real = path.resolve()
    config = _sha256(real / "config.json")
    manifest = _manifest(real)
    if manifest is not None:
        return model_of_object(manifest.source.uri, manifest.revision, config)
    for form in (str(path.absolute()), str(real)):
        if found := _SNAPSHOT.fullmatch(form):
            uri = f"hf://{found['org']}/{found['name']}"
            return ModelIdentity(id=uri, revision=found["commit"], config=config)
    return ModelIdentity(id=os.path.normpath(path), config=config)


def _manifest(real: Path) -> Manifest | None:
    """The manifest of a plain view: `<root>/manifests/<name>/<snapshot>.json` of
    `<root>/models/<name>/<snapshot>`."""
    if len(real.parts) < 4 or real.parent.parent.name != "models":
        return None
    name = real.parent.name
    file = real.parent.parent.parent / "manifests" / name / f"{real.name}.json"
    try:
        if file.stat().st_size > _MANIFEST_BYTES:
            return None
        return Manifest.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return None  # not ours, or not for us


def _of_hub(repository: str, env: Mapping[str, str], revision: str) -> ModelIdentity:
    folder = hub_cache(env) / f"models--{repository.replace('/', '--')}"
    commit = revision
    if not _COMMIT.fullmatch(revision) and ".." not in revision:
        try:
            reference = folder / "refs" / revision.lstrip("/")
            commit = reference.read_text(encoding="ascii", errors="replace").strip()
        except OSError:
            pass
    if not _COMMIT.fullmatch(commit):
        return ModelIdentity(id=f"hf://{repository}")
    config = _sha256(folder / "snapshots" / commit / "config.json")
    return ModelIdentity(id=f"hf://{repository}", revision=commit, config=config)


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as content:
            data = content.read(_CONFIG_BYTES + 1)
    except OSError:
        return ""
    return sha256(data).hexdigest() if len(data) <= _CONFIG_BYTES else ""
