"""The key of a compile cache: what its code depends on, known before the engine starts.

The coarse key of two. The fine one is the engine's own hash, which is recorded in the bundle and
never computed here: the engine remains the judge, and a key that is too coarse costs a miss, not a
wrong result.
"""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any, Final, Literal

from pydantic import Field

from modelcache.api.meta import ApiModel

SCHEMA: Final = 1
"""Raised when a part is added or read otherwise: keys of other schemas are never equal."""


class Accelerator(ApiModel):
    """What the engine computes on."""

    vendor: Literal["nvidia", "amd", "intel", "aws", "google", "cpu"]
    """Who makes it; cpu: there is none."""
    product: str
    """Its name as torch sees it, written as in a node's label: NVIDIA-H100-80GB-HBM3. For a CPU:
    its ISA class again."""
    compute_capability: str = ""
    """9.0, or gfx942; empty where there is no such thing."""
    mig: str = ""
    """The MIG profile (1g.10gb); empty for a whole GPU."""
    runtime: str = ""
    """The CUDA (ROCm, Neuron) version of the driver's runtime: 12.8; empty: unknown."""
    driver_major: str = ""
    """The driver's major version: 570. The minor one is no part of the key."""


class Cpu(ApiModel):
    """The processor that host code is compiled for."""

    arch: str
    """x86_64, aarch64."""
    isa: str
    """The class of its instruction set: x86-64-v2, x86-64-v3, x86-64-v4, armv8, armv9."""
    features: tuple[str, ...] = ()
    """What it has beyond its class and compilers use (-march=native), by the kernel's names,
    sorted. Only where the engine computes on the processor: code that was compiled for it ends in
    an illegal instruction elsewhere."""


class EngineIdentity(ApiModel):
    """Which engine, to the last byte of its code."""

    name: str
    """vllm, sglang, torch, neuron, other, or a name of the user's own table."""
    identity: str
    """`sha256:<64 hex>`: the image's digest; outside of a container a digest over the installed
    packages (`keys.packages`)."""


class ModelIdentity(ApiModel):
    """Which model."""

    id: str
    """The id or path, as the engine is given it, or the source's URI without a query."""
    revision: str = ""
    """The commit or digest; empty: unknown."""
    config: str = ""
    """The SHA-256 of its config.json in hex; empty where there is none."""


class ParallelLayout(ApiModel):
    """The parallel layout."""

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    expert: int = 1
    node_rank: int = 0
    """Which node of several that run one engine together."""


class Key(ApiModel):
    """What a compile cache was compiled for. Two are the same when their `digest` is."""

    schema_version: Literal[1] = Field(default=1)
    trust_domain: str = "default"
    """Who shares caches with each other."""
    engine: EngineIdentity
    accelerator: Accelerator
    cpu: Cpu
    model: ModelIdentity
    args: tuple[str, ...] = ()
    """The engine's arguments that matter, in their normal form (`keys.arguments`)."""
    env: dict[str, str] = Field(default={})
    """The environment that matters: for each name 16 hex digits of its value's SHA-256, since a
    value may be a secret (`keys.environment`)."""
    paths: dict[str, str] = Field(default={})
    """Directories that engines note: cacheDir, HOME, XDG_CACHE_HOME, model."""
    parallel: ParallelLayout = ParallelLayout()

    @property
    def digest(self) -> str:
        """64 hex digits: the SHA-256 of the canonical JSON (sorted names, no spaces, UTF-8)."""
        return sha256(canonical(self.to_document())).hexdigest()


def canonical(document: Any) -> bytes:
    """One way to write a document: sorted names, no spaces, UTF-8."""
    return json.dumps(
        document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()
