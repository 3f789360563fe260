"""Where everything lies below the root.

layout.json                    version of this layout, id of the cache
ingest/<blob key>/             partial files with their journals, resumed after a crash
ingest/{scratch,staging,receipts,listings,needs,reservations}
ingest/quarantine/<digest>/    blobs that are not what they were
ingest/scrubbed                when each blob was last read back
ingest/home                    which place and machine the root was last seen in by an agent
ingest/unproven                which blobs came with a copied root, and were not read back since
blobs/sha256/ab/<digest>       immutable content, mode 0444
models/<name>/<snapshot>/      plain views: hard links to blobs
models/<name>/current          symlink to the ready snapshot
hub/<name>/models--org--repo/  Hugging Face hub views
manifests/<name>/<snapshot>.json
compile/<name>/<key>/<digest>/ bundles of compile caches: the archive is a hard link to a blob
compile/<name>/current         symlink to the bundle that the next start is seeded from
compile/<name>/marks/<digest>.json
keys/                          this machine's own signing key, readable by its owner alone
leases/<id>.json               who holds a model, and until when
use/shown/<name>.json          what `current` led to, since when
use/last.json                  when what was last used
use/fetched.json               what fetches had cost, and what was evicted in the last day
node.json                      what this node reports
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from pathlib import Path

from modelcache.errors import StoreDamaged
from modelcache.store.durable import Durable
from modelcache.store.notes import ANY_SHAPE, parsed, read_note

LAYOUT_VERSION = 1
_MOST_BYTES = 4096
OURS = (
    *("ingest", "blobs", "models", "hub", "manifests", "compile", "keys", "leases", "use"),
    "node.json",
)
_MADE_BY_KUBELET = ("models", "hub", "compile")


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths below one root."""

    root: Path

    @property
    def lock(self) -> Path:
        """Held by who changes what is shown."""
        return self.root / "ingest" / "lock"

    @property
    def marker(self) -> Path:
        """The file that tells a cache from any other directory."""
        return self.root / "layout.json"

    @property
    def ingest(self) -> Path:
        """Everything that is not yet whole."""
        return self.root / "ingest"

    @property
    def scratch(self) -> Path:
        """Names that nobody is to see yet; may be emptied at any start."""
        return self.ingest / "scratch"

    @property
    def agents(self) -> Path:
        """A lock file for each agent that is at work on the root."""
        return self.ingest / "agents"

    @property
    def staging(self) -> Path:
        """Views being built."""
        return self.ingest / "staging"

    @property
    def receipts(self) -> Path:
        """What was fetched for revisions that have no manifest yet."""
        return self.ingest / "receipts"

    @property
    def listings(self) -> Path:
        """What was found in archives."""
        return self.ingest / "listings"

    @property
    def needs(self) -> Path:
        """Which archives are of use for fetches in progress."""
        return self.ingest / "needs"

    @property
    def reservations(self) -> Path:
        """Space promised to fetches in progress."""
        return self.ingest / "reservations"

    @property
    def partials(self) -> Path:
        """Partial files, a directory each."""
        return self.ingest / "partial"

    @property
    def quarantine(self) -> Path:
        """Blobs that are not what they were; made with the first."""
        return self.ingest / "quarantine"

    @property
    def scrub_log(self) -> Path:
        """When each blob was last read back."""
        return self.ingest / "scrubbed"

    @property
    def home(self) -> Path:
        """Where an agent has last seen this root."""
        return self.ingest / "home"

    @property
    def unproven(self) -> Path:
        """Which blobs came with a copied root, and were not read back since."""
        return self.ingest / "unproven"

    @property
    def blobs(self) -> Path:
        """Content by SHA-256."""
        return self.root / "blobs" / "sha256"

    @property
    def manifests(self) -> Path:
        """Manifests, a directory for each model."""
        return self.root / "manifests"

    @property
    def node_report(self) -> Path:
        """What this node reports."""
        return self.root / "node.json"

    @property
    def compile(self) -> Path:
        """Bundles of compile caches, a directory for each cache."""
        return self.root / "compile"

    @property
    def compile_lock(self) -> Path:
        """Held by who changes which bundles there are."""
        return self.root / "ingest" / "compile.lock"

    @property
    def captures(self) -> Path:
        """Compile caches being captured; made by who captures, and cleaned by the next."""
        return self.ingest / "captures"

    @property
    def keys(self) -> Path:
        """This machine's own signing key."""
        return self.root / "keys"

    @property
    def leases(self) -> Path:
        """Who holds which model; made with the first lease."""
        return self.root / "leases"

    @property
    def last_use(self) -> Path:
        """When which snapshot was last used."""
        return self.root / "use" / "last.json"

    @property
    def fetch_log(self) -> Path:
        """What fetches had cost, and what was evicted lately."""
        return self.root / "use" / "fetched.json"

    def shown_log(self, name: str) -> Path:
        """What a model's `current` led to, since when."""
        return self.shown_logs / f"{name}.json"

    @property
    def shown_logs(self) -> Path:
        """The folder of these."""
        return self.root / "use" / "shown"

    def compile_cache(self, name: str) -> Path:
        """One compile cache: what pods mount."""
        return self.compile / name

    def compile_bundle(self, name: str, key: str, digest: str) -> Path:
        """One bundle's directory; key and digest are 64 hex digits each, and were validated."""
        return self.compile_cache(name) / key / digest

    def compile_current(self, name: str) -> Path:
        """The symlink to the bundle that the next start is seeded from."""
        return self.compile_cache(name) / "current"

    def compile_last_start(self, name: str) -> Path:
        """How the last start went that this machine itself ran."""
        return self.compile_cache(name) / "last-start.json"

    def compile_mark(self, name: str, digest: str) -> Path:
        """What starts have told of a bundle."""
        return self.compile_cache(name) / "marks" / f"{digest}.json"

    def blob(self, digest: str) -> Path:
        """One blob. The digest has been validated."""
        return self.blobs / digest[:2] / digest

    def model(self, name: str) -> Path:
        """A model's plain views."""
        return self.root / "models" / name

    def view(self, name: str, snapshot: str) -> Path:
        """One plain view."""
        return self.model(name) / snapshot

    def current(self, name: str) -> Path:
        """The symlink to the ready snapshot."""
        return self.model(name) / "current"

    def hub(self, name: str) -> Path:
        """A model's own hub cache: what HF_HUB_CACHE is set to."""
        return self.root / "hub" / name

    def manifest(self, name: str, snapshot: str) -> Path:
        """One manifest."""
        return self.manifests / name / f"{snapshot}.json"


