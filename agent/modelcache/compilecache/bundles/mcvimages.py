"""Reading an image that GKM's MCV made: its files become a tree as ours are, to be packed, signed.

The image comes as an OCI layout on the disk (`skopeo copy docker://… oci:DIR`). MCV's images have
no signature that this program knows, and no key: whoever brings one in says what it is for, and
signs. Layers are read as those of any stranger's image are (`transfer.tarreading`).
https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, Final

from modelcache.compilecache.bundles.manifest import BundleFile
from modelcache.compilecache.bundles.mcv import TREE, VLLM_ROOT
from modelcache.compilecache.bundles.members import PREFIXES
from modelcache.compilecache.bundles.reading import regular_file
from modelcache.compilecache.bundles.writing import Writer
from modelcache.compilecache.engines.builtin import BUILT_IN
from modelcache.compilecache.trees.naming import path_trouble, shown
from modelcache.compilecache.trees.scanning import Limits
from modelcache.errors import BrokenArchive, BrokenBundle, BrokenContent, NotFound, UnsafePath
from modelcache.origins.ocimanifests import (
    Descriptor,
    ImageManifest,
    Index,
    choose,
    read_document,
)
from modelcache.origins.protocol import Compression
from modelcache.transfer.cancelling import Cancel
from modelcache.transfer.tarreading import Member, TarReader

_MAX_DOCUMENT_BYTES: Final = 4 * 1024 * 1024
_MAX_LAYERS: Final = 16
_READ_BYTES: Final = 1024 * 1024
_OTHER_BYTES: Final = 256 * 1024 * 1024
_COMPRESSIONS: Final[dict[str, Compression]] = {
    "application/vnd.docker.image.rootfs.diff.tar.gzip": "gzip",
    "application/vnd.oci.image.layer.v1.tar+gzip": "gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd": "zstd",
}


@dataclass(frozen=True, slots=True)
class McvImage:
    """What was read."""

    files: int
    bytes: int
    labels: Mapping[str, str]
    cache_dir: str
    """The cache directory at which the engine finds these files as they were captured, as far as
    the labels say it; empty: they don't. It is no other one than that: engines note paths."""


def read_image(
    layout: Path, into: Path, *, limits: Limits | None = None, cancel: Cancel | None = None
) -> McvImage:
    """Read the cache in an image into a new directory, laid out as our cache directories are.

    Args:
        layout: a directory with an OCI layout, of one image, or of one for each architecture.
        into: is made, and gone again after an error.
        limits: the most that is unpacked.

    Raises:
        NotFound: there is no layout, or no image for this machine's architecture.
        BrokenBundle: it is no image of a cache, or has what none may have: links, names that lead
            out, more than the limits.
        InsufficientDisk, Cancelled
        OSError
    """
    limits, cancel = limits or Limits(), cancel or Cancel()
    try:
        manifest = _manifest(layout)
        labels = _labels(layout, manifest)
        if not {"cache.vllm.image/summary", "cache.triton.image/summary"} & labels.keys():
            raise BrokenBundle(f"{layout} has no image of a compile cache: it lacks MCV's labels")
        with Writer(into, None) as writer:
            reading = _Reading(writer, labels, limits, cancel)
            for layer in manifest.layers:
                compression = _COMPRESSIONS.get(layer.media_type)
                if compression is None:
                    raise BrokenBundle(f"a layer of {layout} is {shown(layer.media_type)}: refused")
                with _blob(layout, layer, cancel) as file:
                    reading.layer(file, compression)
    except (BrokenArchive, BrokenContent, UnsafePath) as error:
        raise BrokenBundle(f"{layout} has an image that can't be read: {error}") from error
    return McvImage(reading.files, reading.bytes, labels, _cache_dir(labels))


class _Reading:
    """The layers of one image, into one directory."""

    def __init__(
        self, writer: Writer, labels: Mapping[str, str], limits: Limits, cancel: Cancel
    ) -> None:
        self._writer = writer
        self._limits = limits
        self._cancel = cancel
        self._places = _Places(labels)
        self._now = time.time_ns()
        self._paths: set[str] = set()
        self._folders: set[str] = set()
        self.files = 0
        self.bytes = 0

    def layer(self, file: BinaryIO, compression: Compression) -> None:
        """Read one layer.

        Raises:
            BrokenBundle, BrokenArchive, UnsafePath
        """
        for member in TarReader(
            file, compression, most=self._limits.bytes + _OTHER_BYTES
        ).members():
            self._cancel.check()
            path = self._places.of(member.path)
            if path is None or member.kind == "folder":
                continue
            if member.kind != "file":
                raise BrokenBundle(f"{shown(member.path)} is no regular file: refused")
            self._count(path, member.size)
            self._take(path, member)

    def _count(self, path: str, size: int) -> None:
        """Before a byte is written."""
        limits = self._limits
        trouble = path_trouble(path)
        if trouble is None and path.count("/") > limits.depth:
            trouble = f"lies more than {limits.depth} directories deep"
        parents = ["/".join(path.split("/")[:n]) for n in range(1, path.count("/") + 1)]
        if path in self._paths or path in self._folders or not self._paths.isdisjoint(parents):
            trouble = "is there twice"
        if trouble is not None:
            raise BrokenBundle(f"the image has the file {shown(path)}, which {trouble}: refused")
        self._paths.add(path)
        self._folders.update(parents)
        self.files += 1
        self.bytes += size
        if self.files > limits.files or self.bytes > limits.bytes:
            raise BrokenBundle(
                f"the image has more than {limits.files} files or {limits.bytes} bytes: refused"
            )

    def _take(self, path: str, member: Member) -> None:
        described = BundleFile(path=path, size=member.size, sha256="0" * 64, mtime=self._now)
        buffer = memoryview(bytearray(min(member.size, _READ_BYTES)))
        left = member.size
        with self._writer.file(described) as write:
            while left:
                self._cancel.check()
                view = buffer[: min(left, _READ_BYTES)]
                member.read_into(view)
                write(bytes(view))
                left -= len(view)


