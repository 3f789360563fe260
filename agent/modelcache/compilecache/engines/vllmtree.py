"""vLLM's directories below its cache root, as their paths tell them.

    torch_compile_cache/<10 hex>/rank_<rank>_<dp>/[<prefix>/]…                    (all versions)
    torch_compile_cache/torch_aot_compile/<64 hex>/rank_<rank>_<dp>/model         (from 0.19)
    torch_aot_compile/<64 hex>/rank_<rank>_<dp>/model                             (0.11 to 0.14)

SGLang's first is the same with a name of its own for the index; its rank is always rank_0_0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

INDEXES: Final = ("vllm_compile_cache.py", "sglang_compile_cache.py")
"""The list of a directory's artifacts, a Python literal that is never to be imported."""
GRAPH: Final = "computation_graph.py"
"""Written when all of a rank's graphs are there."""
MODEL: Final = "model"
ARTIFACT: Final = "artifact_"
"""How the names of compiled graphs begin: files, or directories where they are unpacked."""

_RANK: Final = re.compile(
    r"(?P<top>(?:[^/]+/)*?)"
    r"(?:torch_compile_cache/(?P<jit>[0-9a-f]{10})|(?P<at>torch_aot_compile)/(?P<aot>[0-9a-f]{64}))"
    r"/(?P<rank>rank_[0-9]{1,6}_[0-9]{1,6}(?:_dev[0-9]{1,6})?)/(?P<rest>.+)"
)
_OWN: Final = ("inductor_cache", "triton_cache")


@dataclass(slots=True)
class RankDirectory:
    """What one rank has below one of the engine's hashes.

    Attributes:
        path: the directory, relative to the cache directory.
        hash: 10 hex digits, or 64 of an ahead-of-time compiled model.
        rank: `rank_0_0`.
        files: paths below it.
    """

    path: str
    hash: str
    rank: str
    files: set[str] = field(default_factory=set)

    @property
    def is_aot(self) -> bool:
        """Whether it is of an ahead-of-time compiled model."""
        return len(self.hash) == 64

    def parts(self) -> dict[str, set[str]]:
        """The files of each part of a model, by its directory: `backbone/`, ...; empty: the rank's
        own (0.8.5)."""
        found: dict[str, set[str]] = {}
        for path in self.files:
            first, slash, rest = path.partition("/")
            if first in _OWN:
                continue
            if slash and not first.startswith(ARTIFACT):
                found.setdefault(f"{first}/", set()).add(rest)
            else:
                found.setdefault("", set()).add(path)
        return found


def rank_directories(paths: Iterable[str]) -> list[RankDirectory]:
    """The directories of ranks that any of the paths lies in, by path."""
    found: dict[str, RankDirectory] = {}
    for path in paths:
        match = _RANK.fullmatch(path)
        if match is None:
            continue
        rest = match["rest"]
        where = path[: -len(rest) - 1]
        directory = found.setdefault(
            where, RankDirectory(where, match["jit"] or match["aot"], match["rank"])
        )
        directory.files.add(rest)
    return [found[where] for where in sorted(found)]
