"""What GKM's MCV wants to find in an archive beside the files: its own manifest of the entries.

It is made of the files' names alone, and says what MCV's own says of such a cache: which hashes, in
which of its formats, for which ranks (mcv/pkg/cache: types.go, vllm.go, triton.go). What MCV takes
out of `cache_key_factors.json`, environment included, is left out: it may be secret.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from hashlib import sha256
from typing import Any, Final

from modelcache.compilecache.bundles.manifest import BundleFile, BundleManifest
from modelcache.compilecache.bundles.members import FOREIGN_MEMBERS

_RANK: Final = re.compile(r"rank_\d+_\d+")
_TREE: Final = "torch_compile_cache"
_AOT: Final = "torch_aot_compile"


def foreign_files(manifest: BundleManifest) -> tuple[tuple[BundleFile, bytes], ...]:
    """The members for other programs, each with its content."""
    if manifest.layout == "plain":
        return ()
    document = {"vllm": entries(manifest)} if manifest.layout == "vllm" else {"triton": []}
    content = json.dumps(document, indent=2, sort_keys=True).encode()
    (path,) = FOREIGN_MEMBERS[manifest.layout]
    file = BundleFile(path=path, size=len(content), sha256=sha256(content).hexdigest())
    return ((file, content),)


def entries(manifest: BundleManifest) -> list[dict[str, Any]]:
    """MCV's entries of a vLLM cache, one for each of vLLM's hashes."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    artifacts: dict[tuple[str, str, str], dict[str, str]] = defaultdict(dict)
    triton: set[str] = set()
    for file in manifest.files:
        parts = file.path.removeprefix("vllm/").split("/")
        if parts[0] == _TREE and parts[1:2] != [_AOT] and len(parts) > 2:
            _note_tree(parts[1:], artifacts, triton)
            continue
        aot = parts[2:] if parts[:2] == [_TREE, _AOT] else parts[1:] if parts[0] == _AOT else []
        if len(aot) == 3 and _RANK.fullmatch(aot[1]) and aot[2] == "model":
            found[aot[0], "binary"].append(
                {
                    "rank": aot[1],
                    "prefix": "",
                    "artifact_count": 1,
                    "artifact_names": ["model"],
                    "cache_save_format": "mega-aot",
                }
            )
    for (name, rank, prefix), kinds in sorted(artifacts.items()):
        found[name, "binary"].append(
            {
                "rank": rank,
                "prefix": prefix,
                "artifact_count": len(kinds),
                "artifact_names": sorted(kinds),
                "cache_save_format": kinds[min(kinds)],
            }
        )
    for name in triton - {name for name, _ in found}:
        found[name, "triton"] = []
    return [
        {"vllmHash": name, "cacheFormat": kind, **({kind: items} if items else {})}
        for (name, kind), items in sorted(found.items())
    ]


def _note_tree(
    parts: list[str], artifacts: dict[tuple[str, str, str], dict[str, str]], triton: set[str]
) -> None:
    """A file of the JIT tree: <hash>/rank_0_0/<prefix>/artifact_… or …/triton_cache/…"""
    if "triton_cache" in parts:
        triton.add(parts[0])
    if len(parts) >= 4 and _RANK.fullmatch(parts[1]) and parts[3].startswith("artifact_"):
        kind = "binary" if len(parts) == 4 else "unpacked"
        artifacts[parts[0], parts[1], parts[2]][parts[3]] = kind
