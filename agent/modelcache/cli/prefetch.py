"""modelcache prefetch: bring models into the cache now, without a catalog."""

from __future__ import annotations

import math
import re
import signal
import threading
import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Annotated, Final
from urllib.parse import unquote

import typer
from pydantic import ValidationError

from modelcache.api import Manifest, ModelState, Source, SourceURI, parse_uri
from modelcache.api.meta import NAME_MAX
from modelcache.cli.display import Display
from modelcache.cli.options import (
    BandwidthOption,
    CaBundle,
    CapacityOption,
    Connections,
    HostConnections,
    IoPriority,
    KeepFreeOption,
    MirrorsOption,
    OriginBandwidth,
    Output,
    PrivateRedirects,
    Root,
    SecretsDir,
    check_name,
    open_store,
    settings,
)
from modelcache.cli.output import (
    Format,
    human_bytes,
    print_json,
    print_notes,
    print_table,
    reason_of,
)
from modelcache.errors import Cancelled, ModelCacheError, OriginChanged, UsageError
from modelcache.origins import open_origin, spare_metadata
from modelcache.service.logs import configure_logs
from modelcache.service.outfit import outfit
from modelcache.service.progress import ProgressBook
from modelcache.settings import FetchSettings
from modelcache.store import Store
from modelcache.transfer import (
    Cancel,
    ModelFetch,
    ModelFetcher,
    resolve,
)
from modelcache.transfer.events import FetchEnded
from modelcache.transfer.spending import Activity

_CHANGED_TRIES = 3
_END_SECONDS = 3.0


def prefetch(
    uris: Annotated[
        list[str],
        typer.Argument(
            metavar="URI",
            help="hf://org/name[@revision][/path], s3://bucket/prefix, gs://bucket/prefix,"
            " oci://registry/repository[:tag|@digest], https://host/path/file,"
            " https://host/path/SHA256SUMS, file:///path.",
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(
            "--name", metavar="NAME", help="The model's name in the cache (one URI only)."
        ),
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option("--include", metavar="GLOB", help="Wanted files; may be repeated."),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", metavar="GLOB", help="Unwanted files; may be repeated."),
    ] = None,
    allow_unsafe_formats: Annotated[
        bool,
        typer.Option("--allow-unsafe-formats", help="Take files that can run code when loaded."),
    ] = False,
    secret: Annotated[
        str | None,
        typer.Option(
            "--secret", metavar="NAME", help="Secret in --secrets-dir with the credentials."
        ),
    ] = None,
    root: Root = None,
    secrets_dir: SecretsDir = None,
    keep_free: KeepFreeOption = None,
    capacity: CapacityOption = None,
    connections: Connections = None,
    bandwidth: BandwidthOption = None,
    origin_bandwidth: OriginBandwidth = None,
    host_connections: HostConnections = None,
    io_priority: IoPriority = None,
    mirrors: MirrorsOption = None,
    ca_bundle: CaBundle = None,
    private_redirects: PrivateRedirects = None,
    output: Output = Format.TABLE,
) -> int:
    """Fetch models into the cache, verified, and show them."""
    found = settings(
        FetchSettings,
        root=root,
        secrets_dir=secrets_dir,
        keep_free=keep_free,
        capacity=capacity,
        connections=connections,
        bandwidth=bandwidth,
        origin_bandwidth=origin_bandwidth,
        host_connections=host_connections,
        io_priority=io_priority,
        mirrors=mirrors,
        ca_bundle=ca_bundle,
        private_redirects=private_redirects,
    )
    wanted = _wanted(uris, name, include, exclude, allow_unsafe_formats, secret)
    configure_logs(as_json=False, level="error")
    spare_metadata()
    store = open_store(found.root, found.keep_free, found.capacity, create=True)
    fetching = _Fetching(store, found)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: fetching.stop())
    with Display(fetching.book) if output is Format.TABLE else nullcontext():
        fetching.run(wanted)
    first = next(iter(fetching.errors.values()), None)
    if output is Format.JSON:
        print_json("PrefetchResult", {"models": [*map(fetching.plain, wanted)]})
        return first.exit_code if first else 0
    _tell(fetching)
    if first:
        raise first
    return 0


