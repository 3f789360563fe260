"""The hub view: a model in the shape that `huggingface_hub` finds in `HF_HUB_CACHE`.

`blobs/<etag>`, `snapshots/<commit>/…` linking to them, `refs/<branch>`, and `trees/<commit>.json`,
the listing by which huggingface_hub 2 knows a snapshot to be whole. A commit has one place there,
so of two snapshots of a model that select different files of one commit only one has it: the one
that is shown. The listing says which.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from modelcache.api import HubIdentity, Manifest, ManifestFile
from modelcache.store.blobs import Blobs
from modelcache.store.durable import Durable
from modelcache.store.layout import Layout
from modelcache.store.notes import read_note
from modelcache.store.paths import children, relative_path
from modelcache.store.views import Staging

_SHA256_DIGITS: Final = 64
_MOST_ETAG: Final = 128
_MOST_REF_BYTES: Final = 4096


def hub_folder(layout: Layout, name: str, hub: HubIdentity) -> Path:
    """The repository's folder in a model's hub cache."""
    return layout.hub(name) / f"models--{hub.repository.replace('/', '--')}"


def hub_snapshot(layout: Layout, manifest: Manifest) -> Path:
    """The snapshot's folder, which may be there or not."""
    assert manifest.hub is not None
    return hub_folder(layout, manifest.model, manifest.hub) / "snapshots" / manifest.hub.commit


def same_commit(one: Manifest, other: Manifest) -> bool:
    """Whether two manifests of one model have one place in its hub view."""
    return (
        one.hub is not None
        and other.hub is not None
        and (one.hub.repository, one.hub.commit) == (other.hub.repository, other.hub.commit)
    )


def build_hub_view(
    layout: Layout, blobs: Blobs, durable: Durable, staging: Staging, manifest: Manifest
) -> None:
    """Put the hub view of a manifest in place, all but its refs.

    Raises:
        FileNotFoundError: a blob is missing.
    """
    hub = manifest.hub
    assert hub is not None
    folder = hub_folder(layout, manifest.model, hub)
    for part in ("blobs", "refs", "snapshots", "trees"):
        durable.make_directory(folder / part)
    snapshot = staging.folder / "hub"
    snapshot.mkdir()
    for file in manifest.files:
        _link_hub_blob(folder, blobs, durable, file)
        place = snapshot / relative_path(file.origin_path)
        place.parent.mkdir(parents=True, exist_ok=True)
        ups = "../" * (2 + file.origin_path.count("/"))
        os.symlink(f"{ups}blobs/{hub_blob_name(file)}", place)
    for parent, _, _ in os.walk(snapshot):
        os.chmod(parent, 0o755)  # noqa: S103 - pods of any user read the views
    durable.sync_directory(folder / "blobs")
    durable.sync_tree(snapshot)
    listing = folder / "trees" / f"{hub.commit}.json"
    if not has_hub_view(layout, manifest):
        # The other selection's list must not be held against these files. With none,
        # huggingface_hub takes them as they are.
        durable.unlink(listing)
    durable.put_directory(snapshot, folder / "snapshots" / hub.commit)
    durable.write_file(listing, _listing(manifest), mode=0o444)


def _listing(manifest: Manifest) -> bytes:
    """The tree listing as huggingface_hub writes it (its `_tree_cache.py`, format 1).

    It lists what was selected and no more, so that a view is whole by its own list. With it, an
    offline `snapshot_download` notices a file that is missing, and an online one for this commit
    asks the Hub nothing. What else the commit has stands under a key of our own: for a cache that
    may be completed (`modelcache link`).
    """
    hub = manifest.hub
    assert hub is not None
    files = {f.origin_path: _entry(f.size, hub_blob_name(f)) for f in manifest.files}
    content = _listing_head(manifest) + json.dumps(files, indent=1).encode()
    if hub.left_out is not None:
        others = {file.path: _entry(file.size, file.blob) for file in hub.left_out}
        content += b', "modelcache_left_out": ' + json.dumps(others, indent=1).encode()
    return content + b"}\n"


def _entry(size: int, blob: str) -> dict[str, str | int]:
    entry: dict[str, str | int] = {"size": size, "blob_id": blob}
    if len(blob) == _SHA256_DIGITS:
        entry |= {"lfs_sha256": blob, "lfs_size": size}
    return entry


def _listing_head(manifest: Manifest) -> bytes:
    """How the listing begins: huggingface_hub reads over a key that it doesn't know."""
    return b'{"format_version": 1, "modelcache_snapshot": "%s", "files": ' % (
        manifest.snapshot.encode()
    )