def open_layout(root: Path, durable: Durable | None = None) -> Layout:
    """Find or make a cache at `root`.

    An empty or missing directory becomes a cache; one with other content as well, as long as none
    of it has a name that the cache uses; empty `models` and `hub` are no content. Nothing that is
    there is changed.

    Raises:
        StoreDamaged: it can't be used, with what to do.
    """
    layout = Layout(Path(root).absolute())
    durable = durable or Durable(layout.scratch)
    try:
        taken = [name for name in OURS if _is_taken(layout.root / name)]
        # Looked for after the rest: another process may be making the cache at this moment.
        if layout.marker.exists():
            check_version(layout)
        # An `ingest` alone is what a crash before the marker was written leaves.
        elif [name for name in taken if name != "ingest"]:
            raise StoreDamaged(
                f"{layout.root} has {', '.join(taken)} in it but no layout.json, so it is not a"
                " cache of ours: give --root an empty directory"
            )
        else:
            durable.make_directory(layout.scratch)
            marker = {"version": LAYOUT_VERSION, "id": str(uuid.uuid4())}
            durable.write_file(layout.marker, json.dumps(marker).encode() + b"\n")
        folders = (
            layout.scratch,
            layout.staging,
            layout.receipts,
            layout.listings,
            layout.needs,
            layout.reservations,
            layout.partials,
            layout.blobs,
            layout.root / "models",
            layout.root / "hub",
            layout.manifests,
            layout.compile,
        )
        for folder in folders:
            durable.make_directory(folder)
        devices = {folder.stat().st_dev for folder in (layout.root, *folders)}
    except OSError as error:
        what = f"{layout.root} can't be used as the cache's root: {error.strerror or error}"
        if isinstance(error, PermissionError):
            what += "; give --root a directory that this user may write to"
        raise StoreDamaged(what) from error
    if len(devices) > 1:
        raise StoreDamaged(f"{layout.root} spans several file systems: the cache needs one")
    return layout


def _is_taken(path: Path) -> bool:
    # kubelet makes what a pod mounts, before any agent ran; prepare-root, so that it needn't.
    if path.name in _MADE_BY_KUBELET and path.is_dir() and not path.is_symlink():
        if path.name != "compile":
            return any(path.iterdir())
        # A pod mounts one compile cache's directory.
        return any(_has_content(child) for child in path.iterdir())
    return path.exists()


def _has_content(path: Path) -> bool:
    return path.is_symlink() or not path.is_dir() or any(path.iterdir())


def check_version(layout: Layout) -> None:
    """Refuse what a newer program has written.

    Raises:
        StoreDamaged
    """
    try:
        version = parsed(read_note(layout.marker, _MOST_BYTES))["version"]
    except ANY_SHAPE as error:
        raise StoreDamaged(f"{layout.marker} can't be read as JSON with a version") from error
    if version != LAYOUT_VERSION:
        raise StoreDamaged(
            f"{layout.root} has layout version {version!r}; this program writes {LAYOUT_VERSION}."
            " Use the version that wrote it, or another root"
        )
