"""What an image of a bundle says to GKM's MCV, and to KServe, which reads MCV's labels.

https://github.com/redhat-et/GKM/blob/main/mcv/docs/spec-compat.md, mcv/pkg/cacheplan. MCV itself
unpacks gzip only, so a bundle for it is packed with `--gzip`.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, Final

from modelcache.compilecache.bundles.foreign import entries
from modelcache.compilecache.bundles.manifest import BundleManifest
from modelcache.compilecache.bundles.members import PREFIXES, member_name
from modelcache.compilecache.bundles.statement import Statement
from modelcache.compilecache.engines.builtin import BUILT_IN
from modelcache.compilecache.keys.parts import Accelerator, Key

MAX_LABEL_BYTES: Final = 4096
"""MCV refuses a longer `cache-mounts`; other labels it takes as they are."""
TREE: Final = "torch_compile_cache"
VLLM_ROOT: Final = "vllm"
"""The directory of VLLM_CACHE_ROOT below the cache directory (`engines.builtin`)."""
_AOT: Final = "torch_aot_compile"
_NOT_EXTRACTED: Final = ("modelinfos", "dummy_cache")
_MOUNTED: Final = "io.kserve.km/"


def labels(statement: Statement, manifest: BundleManifest) -> dict[str, str]:
    """The labels of an image's config: none for a cache that MCV has no format for.

    Args:
        statement: whose key says which accelerator the cache is for, and where it was captured.
        manifest: what is in its archive.
    """
    if manifest.layout == "vllm":
        return _vllm(statement.key, manifest)
    if manifest.layout == "triton":
        return _triton(statement.key, manifest)
    return {}


def _vllm(key: Key, manifest: BundleManifest) -> dict[str, str]:
    found = entries(manifest)
    formats = [
        kind for kind in ("binary", "triton") if any(e["cacheFormat"] == kind for e in found)
    ]
    hashes = [entry["vllmHash"] for entry in found]
    trees = {_tree(file.path) for file in manifest.files} - {None}
    cache_dir = key.paths.get("cacheDir", "")
    said = {
        "cache.vllm.image/entry-count": str(len(found)),
        "cache.vllm.image/cache-size-bytes": str(sum(_sizes(manifest).values())),
        "cache.vllm.image/summary": _summary(key.accelerator),
        "cache.vllm.image/format": ",".join(formats) or "unpacked",
        f"{_MOUNTED}framework": "vllm",
        f"{_MOUNTED}cache-type": "torch-compile",
        f"{_MOUNTED}cache-root-env": f"VLLM_CACHE_ROOT={cache_dir}/{VLLM_ROOT}",
        f"{_MOUNTED}cache-mount-subpath": f"{TREE}/{_AOT}" if trees == {_AOT} else TREE,
        f"{_MOUNTED}cache-hash": ",".join(hashes),
        f"{_MOUNTED}cache-mounts": _mounts(cache_dir, manifest),
    }
    return {name: value for name, value in said.items() if value}


def _triton(key: Key, manifest: BundleManifest) -> dict[str, str]:
    kernels = {member_name("triton", f.path).rpartition("/")[0] for f in manifest.files}
    return {
        "cache.triton.image/entry-count": str(len(kernels)),
        "cache.triton.image/cache-size-bytes": str(manifest.bytes),
        "cache.triton.image/summary": _summary(key.accelerator),
    }


def _tree(path: str) -> str | None:
    """Which of vLLM's trees a file is in: the newer one, or that of older versions."""
    parts = path.split("/")
    if parts[:2] != [VLLM_ROOT, TREE]:
        return None
    return _AOT if parts[2:3] == [_AOT] else TREE


def _sizes(manifest: BundleManifest) -> Counter[str]:
    """Bytes by the first name below `io.vllm.cache/`, of what MCV unpacks."""
    sizes: Counter[str] = Counter()
    for file in manifest.files:
        top = member_name("vllm", file.path).removeprefix(PREFIXES["vllm"]).split("/")[0]
        if top not in _NOT_EXTRACTED:
            sizes[top] += file.size
    return sizes


def _summary(accelerator: Accelerator) -> str:
    """What it was compiled for, in MCV's words (TritonGPUInfo): cuda and sm_90, hip and gfx942."""
    version = accelerator.compute_capability
    match accelerator.vendor:
        case "nvidia":
            target = ("cuda", f"sm_{version.replace('.', '')}", 32)
        case "amd":
            target = ("hip", version, 64)
        case "cpu":
            target = ("cpu", accelerator.product, 1)
        case vendor:
            target = (vendor, version or accelerator.product, 0)
    named: dict[str, Any] = dict(zip(("backend", "arch", "warp_size"), target, strict=True))
    if accelerator.vendor == "nvidia" and accelerator.runtime:
        named["cuda_version"] = accelerator.runtime
    return json.dumps({"targets": [named]}, separators=(",", ":"))


def _mounts(cache_dir: str, manifest: BundleManifest) -> str:
    """The caches beside vLLM's own tree, and where each has to lie again: engines note paths."""
    variables = {r.subdirectory: r.variable for r in BUILT_IN["vllm"].roots if r.subdirectory}
    inside = {f.path.split("/")[1] for f in manifest.files if f.path.startswith(f"{VLLM_ROOT}/")}
    mounts = []
    for top in sorted(_sizes(manifest).keys() - {TREE}):
        place = f"{VLLM_ROOT}/{top}" if top in inside else top
        mount: dict[str, Any] = {
            "subPath": top,
            "absPath": f"{cache_dir}/{place}",
            "requiresWritable": True,
        }
        if place in variables:
            mount["env"] = variables[place]
        mounts.append(mount)
    said = json.dumps(mounts, separators=(",", ":"), ensure_ascii=False)
    # Without it MCV restores the first tree, and what is missing is compiled again.
    return said if mounts and len(said.encode()) <= MAX_LABEL_BYTES else ""
