"""CompileCache: an engine's compile cache that nodes are to hold, written by people."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import Field, StringConstraints

from modelcache.api.cachedmodel import NodeAffinity, SecretName
from modelcache.api.meta import (
    API_VERSION,
    NAME_PATTERN,
    SUBDOMAIN_PATTERN,
    ApiModel,
    Conditions,
    Name,
    ObjectMeta,
)

DIGEST_PATTERN: Final = r"^sha256:[0-9a-f]{64}$"
ENV_NAME_PATTERN: Final = r"^[A-Za-z_][A-Za-z0-9_]*$"
IMAGE_PATTERN: Final = r"^\S+@sha256:[0-9a-f]{64}$"
BUNDLES_PATTERN: Final = r"^(oci|s3|gs|file)://\S+$"
KEY_PATTERN: Final = r"^[0-9a-f]{64}$"
DIRECTORY_PATTERN: Final = r"^(/[A-Za-z0-9_][A-Za-z0-9._-]*)+$"

Digest = Annotated[str, StringConstraints(pattern=DIGEST_PATTERN)]
Key = Annotated[str, StringConstraints(pattern=KEY_PATTERN)]
"""The SHA-256 of a compile cache's key, in 64 hex digits."""
EnvName = Annotated[str, StringConstraints(pattern=ENV_NAME_PATTERN, max_length=256)]


class EnvVar(ApiModel):
    """An environment variable of the engine that its compiled code depends on."""

    name: EnvName
    """The variable."""
    value: Annotated[str, Field(max_length=4096)] = ""
    """Its value."""


class Engine(ApiModel):
    """How the engine is started: everything that its compiled code depends on."""

    name: Literal["vllm", "sglang", "torch", "neuron", "other"]
    """The engine, which says where its caches lie."""
    image: Annotated[str, StringConstraints(pattern=IMAGE_PATTERN, max_length=512)]
    """The engine's image, by digest."""
    args: Annotated[tuple[Annotated[str, Field(max_length=4096)], ...], Field(max_length=256)] = ()
    """Its arguments. Those that don't matter to compilation (host, port, ...) are left out."""
    env: Annotated[tuple[EnvVar, ...], Field(max_length=256)] = ()
    """Its environment, as far as it matters."""
    cache_dir: Annotated[str, StringConstraints(pattern=DIRECTORY_PATTERN, max_length=256)] = (
        "/var/cache/modelcache"
    )
    """The directory in its container below which all its caches lie, the same in every pod: engines
    note absolute paths."""


class Parallel(ApiModel):
    """The parallel layout."""

    tensor: Annotated[int, Field(ge=1)] = 1
    """Tensor-parallel size."""
    pipeline: Annotated[int, Field(ge=1)] = 1
    """Pipeline-parallel size."""
    data: Annotated[int, Field(ge=1)] = 1
    """Data-parallel size."""
    expert: Annotated[int, Field(ge=1)] = 1
    """Expert-parallel size."""


class Publisher(ApiModel):
    """A service account that may publish bundles for this object."""

    namespace: Annotated[str, StringConstraints(pattern=NAME_PATTERN, max_length=63)]
    """Its namespace."""
    service_account: Annotated[str, StringConstraints(pattern=SUBDOMAIN_PATTERN, max_length=253)]
    """Its name."""


class Bundles(ApiModel):
    """Where bundles are kept, and which are trusted. A compile cache is code."""

    uri: Annotated[str, StringConstraints(pattern=BUNDLES_PATTERN, max_length=2048)]
    """The place: oci://registry/repository, s3://bucket/prefix, gs://bucket/prefix, file:///path."""
    digests: Annotated[tuple[Digest, ...], Field(max_length=64)] = ()
    """Bundles that are trusted by their digest."""
    secret_name: SecretName | None = None
    """The Secret with the place's credentials, in the agent's namespace."""


class CompileCacheSpec(ApiModel):
    """What is wanted."""

    model: Name
    """The CachedModel that the engine loads."""
    engine: Engine
    """How the engine is started."""
    parallel: Parallel = Parallel()
    """The parallel layout."""
    bundles: Bundles
    """Where the bundles are."""
    publishers: Annotated[tuple[Publisher, ...], Field(max_length=64)] = ()
    """Who may publish from a pod; empty: nobody."""
    node_selector: dict[str, str] = Field(default={}, max_length=64)
    """Labels that a node must have; empty: every node whose accelerator fits."""
    node_affinity: NodeAffinity | None = None
    """Node affinity, as in a Pod."""
    trust_domain: Annotated[
        str, StringConstraints(pattern=SUBDOMAIN_PATTERN, min_length=1, max_length=63)
    ] = "default"
    """Who shares caches with each other: objects of other domains never have the same key."""


class BundleState(StrEnum):
    """How far a bundle is trusted to help."""

    PUBLISHED = "Published"
    """It was captured, checked and signed; nobody has started from it yet."""
    VERIFIED = "Verified"
    """A second start loaded it."""
    WITHDRAWN = "Withdrawn"
    """Starts failed to load it: it is seeded no more."""


class BundleReport(ApiModel):
    """One bundle that was published for this object."""

    digest: Digest
    """The bundle: the SHA-256 of its statement."""
    key: Key
    """What it was compiled for."""
    accelerator: str = ""
    """The accelerator that it was compiled for, for people."""
    bytes: Annotated[int, Field(ge=0)] = 0
    """The archive's size."""
    created_at: datetime | None = None
    """When it was captured."""
    state: BundleState = BundleState.PUBLISHED
    """How far it is trusted to help."""
    message: Annotated[str, Field(max_length=1024)] = ""
    """Why it was withdrawn."""


class CompileNodeCounts(ApiModel):
    """Nodes, by how far they are. Those that are not selected are not counted."""

    desired: Annotated[int, Field(ge=0)] = 0
    """Selected nodes with an agent."""
    ready: Annotated[int, Field(ge=0)] = 0
    """Nodes that hold the bundle for their key."""
    missing: Annotated[int, Field(ge=0)] = 0
    """Nodes for whose key nothing was published yet."""
    failed: Annotated[int, Field(ge=0)] = 0
    """Nodes where the last try failed."""


class CompileCacheStatus(ApiModel):
    """What is."""

    observed_generation: int | None = None
    """The generation of the object that this speaks of."""
    bundles: Annotated[tuple[BundleReport, ...], Field(max_length=64)] = ()
    """Bundles published for this object, newest first."""
    nodes: CompileNodeCounts = CompileNodeCounts()
    """Nodes, by how far they are."""
    ready_nodes: str = ""
    """Ready and selected nodes for people: 3/4."""
    conditions: Conditions = ()
    """The present state."""


class CompileCache(ApiModel):
    """An engine's compile cache, captured once and there on every node before a pod needs it."""

    api_version: Literal["modelcache.dev/v1alpha1"] = API_VERSION
    kind: Literal["CompileCache"] = "CompileCache"
    metadata: ObjectMeta
    spec: CompileCacheSpec
    status: CompileCacheStatus | None = None

    @property
    def name(self) -> str:
        """The object's name."""
        return self.metadata.name
