"""What a bundle may be, before anything is made of it: its statement's numbers, its manifest.

The manifest comes from whoever made the bundle, be it a pod that wants its cache published.
"""

from __future__ import annotations

import re
from typing import Final

from pydantic import ValidationError

from modelcache.compilecache.bundles.manifest import MAX_FOREIGN, BundleManifest, manifest_bytes
from modelcache.compilecache.bundles.members import FOREIGN_MEMBERS, member_name
from modelcache.compilecache.bundles.statement import Archive
from modelcache.compilecache.trees.naming import path_trouble, shown
from modelcache.compilecache.trees.scanning import Limits
from modelcache.errors import BrokenBundle

MAX_ARCHIVE_BYTES: Final = 16 * 1024**3
MAX_MANIFEST_BYTES: Final = 64 * 1024**2
"""200,000 files with names of usual length need less."""
MANIFEST_BYTES_A_FILE: Final = 320
"""On the average, of as many files as there may be: who permits fewer has less memory for them."""
MAX_FOREIGN_BYTES: Final = 16 * 1024**2
RESERVED: Final = ".modelcache-"
"""Names at the top of a cache directory that begin so are this program's own: what was seeded is
noted there."""
_ENTRY: Final = (
    rb'\{"mode":(?:420|493),"mtime":\d{1,19}+,"path":"(?:[^"\\]|\\.)*+",'
    rb'"sha256":"[0-9a-f]{64}","size":\d{1,16}+\}'
)
_LIST: Final = rb"\[(?:%b(?:,%b)*+)?\]" % (_ENTRY, _ENTRY)
_MANIFEST: Final = re.compile(
    rb'\{"apiVersion":"modelcache\.dev/v1alpha1","files":%b,"foreign":%b,'
    rb'"kind":"CompileBundleManifest","layout":"[a-z]{1,16}"\}' % (_LIST, _LIST)
)
"""Its repeats are possessive: nothing is ever tried twice."""
_MAX_RATIO: Final = 250
_FREE_BYTES: Final = 64 * 1024**2


def check_archive(archive: Archive, limits: Limits) -> None:
    """Check what a statement says of its archive, before a byte of that is read.

    Raises:
        BrokenBundle: it is larger than a bundle may be, or unpacks to so much more that it can
            only be meant to fill a disk: caches shrink to a fifth or a twentieth.
    """
    if archive.size > MAX_ARCHIVE_BYTES:
        raise BrokenBundle(f"the archive has more than {MAX_ARCHIVE_BYTES} bytes: that is refused")
    if archive.files > limits.files:
        raise BrokenBundle(f"the bundle has more than {limits.files} files: that is refused")
    if archive.bytes > limits.bytes:
        raise BrokenBundle(f"the bundle unpacks to more than {limits.bytes} bytes: refused")
    if archive.bytes > archive.size * _MAX_RATIO + _FREE_BYTES:
        raise BrokenBundle(
            f"the bundle says that {archive.size} bytes unpack to {archive.bytes}, which no compile"
            " cache does: refused as a bomb"
        )


def parse_manifest(content: bytes, archive: Archive) -> BundleManifest:
    """Read a manifest's bytes, whoever wrote them.

    That they have the manifest's form is seen first, by what takes no memory: a reader of any JSON
    needs gibibytes for some mebibytes of what is wrong in each place.

    Raises:
        BrokenBundle: they are no manifest, or not written in the canonical form, or have more files
            than the statement says.
    """
    files = content.count(b',"sha256":"')  # in a string its quotes would be escaped
    if files > archive.files + MAX_FOREIGN:
        raise BrokenBundle(
            f"the manifest has {files} files, and the statement says {archive.files}: refused"
        )
    if _MANIFEST.fullmatch(content) is None:
        raise BrokenBundle(
            "the bundle's manifest can't be read, or is not written in the canonical form"
        )
    try:
        manifest = BundleManifest.model_validate_json(
            content, strict=True, by_name=False, by_alias=True
        )
        same = manifest_bytes(manifest) == content
    except (ValueError, RecursionError) as error:
        what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise BrokenBundle(f"the bundle's manifest can't be read: {shown(what)}") from error
    if not same:
        raise BrokenBundle("the bundle's manifest is not written in the canonical form")
    return manifest


def check_manifest(manifest: BundleManifest, archive: Archive, limits: Limits) -> None:
    """Check that a manifest is what the statement says, and every name in it.

    Raises:
        BrokenBundle: naming the first file that is wrong.
    """
    files = manifest.files
    if len(files) != archive.files or manifest.bytes != archive.bytes:
        raise BrokenBundle(
            f"the manifest has {len(files)} files with {manifest.bytes} bytes, and the statement"
            f" says {archive.files} with {archive.bytes}"
        )
    check_names(manifest, limits)
    for file in manifest.foreign:
        if file.path not in FOREIGN_MEMBERS[manifest.layout] or file.size > MAX_FOREIGN_BYTES:
            raise BrokenBundle(
                f"the manifest has {shown(file.path)} for other programs, which is refused"
            )
    if len({file.path for file in manifest.foreign}) != len(manifest.foreign):
        raise BrokenBundle("the manifest has a file for other programs twice")


def check_names(manifest: BundleManifest, limits: Limits) -> None:
    """Check the names of all files: each leads below the directory, to a place of its own.

    Raises:
        BrokenBundle
    """
    before = ""
    folders: set[str] = set()
    names: set[str] = set()
    for file in manifest.files:
        path = file.path
        if (trouble := path_trouble(path)) is not None:
            raise _refused(path, trouble)
        if path.startswith(RESERVED):
            raise _refused(path, f"begins with {RESERVED}, which is kept for this program")
        if path.count("/") > limits.depth:
            raise _refused(path, f"lies more than {limits.depth} directories deep")
        if path <= before:
            raise _refused(path, "is there twice, or out of order")
        before = path
        parent = path.rpartition("/")[0]
        while parent and parent not in folders:
            folders.add(parent)
            parent = parent.rpartition("/")[0]
        names.add(member_name(manifest.layout, path))
    if len(folders) > limits.files:
        raise BrokenBundle(f"the manifest has more than {limits.files} directories")
    both = next((file.path for file in manifest.files if file.path in folders), None)
    if both is not None:
        raise _refused(both, "is a file, and also a directory of others")
    if len(names) != len(manifest.files):
        raise BrokenBundle("the manifest has two files of one name in the archive")


def _refused(path: str, why: str) -> BrokenBundle:
    return BrokenBundle(f"the manifest has the file {shown(path)!r}, whose name {why}: refused")
