"""modelcache prefetch: bring models into the cache now, without a catalog."""

from __future__ import annotations

import re
import signal
import threading
from contextlib import nullcontext
from typing import Annotated

import typer
from pydantic import ValidationError

from modelcache.api import Manifest, Source, SourceURI, parse_uri
from modelcache.api.meta import NAME_MAX, NAME_PATTERN
from modelcache.cli.display import Display
from modelcache.cli.options import (
    BandwidthOption,
    Connections,
    KeepFreeOption,
    Output,
    Root,
    SecretsDir,
    open_store,
    settings,
)
from modelcache.cli.output import Format, human_bytes, one_line, print_json, print_table
from modelcache.errors import ModelCacheError, OriginChanged, UsageError
from modelcache.origins import OriginSettings, SecretStore, open_origin
from modelcache.service.logs import configure_logs
from modelcache.service.progress import ProgressBook
from modelcache.settings import FetchSettings
from modelcache.store import Store
from modelcache.transfer import (
    Cancel,
    Engine,
    ModelFetch,
    ModelFetcher,
    TransferSettings,
    resolve,
)

_CHANGED_TRIES = 3


def prefetch(
    uris: Annotated[
        list[str],
        typer.Argument(
            metavar="URI...",
            help="hf://org/name[@revision][/path], s3://bucket/prefix, file:///path.",
        ),
    ],
    name: Annotated[
        str | None, typer.Option("--name", help="The model's name in the cache (one URI only).")
    ] = None,
    include: Annotated[
        list[str] | None, typer.Option("--include", help="Glob of wanted files; may be repeated.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", help="Glob of unwanted files; may be repeated.")
    ] = None,
    allow_unsafe_formats: Annotated[
        bool,
        typer.Option("--allow-unsafe-formats", help="Take files that can run code when loaded."),
    ] = False,
    secret: Annotated[
        str | None, typer.Option("--secret", help="Secret in --secrets-dir with the credentials.")
    ] = None,
    root: Root = None,
    secrets_dir: SecretsDir = None,
    keep_free: KeepFreeOption = None,
    connections: Connections = None,
    bandwidth: BandwidthOption = None,
    output: Output = Format.TABLE,
) -> None:
    """Fetch models into the cache, verified, and show them."""
    found = settings(
        FetchSettings,
        root=root,
        secrets_dir=secrets_dir,
        keep_free=keep_free,
        connections=connections,
        bandwidth=bandwidth,
    )
    wanted = _wanted(uris, name, include, exclude, allow_unsafe_formats, secret)
    configure_logs(as_json=False, level="error")
    store = open_store(found.root, found.keep_free, create=True)
    fetching = _Fetching(store, found)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: fetching.stop())
    with Display(fetching.book) if output is Format.TABLE else nullcontext():
        fetching.run(wanted)
    _tell(fetching, output)
    if fetching.errors:
        raise next(iter(fetching.errors.values()))


class _Fetching:
    """Fetches several models side by side."""

    def __init__(self, store: Store, found: FetchSettings) -> None:
        self._store = store
        self._cancel = Cancel()
        self.book = ProgressBook()
        self._engine = Engine(
            TransferSettings(connections=found.connections, bandwidth=found.bandwidth)
        )
        self._fetcher = ModelFetcher(store, self._engine, self.book)
        self._origins = OriginSettings(
            root=store.layout.root, file_roots=None, secrets=SecretStore(found.secrets_dir)
        )
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
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)  # short, so that signals are handled in between
        self._engine.close()
        self.errors = {name: self.errors[name] for name in wanted if name in self.errors}

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
    if name is not None and (not re.fullmatch(NAME_PATTERN, name) or len(name) > NAME_MAX):
        raise UsageError(
            f"--name {name!r}: lower-case letters, digits and hyphens, at most {NAME_MAX}"
        )
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
    last = uri.path.strip("/").rpartition("/")[2] if uri.scheme != "hf" else ""
    text = last or uri.authority.rpartition("/")[2] or "model"
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:NAME_MAX].strip("-") or "model"


def _tell(fetching: _Fetching, output: Format) -> None:
    if output is Format.JSON:
        if not fetching.errors:
            print_json(
                "PrefetchResult",
                {
                    "models": [
                        {
                            "name": name,
                            "revision": manifest.revision,
                            "bytes": manifest.size,
                            "files": len(manifest.files),
                        }
                        for name, manifest in fetching.manifests.items()
                    ]
                },
            )
        return
    rows = [
        [
            name,
            "Ready",
            manifest.revision[:12],
            human_bytes(manifest.size),
            str(len(manifest.files)),
            "",
        ]
        for name, manifest in fetching.manifests.items()
    ]
    # The last error is what the command ends with; several are told here.
    if len(fetching.errors) > 1 or (fetching.errors and rows):
        rows += [
            [name, "Failed", "", "", "", f"{error.reason}: {one_line(str(error))}"]
            for name, error in fetching.errors.items()
        ]
    if rows:
        print_table(["NAME", "STATE", "REVISION", "SIZE", "FILES", "MESSAGE"], rows)
