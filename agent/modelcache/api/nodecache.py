"""NodeCache: what one node holds, written by its agent. `node.json` is one such document."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field

from modelcache.api.cachedmodel import PageCache
from modelcache.api.meta import API_VERSION, SUBDOMAIN_PATTERN, ApiModel, Conditions, ObjectMeta
from modelcache.api.quantities import quantity
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
    wanted_since: datetime | None = None
    """Since when the catalog asks for this source of it, as far as this agent knows."""
    missing_since: datetime | None = None
    """Since when it is wanted and not ready; absent while it is ready."""
    unwanted_since: datetime | None = None
    """Since when nothing asks for it, as far as this agent knows."""
    source: str | None = None
    """The URI that it comes from."""
    source_digest: str | None = None
    """16 hex digits of the source that this speaks of: others where other content is meant."""
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
    resident_bytes: NonNegative | None = None
    """Bytes of the ready revision that are in the page cache, in steps of 1 %; absent where it was
    not measured."""
    used_by: NonNegative | None = None
    """Pods, processes and leases of this node that use it; absent where there are none, or nobody
    knows."""
    last_used_at: datetime | None = None
    """When it was last seen in use, to the minute; absent while it is in use."""
    page_cache: PageCache = PageCache.NONE
    """What the object asks for: Warm, to be kept in the page cache."""
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


class CompileState(StrEnum):
    """How far a compile cache is on this node."""

    PENDING = "Pending"
    """Nothing was looked up yet."""
    MISSING = "Missing"
    """Nothing was published for this node's key: the next pod that starts here compiles."""
    DOWNLOADING = "Downloading"
    READY = "Ready"
    """A trusted bundle for this node's key is here."""
    FAILED = "Failed"


class StartReport(ApiModel):
    """How a start from a compile cache went."""

    result: Literal["Hit", "Partial", "Miss", "Unknown"]
    """Whether the engine used what it was given."""
    at: datetime
    """When it was judged."""
    compile_milliseconds: NonNegative | None = None
    """How long the engine says it compiled."""
    reason: str | None = None
    """For a miss, the likely reason, as one CamelCase word."""
    message: str | None = None
    """The same as a sentence."""


class WithdrawnBundle(ApiModel):
    """A bundle that starts on this node failed to load, several in a row."""

    digest: str
    """The bundle."""
    key: str
    """What it was compiled for."""
    message: Annotated[str, Field(max_length=1024)] = ""
    """Why, as a sentence."""


class CompileReport(ApiModel):
    """One compile cache on this node."""

    name: str
    """The CompileCache's name."""
    model: str | None = None
    """The CachedModel that it is of."""
    state: CompileState
    """How far it is."""
    spec_digest: str | None = None
    """16 hex digits of the object's spec that this speaks of: others where it says something
    else."""
    key: str | None = None
    """This node's key for the object: 64 hex digits."""
    digest: str | None = None
    """The bundle that is here, or is being fetched."""
    created_at: datetime | None = None
    """When the bundle that is here was captured."""
    bytes: NonNegative = 0
    """Its size on this disk."""
    outgoing: bool = False
    """Whether it was made here, and is not at its place yet."""
    accelerator: str | None = None
    """What this node compiles for, for people."""
    verified: bool = False
    """Whether a start loaded the bundle."""
    path: str | None = None
    """The directory on this node with the bundle."""
    reason: Reason | None = None
    """Why the last try failed."""
    message: str | None = None
    """Why, as a sentence; or which part of the key other bundles differ in."""
    attempts: NonNegative = 0
    """Failed tries in a row."""
    retry_at: datetime | None = None
    """When it is tried again."""
    last_start: StartReport | None = None
    """How the last start on this node went."""
    last_miss: StartReport | None = None
    """The last start on this node that did not hit."""
    withdrawn: Annotated[tuple[WithdrawnBundle, ...], Field(max_length=16)] = ()
    """Bundles that starts on this node failed to load."""


def _of(field: str) -> Callable[[dict[str, Any]], str]:
    return lambda disk: quantity(disk[field])


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
    taken: NonNegative = 0
    """What the root takes in all, with unfinished fetches and other leftovers."""
    budget: NonNegative = 0
    """What the root may take in all, as things are."""
    kept_free: NonNegative | None = None
    """What the agent leaves free of it; absent where it didn't say."""
    free: NonNegative = 0
    """Free for whoever writes to it, without what is kept for its administrator."""
    inodes: NonNegative | None = None
    """Inodes in all; absent where it has as many as are needed."""
    inodes_free: NonNegative | None = None
    """Inodes that are left and not promised."""
    capacity_text: str = Field(default_factory=_of("capacity"))
    """`capacity` for people: 3.5Ti."""
    available_text: str = Field(default_factory=_of("available"))
    """`available` for people."""
    used_text: str = Field(default_factory=_of("used"))
    """`used` for people."""


class CatalogReport(ApiModel):
    """How reading the catalog went."""

    objects: NonNegative = 0
    """Objects in force."""
    problems: tuple[str, ...] = ()
    """What is wrong with documents, one line each, the first hundred."""
    problem_count: NonNegative = 0
    """How many problems there are in all."""


def _ready_models(status: dict[str, Any]) -> str:
    wanted = [model for model in status["models"] if model.wanted]
    return f"{sum(model.state is ModelState.READY for model in wanted)}/{len(wanted)}"


class NodeCacheStatus(ApiModel):
    """What the node holds and does."""

    agent_version: str
    """The agent's version."""
    root: str
    """The directory on the node that holds everything."""
    labels: dict[str, str] = Field(default={})
    """The labels that the node carries on account of what it holds."""
    unlabelled: tuple[str, ...] = ()
    """Models that are ready and have no label: the node carries as many as it may."""
    ready_in_boot: str | None = None
    """The id of the boot in which all models were first ready. The node's condition stays true
    until the next boot, whatever is wanted meanwhile."""
    models: tuple[ModelReport, ...] = ()
    """The models, by name."""
    compile_caches: tuple[CompileReport, ...] = ()
    """The compile caches, by name."""
    ready_models: str = Field(default_factory=_ready_models)
    """Ready and wanted models for people: 3/4."""
    disk: DiskReport
    """The file system that the root is on, in bytes."""
    catalog: CatalogReport = CatalogReport()
    """What is in force of the catalog, and what is wrong with it."""
    conditions: Conditions = ()
    """ModelCacheReady: whether all wanted models are ready now. (The Node's condition of this name
    stays true until the next boot.) ModelCacheDiskHealthy: whether the disk is well."""


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
