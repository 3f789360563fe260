"""Caches of engines, as far as their files' names and contents matter, on a real disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from modelcache.compilecache.engines.table import BUILT_IN
from modelcache.compilecache.trees.scanning import Tree, scan

JIT: Final = "0d42d4420e"
AOT: Final = "4a" * 32
BACKBONE: Final = f"vllm/torch_compile_cache/{JIT}/rank_0_0/backbone"
ARTIFACT: Final = "artifact_compile_range_(1, 8192)_subgraph_0"
FACTORS: Final[dict[str, Any]] = {
    "env": {"VLLM_USE_V1": True, "VLLM_API_KEY": "secret-of-the-user", "VLLM_HOST_IP": "10.0.0.7"},
    "config_hash": "aaaa",
    "code_hash": "bbbb",
    "compiler_hash": "cccc",
}


def put(root: Path, path: str, content: str = "x") -> Path:
    """Write a file and the directories above it."""
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    return file


def put_jit(root: Path, *, rank: str = "rank_0_0", noted: Path | None = None) -> None:
    """vLLM's tree A of one rank, as 0.14 to 0.24 write it; `noted`: where the index says it is."""
    backbone = BACKBONE.replace("rank_0_0", rank)
    handle = (ARTIFACT, f"{noted or root}/{backbone}/{ARTIFACT}")
    put(root, f"{backbone}/{ARTIFACT}")
    put(root, f"{backbone}/vllm_compile_cache.py", f"{{((1, 8192), 0, 'inductor'): {handle!r}}}")
    put(root, f"{backbone}/computation_graph.py", "# graph")
    put(root, f"{backbone}/cache_key_factors.json", json.dumps(FACTORS))


def put_aot(root: Path, *ranks: str) -> None:
    """vLLM's tree B, as 0.19 and later write it."""
    for rank in ranks:
        put(root, f"vllm/torch_compile_cache/torch_aot_compile/{AOT}/{rank}/model")


def look(root: Path, engine: str = "vllm") -> Tree:
    """Scan as for a capture."""
    return scan(root, BUILT_IN[engine].wanted)
