"""Nodes and objects that tests speak of."""

from __future__ import annotations

from typing import Any

from modelcache.api import CompileCache
from modelcache.compilecache.keys.facts import NodeFacts
from modelcache.compilecache.keys.parts import Accelerator, Cpu, ModelIdentity

DIGEST = f"sha256:{'ab' * 32}"
IMAGE = f"registry.example/vllm@{DIGEST}"
CPU = Cpu(arch="x86_64", isa="x86-64-v4", features=("avx512_bf16",))
H100 = NodeFacts(
    Accelerator(
        vendor="nvidia",
        product="NVIDIA-H100-80GB-HBM3",
        compute_capability="9.0",
        runtime="12.8",
        driver_major="570",
    ),
    CPU,
)
HOST = NodeFacts(Accelerator(vendor="cpu", product="x86-64-v4"), CPU)
MODEL = ModelIdentity(id="hf://org/model", revision="c" * 40, config="d" * 64)


def compile_cache(**engine: Any) -> CompileCache:
    """An object; `parallel` and `trustDomain` are the spec's."""
    spec = {name: engine.pop(name) for name in ("parallel", "trustDomain") if name in engine}
    return CompileCache.from_document(
        {
            "apiVersion": "modelcache.dev/v1alpha1",
            "kind": "CompileCache",
            "metadata": {"name": "sample"},
            "spec": {
                "model": "model",
                "engine": {"name": "vllm", "image": IMAGE, **engine},
                "bundles": {"uri": "s3://bucket/bundles"},
                **spec,
            },
        }
    )