class _Fetching:
    """Fetches several models side by side."""

    def __init__(self, store: Store, found: FetchSettings) -> None:
        self._store = store
        self._cancel = Cancel()
        self.book = ProgressBook()
        self._engine, self._origins = outfit(found, store.layout.root, file_roots=None)
        self._fetcher = ModelFetcher(store, self._engine, self.book)
        self.manifests: dict[str, Manifest] = {}
        self.errors: dict[str, ModelCacheError] = {}

    def stop(self) -> None:
        """End soon; what was fetched is kept."""
        threading.Thread(target=self._cancel.set, daemon=True).start()

    def run(self, wanted: dict[str, Source]) -> None:
        """Fetch all; what fails is in `errors`, in the order of the command line."""
        threads = [
            threading.Thread(target=self._one, args=(name, source), daemon=True)
            for name, source in wanted.items()
        ]
        for thread in threads:
            thread.start()
        give_up = math.inf
        while any(thread.is_alive() for thread in threads) and time.monotonic() < give_up:
            time.sleep(0.05)  # short: signals are handled in between
            if self._cancel.is_set():
                give_up = min(give_up, time.monotonic() + _END_SECONDS)
        self._engine.close()
        for name in wanted:
            if name not in self.manifests:  # it hangs where it can't be stopped
                self.errors.setdefault(name, Cancelled("stopped on request"))
        self.errors = {name: self.errors[name] for name in wanted if name in self.errors}

    def plain(self, name: str) -> dict[str, object]:
        """What became of a model, as JSON has it."""
        ended = self.book.ended(name)
        fetch = {} if ended is None else {"fetch": _plain_fetch(ended)}
        if name in self.errors:
            error = self.errors[name]
            state, reason = ModelState.FAILED.value, reason_of(error)
            return {"name": name, "state": state, "reason": reason, "message": str(error), **fetch}
        manifest = self.manifests[name]
        return {
            "name": name,
            "state": ModelState.READY.value,
            "revision": manifest.revision,
            "bytes": manifest.size,
            "files": len(manifest.files),
            "path": str(self._store.layout.current(name)),
            **fetch,
        }

    def _one(self, name: str, source: Source) -> None:
        try:
            for left in reversed(range(_CHANGED_TRIES)):
                origin = open_origin(source, self._origins)
                revision = resolve(origin, source, self._cancel)
                try:
                    self.manifests[name] = self._fetcher.fetch(
                        ModelFetch(name, source, origin, revision), self._cancel
                    )
                    return
                except OriginChanged:
                    if not left:
                        raise
        except ModelCacheError as error:
            self.errors[name] = error
        except Exception as error:  # noqa: BLE001 - the thread's outermost line: told at the end
            what = error.strerror if isinstance(error, OSError) else f"a defect: {error!r}"
            self.errors[name] = ModelCacheError(f"{name}: {what}")


def _wanted(
    uris: list[str],
    name: str | None,
    include: list[str] | None,
    exclude: list[str] | None,
    allow_unsafe_formats: bool,
    secret: str | None,
) -> dict[str, Source]:
    if name is not None and len(uris) != 1:
        raise UsageError("--name goes with one URI; run prefetch once for each")
    if name is not None:
        check_name(name)
    wanted: dict[str, Source] = {}
    for uri in uris:
        label = name or default_name(parse_uri(uri))
        if label in wanted:
            raise UsageError(
                f"two URIs would both be named {label!r}: run prefetch --name for each"
            )
        try:
            wanted[label] = Source(
                uri=uri,
                include=tuple(include or ()),
                exclude=tuple(exclude or ()),
                allow_unsafe_formats=allow_unsafe_formats,
                secret_name=secret,
            )
        except ValidationError as error:
            raise UsageError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error
    return wanted


def default_name(uri: SourceURI) -> str:
    """A model's name from its URI: the last part of it, as far as a name allows."""
    path = unquote(uri.path) if uri.is_web else uri.path
    if uri.is_checksum_list or uri.is_own_list:
        path = path.rpartition("/")[0]  # the model is called as the folder is, not as the list
    last = path.strip("/").rpartition("/")[2] if uri.scheme != "hf" else ""
    text = last or uri.authority.rpartition("/")[2] or "model"
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:NAME_MAX].strip("-") or "model"


def _tell(fetching: _Fetching) -> None:
    ended = {name: fetching.book.ended(name) for name in fetching.manifests}
    notes = {name: _told(fetch) for name, fetch in ended.items() if fetch is not None}
    rows = [
        [
            name,
            ModelState.READY.value,
            manifest.revision[:12],
            human_bytes(manifest.size),
            str(len(manifest.files)),
            "",
        ]
        for name, manifest in fetching.manifests.items()
    ]
    # One error is what the command ends with; several are told here.
    if len(fetching.errors) > 1 or (fetching.errors and rows):
        rows += [
            [name, ModelState.FAILED.value, "", "", "", reason_of(error)]
            for name, error in fetching.errors.items()
        ]
        notes |= {name: str(error) for name, error in fetching.errors.items()}
    if rows:
        print_table(["NAME", "STATE", "REVISION", "SIZE", "FILES", "NOTE"], rows)
        print_notes(notes)


_BOUNDS: Final[Mapping[Activity, str]] = {
    "origin": "the origin",
    "disk": "the disk",
    "hash": "digests",
    "limit": "the bandwidth limit",
}


def _told(ended: FetchEnded) -> str:
    """A fetch that ended, in one line: how much, how fast, and what kept it from being faster."""
    if not ended.received:
        return f"nothing had to be fetched, {ended.seconds:.1f} s"
    bound = ended.times.bounded_by
    parts = [
        f"{human_bytes(ended.received)} in {ended.seconds:.1f} s",
        f"{human_bytes(_rate(ended))}/s",
        f"{human_bytes(ended.mirrored)} of it from mirrors" if ended.mirrored else "",
        "1 retry" if ended.retries == 1 else f"{ended.retries} retries",
        f"bounded by {_BOUNDS[bound]}" if bound else "",
    ]
    return ", ".join(filter(None, parts))


def _plain_fetch(ended: FetchEnded) -> dict[str, object]:
    """The same, as JSON has it."""
    return {
        "receivedBytes": ended.received,
        "mirroredBytes": ended.mirrored,
        "seconds": round(ended.seconds, 3),
        "mibPerSecond": round(_rate(ended) / 2**20, 1),
        "retries": ended.retries,
        "boundedBy": ended.times.bounded_by,
    }


def _rate(ended: FetchEnded) -> float:
    """Bytes a second."""
    return ended.received / max(ended.seconds, 1e-6)
