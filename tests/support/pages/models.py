"""Models as an agent describes them: ready, on the way, failing."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from modelcache.api import CachedModel, Manifest, ManifestFile, ModelReport
from modelcache.planning.describing import Paths, Progress, describe
from modelcache.planning.planner import Fetch, Held, Running
from modelcache.planning.sources import source_digest
from modelcache.planning.trials import Resolved, Trial

NOW: Final = datetime(2026, 11, 22, 9, 41, 7, tzinfo=UTC)
GIB: Final = 1 << 30
ROOT: Final = "/var/lib/modelcache"


def before(**ago: float) -> datetime:
    """So long before now."""
    return NOW - timedelta(**ago)


def wanted(name: str, uri: str, **spec: Any) -> CachedModel:
    """An object of the catalog."""
    document = {"metadata": {"name": name}, "spec": {"source": {"uri": uri}, **spec}}
    return CachedModel.model_validate(document)


def revision_of(name: str) -> str:
    """What an origin calls it: a commit, or a digest."""
    return hashlib.sha256(name.encode()).hexdigest()[:40]


def ready(
    model: CachedModel,
    gib: float,
    files: int,
    *,
    made: datetime | None = None,
    trial: Trial | None = None,
    is_wanted: bool = True,
    **more: Any,
) -> ModelReport:
    """A model that is there, since two days by default. `trial`: what became of its update; `more`:
    what is measured of it."""
    name, size, revision = model.metadata.name, round(gib * GIB), revision_of(model.metadata.name)
    made = made or before(days=2)
    manifest = Manifest(
        model=name,
        revision=revision,
        snapshot=revision,
        source=model.spec.source,
        created_at=made,
        files=tuple(
            ManifestFile(
                path=f"{index}",
                size=size // files + (size % files if index == 0 else 0),
                sha256=hashlib.sha256(f"{name}/{index}".encode()).hexdigest(),
                origin_path=f"{index}",
                identity=f"{revision}/{index}",
            )
            for index in range(files)
        ),
    )
    held = Held(revision, source_digest(model.spec.source), made.timestamp())
    asked = model if is_wanted else None
    report = describe(name, asked, [(held, manifest)], trial, None, None, _paths(name))
    return report.model_copy(update={"resident_bytes": 0, **more})


def coming(model: CachedModel, since: datetime, **progress: Any) -> ModelReport:
    """A model that is fetched, missing since then. `progress`: as `Progress` has it, in GiB."""
    for each in ("done", "total"):
        progress[each] = round(progress[each] * GIB)
    revision, source = revision_of(model.metadata.name), source_digest(model.spec.source)
    found = Progress(revision, started_at=since.timestamp(), **progress)
    trial = Trial(source).found(Resolved(revision, revision, found.total, since.timestamp()))
    running = Running(Fetch, source)
    name = model.metadata.name
    report = describe(name, model, (), trial, running, found, _paths(name))
    return report.model_copy(update={"missing_since": since})


def waiting(model: CachedModel, since: datetime) -> ModelReport:
    """A model whose fetch waits for a permit."""
    name = model.metadata.name
    report = describe(name, model, (), None, None, None, _paths(name), waits=True)
    return report.model_copy(update={"missing_since": since})


def failing(
    model: CachedModel, error: Exception, since: datetime, gib: float | None = None
) -> ModelReport:
    """A model that is missing since then, and whose tries have failed since then. `gib`: its size,
    where its origin has said it."""
    name = model.metadata.name
    trial = tried(model, error, since, gib)
    report = describe(name, model, (), trial, None, None, _paths(name))
    return report.model_copy(update={"missing_since": since})


def tried(model: CachedModel, error: Exception, since: datetime, gib: float | None = None) -> Trial:
    """What is remembered after all tries between then and now have failed."""
    revision = revision_of(model.metadata.name)
    trial, at = Trial(source_digest(model.spec.source)), since.timestamp()
    while at <= NOW.timestamp():
        if gib is not None:
            trial = trial.found(Resolved(revision, revision, round(gib * GIB), at))
        trial = trial.failed(error, at, _delay)
        at = trial.retry_at
    return trial


def _delay(failures: int, *, first: float, most: float, wish: float | None = None) -> float:
    """`transfer.delay` without chance: three quarters of the most that it may be."""
    return max(0.75 * min(most, first * 2.0 ** (failures - 1)), min(wish or 0.0, most))


def _paths(name: str) -> Paths:
    return Paths(f"{ROOT}/models/{name}/current", None)
