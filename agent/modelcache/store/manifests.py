"""Manifests on the disk: what is there, and what content is known."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Final

import structlog

from modelcache.api import HubFile, HubIdentity, Manifest, ManifestFile
from modelcache.api.meta import ApiModel
from modelcache.errors import UnsafePath
from modelcache.store.durable import Durable
from modelcache.store.layout import Layout
from modelcache.store.notes import ANY_SHAPE, parsed, read_note
from modelcache.store.paths import children, relative_path

MOST_BYTES: Final = 512 * 1024 * 1024
"""Of a manifest: a million files."""
_LARGE_BYTES: Final = 256 * 1024

log = structlog.get_logger(__name__)


class Manifests:
    """All manifests of a root. Read again only where a file changed. Safe for threads."""

    def __init__(self, layout: Layout, durable: Durable) -> None:
        self._layout = layout
        self._durable = durable
        self._read: dict[Path, tuple[tuple[int, int, int], Manifest | None]] = {}
        self._mutex = threading.Lock()

    def all(self) -> list[Manifest]:
        """Every manifest that is there now, oldest first."""
        with self._mutex:
            self._read = seen = self._look()
        manifests = [manifest for _, manifest in seen.values() if manifest is not None]
        return sorted(manifests, key=lambda m: (m.created_at, m.model, m.snapshot))

    def _look(self) -> dict[Path, tuple[tuple[int, int, int], Manifest | None]]:
        seen: dict[Path, tuple[tuple[int, int, int], Manifest | None]] = {}
        folders = children(self._layout.manifests)
        for path in (path for folder in folders for path in children(folder)):
            if path.suffix != ".json":
                continue
            try:
                found = path.stat()
            except FileNotFoundError:
                continue
            stamp = (found.st_ino, found.st_size, found.st_mtime_ns)
            known = self._read.get(path)
            seen[path] = known if known and known[0] == stamp else (stamp, _load(path))
        return seen

    def of_model(self, model: str) -> list[Manifest]:
        """Those of one model, oldest first."""
        return [manifest for manifest in self.all() if manifest.model == model]

    def write(self, manifest: Manifest) -> None:
        """Commit: from here on the snapshot is shown."""
        path = self._layout.manifest(manifest.model, manifest.snapshot)
        self._durable.make_directory(path.parent)
        content = json.dumps(manifest.to_document(), indent=1).encode() + b"\n"
        self._durable.write_file(path, content)

    def remove(self, model: str, snapshot: str) -> None:
        """Take a snapshot back: from here on nothing shows it."""
        path = self._layout.manifest(model, snapshot)
        self._durable.unlink(path)
        self._durable.remove_if_empty(path.parent)

    def current(self, model: str) -> str | None:
        """The snapshot that `current` leads to."""
        try:
            return self._layout.current(model).readlink().name
        except OSError:
            return None

    def shown(self, manifests: Iterable[Manifest]) -> dict[str, Manifest]:
        """Of all manifests those that `current` leads to, by the model's name."""
        found = {(m.model, m.snapshot): m for m in manifests}
        models = {model for model, _ in found}
        current = {model: self.current(model) for model in models}
        return {m: found[m, s] for m, s in current.items() if s is not None and (m, s) in found}

    def is_there(self, model: str, snapshot: str) -> bool:
        """Whether there is a manifest file, readable by this version or not."""
        return self._layout.manifest(model, snapshot).exists()

    def names(self, model: str) -> list[str]:
        """The snapshots that a model has manifest files of, readable by this version or not."""
        found = children(self._layout.manifests / model)
        return [path.stem for path in found if path.suffix == ".json"]

    def count(self, model: str) -> int:
        """How many manifest files a model has, readable by this version or not."""
        return len(self.names(model))


def _load(path: Path) -> Manifest | None:
    try:
        content = read_note(path, MOST_BYTES)
        _check_keys(content)
        manifest = Manifest.model_validate_json(content)
        _check_paths(manifest)
    except FileNotFoundError:
        return None
    except (*ANY_SHAPE, UnsafePath, OSError) as error:
        # Without it the content counts as not there and is linked again from blobs that are.
        log.warning("manifest.unreadable", path=str(path), message=str(error).splitlines()[0])
        return None
    if (manifest.model, f"{manifest.snapshot}.json") != (path.parent.name, path.name):
        log.warning("manifest.misplaced", path=str(path), model=manifest.model)
        return None
    return manifest


def _check_keys(content: bytes) -> None:
    """pydantic tells of each thing that is wrong, in a kibibyte or more: a large document has only
    fields that are known, and texts where any name may stand.

    Raises:
        ValueError, TypeError, AttributeError: it is no manifest.
    """
    if len(content) <= _LARGE_BYTES:
        return
    document = parsed(content)
    files = document.get("files", ())
    hub = document.get("hub") or {}
    others = hub.get("left_out", hub.get("leftOut")) or ()
    unknown = (
        document.keys() - _names(Manifest)
        or hub.keys() - _names(HubIdentity)
        or any(file.keys() - _names(ManifestFile) for file in files)
        or any(file.keys() - _names(HubFile) for file in others)
    )
    sums = (file.get("checksums", {}).values() for file in files)
    if unknown or not all(isinstance(each, str) for each in chain.from_iterable(sums)):
        raise ValueError("it has fields that this version doesn't know")


@cache
def _names(kind: type[ApiModel]) -> frozenset[str]:
    fields = kind.model_fields.items()
    return frozenset(name for field in fields for name in (field[0], field[1].alias) if name)


def _check_paths(manifest: Manifest) -> None:
    """Nobody who reads a manifest is led out of the root by it."""
    for file in manifest.files:
        relative_path(file.path)
        if manifest.hub is not None:
            relative_path(file.origin_path)
    if manifest.hub is not None:
        relative_path(f"models--{manifest.hub.repository.replace('/', '--')}")
        for ref in manifest.hub.refs:
            relative_path(ref)
