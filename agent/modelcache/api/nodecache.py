"""NodeCache: what one node holds, written by its agent. `node.json` is one such document."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from modelcache.api.meta import API_VERSION, SUBDOMAIN_PATTERN, ApiModel, Conditions, ObjectMeta
from modelcache.errors import Reason

NonNegative = Annotated[int, Field(ge=0)]


class ModelState(StrEnum):
    """How far a model is on this node."""

    PENDING = "Pending"
    RESOLVING = "Resolving"
    DOWNLOADING = "Downloading"
    VERIFYING = "Verifying"
    READY = "Ready"
    FAILED = "Failed"
    EVICTED = "Evicted"


class ModelReport(ApiModel):
    """One model on this node."""

    name: str
    """The CachedModel's name."""
    state: ModelState
    """How far it is. Ready stays Ready while a newer revision is fetched."""
    wanted: bool = True
    """Whether the catalog (still) asks for it."""
    source: str | None = None
    """The URI that it comes from."""
    revision: str | None = None
    """The revision that is ready; while there is none, the one being fetched."""
    next_revision: str | None = None
    """The newer revision being fetched beside a ready one."""
    bytes_done: NonNegative = 0
    """Bytes on this disk of what is being fetched, or of the ready revision."""
    bytes_total: NonNegative = 0
    """Bytes in all of what is being fetched, or of the ready revision."""
    files: NonNegative = 0
    """Files in all."""
    priority: int = 0
    """The object's priority."""
    pinned: bool = False
    """Never evicted."""
    reason: Reason | None = None
    """Why the last try failed."""
    message: str | None = None
    """Why, as a sentence."""
    attempts: NonNegative = 0
    """Failed tries in a row."""
    retry_at: datetime | None = None
    """When it is tried again."""
    started_at: datetime | None = None
    """When the fetch of the revision began."""
    finished_at: datetime | None = None
    """When the revision became ready."""
    path: str | None = None
    """The plain view: a directory with the model's files."""
    hub_path: str | None = None
    """The hub view: what HF_HUB_CACHE is set to. Hugging Face origins only."""


class DiskReport(ApiModel):
    """The file system below the root, in bytes."""

    capacity: NonNegative
    """Its size."""
    available: NonNegative
    """Free for fetches: less what is kept free, less what is reserved."""
    used: NonNegative
    """Held by the models in this root."""
    reserved: NonNegative
    """Promised to fetches in progress."""


class CatalogReport(ApiModel):
    """How reading the catalog went."""

    objects: NonNegative = 0
    """Objects in force."""
    problems: tuple[str, ...] = ()
    """What is wrong with documents, one line each, the first hundred."""
    problem_count: NonNegative = 0
    """How many problems there are in all."""


class NodeCacheStatus(ApiModel):
    """What the node holds and does."""

    agent_version: str
    """The agent's version."""
    root: str
    """The directory on the node that holds everything."""
    labels: dict[str, str] = Field(default={})
    """The labels that the node carries on account of what it holds."""
    models: tuple[ModelReport, ...] = ()
    """The models, by name."""
    disk: DiskReport
    """The disk."""
    catalog: CatalogReport = CatalogReport()
    """The catalog."""
    conditions: Conditions = ()
    """The condition ModelCacheReady."""


class NodeMeta(ObjectMeta):
    """Metadata with a node's name, which may be longer than a model's and have dots."""

    name: Annotated[str, Field(pattern=SUBDOMAIN_PATTERN, max_length=253)]
    """The node's name."""


class NodeCache(ApiModel):
    """What one node holds. One for each node, written by that node's agent."""

    api_version: Literal["modelcache.dev/v1alpha1"] = API_VERSION
    kind: Literal["NodeCache"] = "NodeCache"
    metadata: NodeMeta
    status: NodeCacheStatus | None = None