class _Places:
    """Where a file of an image lies below a cache directory of ours."""

    def __init__(self, labels: Mapping[str, str]) -> None:
        vllm = BUILT_IN["vllm"]
        variables = {root.variable: root.subdirectory for root in vllm.roots}
        inside = next(root for root in vllm.roots if root.subdirectory == VLLM_ROOT)
        self._tops = {
            select.rstrip("/"): f"{VLLM_ROOT}/{select.rstrip('/')}" for select in inside.select
        }
        self._tops[labels.get("io.kserve.km/cache-mount-subpath", TREE).split("/")[0]] = (
            f"{VLLM_ROOT}/{TREE}"
        )
        for mount in _mounts(labels):
            top, variable = mount.get("subPath"), mount.get("env")
            if isinstance(top, str) and isinstance(variable, str) and variable in variables:
                self._tops.setdefault(top, variables[variable])

    def of(self, name: str) -> str | None:
        """Its path; None: it is no file of the cache."""
        if name.startswith(PREFIXES["triton"]):
            return "triton/" + name.removeprefix(PREFIXES["triton"])
        if not name.startswith(PREFIXES["vllm"]):
            return None
        top, slash, rest = name.removeprefix(PREFIXES["vllm"]).partition("/")
        return self._tops.get(top, top) + slash + rest


def _mounts(labels: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    try:
        mounts = json.loads(labels.get("io.kserve.km/cache-mounts", "[]"))
    except (ValueError, RecursionError):
        return
    for mount in mounts if isinstance(mounts, list) else ():
        if isinstance(mount, dict):
            yield mount


def _cache_dir(labels: Mapping[str, str]) -> str:
    root = labels.get("io.kserve.km/cache-root-env", "").partition("=")[2]
    above, _, name = root.rstrip("/").rpartition("/")
    return above if name == VLLM_ROOT and path_trouble(above.lstrip("/")) is None else ""


def _manifest(layout: Path) -> ImageManifest:
    what = str(layout)
    try:
        index = _document(layout / "index.json")
    except NotFound as error:
        raise NotFound(
            f"{error}: it is no OCI layout, as skopeo copy docker://... oci:{layout} makes it"
        ) from error
    found = read_document(index, "", what)
    for _ in range(2):  # skopeo's index, and one of the platforms
        if isinstance(found, ImageManifest):
            break
        descriptor = _only(found, what)
        with _blob(layout, descriptor, Cancel()) as file:
            found = read_document(file.read(_MAX_DOCUMENT_BYTES), descriptor.media_type, what)
    if not isinstance(found, ImageManifest) or not 0 < len(found.layers) <= _MAX_LAYERS:
        raise BrokenBundle(f"{layout} has no image of at most {_MAX_LAYERS} layers")
    return found


def _only(index: Index, what: str) -> Descriptor:
    if len(index.manifests) == 1:
        return index.manifests[0]
    if not index.manifests:
        raise NotFound(f"{what} has no image in it")
    return choose(index, what)


def _labels(layout: Path, manifest: ImageManifest) -> dict[str, str]:
    with _blob(layout, manifest.config, Cancel()) as file:
        content = file.read(_MAX_DOCUMENT_BYTES)
    try:
        labels = json.loads(content)["config"]["Labels"]
        return {str(name): str(value) for name, value in labels.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _document(path: Path) -> bytes:
    with regular_file(path) as file:
        return file.read(_MAX_DOCUMENT_BYTES)


@contextmanager
def _blob(layout: Path, descriptor: Descriptor, cancel: Cancel) -> Iterator[BinaryIO]:
    """A blob for reading, which is what its digest says."""
    with regular_file(layout / "blobs" / descriptor.digest.replace(":", "/")) as file:
        if os.fstat(file.fileno()).st_size != descriptor.size:
            raise BrokenBundle(
                f"{descriptor.digest} in {layout} hasn't the size that is said of it"
            )
        digest = sha256()
        while block := file.read(_READ_BYTES):
            cancel.check()
            digest.update(block)
        if f"sha256:{digest.hexdigest()}" != descriptor.digest:
            raise BrokenBundle(
                f"{descriptor.digest} in {layout} was changed: its digest is another"
            )
        file.seek(0)
        yield file
