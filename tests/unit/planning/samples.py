"""Models, snapshots and trials, as short as tests want them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from modelcache.api import CachedModel, HubIdentity, Manifest, ManifestFile, Source
from modelcache.planning.planner import Held
from modelcache.planning.trials import Resolved, Trial

OLD, NEW = "a" * 40, "b" * 40


def model(
    name: str = "m",
    *,
    uri: str = "hf://org/name",
    include: tuple[str, ...] = (),
    priority: int = 0,
    poll: str | None = None,
) -> CachedModel:
    spec: dict[str, Any] = {"source": {"uri": uri, "include": include}, "priority": priority}
    if poll:
        spec["refresh"] = {"policy": "Poll", "interval": poll}
    return CachedModel.model_validate({"metadata": {"name": name}, "spec": spec})


def source_of(wanted: CachedModel) -> str:
    return wanted.spec.source.digest()


def held(
    wanted: CachedModel,
    snapshot: str = OLD,
    *,
    at: float = 0.0,
    whole: bool = True,
    shown: bool = True,
) -> Held:
    return Held(snapshot, source_of(wanted), at, whole, whole and shown)


def resolved(snapshot: str = OLD, size: int = 100, at: float = 0.0) -> Resolved:
    return Resolved(snapshot, snapshot, size, at)


def found(wanted: CachedModel, snapshot: str = OLD, size: int = 100, at: float = 0.0) -> Trial:
    """The origin of a model was asked and has answered."""
    return Trial(source_of(wanted)).found(resolved(snapshot, size, at))


def manifest(
    name: str = "m", snapshot: str = OLD, *, size: int = 5, uri: str = "hf://org/name"
) -> Manifest:
    return Manifest(
        model=name,
        revision=snapshot,
        snapshot=snapshot,
        source=Source(uri=uri),
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        files=(
            ManifestFile(
                path="f", size=size, sha256="0" * 64, origin_path="f", identity="sha256:0"
            ),
        ),
        hub=HubIdentity(repository="org/name", commit=snapshot, refs=("main",)),
    )