def has_hub_view(layout: Layout, manifest: Manifest) -> bool:
    """Whether the hub view of its commit is this manifest's. True where it needs none."""
    hub = manifest.hub
    if hub is None:
        return True
    head = _listing_head(manifest)
    listing = hub_folder(layout, manifest.model, hub) / "trees" / f"{hub.commit}.json"
    try:
        begins = read_note(listing, len(head), beginning=True)
        return begins == head and hub_snapshot(layout, manifest).is_dir()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False


def link_hub_view(layout: Layout, blobs: Blobs, durable: Durable, manifest: Manifest) -> None:
    """Let what a manifest has in its hub view be its blobs themselves, and no copies of them.

    Raises:
        FileNotFoundError: a blob is missing, or the view.
    """
    if manifest.hub is None:
        return
    folder = hub_folder(layout, manifest.model, manifest.hub)
    for file in manifest.files:
        _link_hub_blob(folder, blobs, durable, file)
    durable.sync_directory(folder / "blobs")


def _link_hub_blob(folder: Path, blobs: Blobs, durable: Durable, file: ManifestFile) -> None:
    target = folder / "blobs" / hub_blob_name(file)
    source = blobs.path(file.sha256)
    try:
        if os.path.samestat(target.lstat(), source.lstat()):
            return
    except FileNotFoundError:
        blobs.link(file.sha256, target)
        return
    # Another file, healed since: swapped in one step, as a pod may be about to open it.
    temporary = durable.temporary()
    blobs.link(file.sha256, temporary)
    os.rename(temporary, target)


def hub_blob_name(file: ManifestFile) -> str:
    """The name of a file's content in the hub view: what the Hub says its ETag is."""
    etag = file.etag or ""
    return etag if etag.isalnum() and etag.isascii() and len(etag) <= _MOST_ETAG else file.sha256


def write_refs(layout: Layout, durable: Durable, manifest: Manifest) -> None:
    """Let the branches lead to the manifest's commit: in a hub view, this is what publishes."""
    hub = manifest.hub
    if hub is None:
        return
    refs = hub_folder(layout, manifest.model, hub) / "refs"
    for ref in hub.refs:
        path = refs / relative_path(ref)
        if not _leads_to(path, hub.commit):
            durable.make_directory(path.parent)
            durable.write_file(path, hub.commit.encode())


def refs_lead_to(layout: Layout, manifest: Manifest) -> bool:
    """Whether `write_refs` has nothing to do."""
    hub = manifest.hub
    if hub is None:
        return True
    refs = hub_folder(layout, manifest.model, hub) / "refs"
    try:
        return all(_leads_to(refs / relative_path(ref), hub.commit) for ref in hub.refs)
    except NotADirectoryError:
        return False


def _leads_to(ref: Path, commit: str) -> bool:
    try:
        return read_note(ref, _MOST_REF_BYTES) == commit.encode()
    except (FileNotFoundError, ValueError):
        return False  # where it is no file it is written anew


def heir_of_hub_view(
    layout: Layout, manifest: Manifest, others: Sequence[Manifest]
) -> Manifest | None:
    """The newest other selection of a commit, when the commit's place is this manifest's."""
    same = [other for other in others if same_commit(other, manifest)]
    return same[-1] if same and not any(has_hub_view(layout, other) for other in same) else None


def leave_hub_view(
    layout: Layout, durable: Durable, manifest: Manifest, others: Sequence[Manifest]
) -> None:
    """Take away of a hub view what none of the model's other manifests has."""
    hub = manifest.hub
    if hub is None:
        return
    folder = hub_folder(layout, manifest.model, hub)
    if not any(same_commit(other, manifest) for other in others):
        remove_hub_snapshot(durable, folder, hub.commit)
    owners = [m for m in others if m.hub and m.hub.repository == hub.repository]
    prune_hub(durable, folder, {hub_blob_name(file) for m in owners for file in m.files})


def remove_refs(durable: Durable, folder: Path, commit: str) -> None:
    """Let no branch of a repository's folder lead to a commit any more."""
    for path in list(_files(folder / "refs")):
        if _leads_to(path, commit):
            durable.unlink(path)


def remove_hub_snapshot(durable: Durable, folder: Path, commit: str) -> None:
    """Take a commit away from a repository's folder. Its blobs stay for `prune_hub`."""
    remove_refs(durable, folder, commit)
    durable.remove_tree(folder / "snapshots" / commit)
    durable.unlink(folder / "trees" / f"{commit}.json")


def prune_hub(durable: Durable, folder: Path, keep: set[str]) -> None:
    """Remove a repository's blobs but those in `keep`; without a snapshot the folder goes."""
    if not any(children(folder / "snapshots")):
        durable.remove_tree(folder)
        durable.remove_if_empty(folder.parent)
        return
    for path in children(folder / "blobs"):
        if path.name not in keep:
            path.unlink(missing_ok=True)


def _files(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        for name in names:
            yield Path(parent) / name
