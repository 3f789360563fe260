"""What lies below the root and is not ours. It is never deleted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from modelcache.api.meta import NAME_PATTERN
from modelcache.store.layout import OURS, Layout
from modelcache.store.paths import children

_SNAPSHOT: Final = re.compile(r"[0-9a-f]{12,64}(-[0-9a-f]{8})?")
_FILE_SYSTEMS_OWN: Final = ("lost+found",)
_HUB_CLIENTS: Final = (".locks", "CACHEDIR.TAG")
"""What clients make beside their models where they may write."""


def is_ours(path: Path) -> bool:
    """Whether something in a model's own directory, of plain views or of its hub view, has a name
    that we give."""
    name = path.name
    hubs = name.startswith("models--") or name in _HUB_CLIENTS
    return hubs or _SNAPSHOT.fullmatch(name) is not None


def is_snapshot(name: str) -> bool:
    """Whether a directory of plain views gets such a name."""
    return _SNAPSHOT.fullmatch(name) is not None


def foreign(layout: Layout) -> Iterator[str]:
    """Names below the root, relative to it, that are not ours: in the root, among the models, in
    their directories, and among the blobs. What lies within a view goes with the view."""
    known = (*OURS, layout.marker.name, *_FILE_SYSTEMS_OWN)
    for path in children(layout.root):
        if path.name not in known:
            yield path.name
    for folder in (layout.root / "models", layout.root / "hub"):
        for model in children(folder):
            if not re.fullmatch(NAME_PATTERN, model.name) or not model.is_dir():
                yield f"{folder.name}/{model.name}"
                continue
            for path in children(model):
                if not is_ours(path) and path.name != "current":
                    yield f"{folder.name}/{model.name}/{path.name}"
    for folder in children(layout.blobs):
        for path in children(folder):
            if not re.fullmatch(r"[0-9a-f]{64}", path.name):
                yield f"blobs/sha256/{folder.name}/{path.name}"
