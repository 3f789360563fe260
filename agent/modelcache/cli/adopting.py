"""modelcache adopt: models that huggingface_hub fetched before, taken over without a fetch."""

from __future__ import annotations

import re
import signal
import threading
from contextlib import nullcontext
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import quote

import typer
from pydantic import ValidationError

from modelcache.api import Manifest, ModelState, Source, parse_uri
from modelcache.cli.display import Display
from modelcache.cli.options import (
    CaBundle,
    CapacityOption,
    IoPriority,
    KeepFreeOption,
    Output,
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
from modelcache.cli.prefetch import default_name
from modelcache.errors import Cancelled, ModelCacheError, NotFound, UsageError
from modelcache.origins import LocalLocation, Revision, open_origin, select, spare_metadata
from modelcache.origins.hubcache import CachedRepository, HubCacheOrigin, repositories
from modelcache.service.logs import configure_logs
from modelcache.service.outfit import outfit
from modelcache.service.progress import ProgressBook
from modelcache.settings import FetchSettings
from modelcache.store import Store
from modelcache.transfer import Cancel, ModelFetch, ModelFetcher
from modelcache.transfer.hardlinking import hard_link

_MOST_GLOBS: Final = 256
"""As many as a CachedModel may have."""
_REF = re.compile(r"refs/(?:pr|convert)/[^/]+")


def adopt(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help="A cache directory of huggingface_hub (HF_HUB_CACHE, or HF_HOME above it), or one"
            " models--org--name in it.",
        ),
    ],
    repository: Annotated[
        str | None,
        typer.Option(
            "--repository", metavar="ORG/NAME", help="This one only; by default all of PATH."
        ),
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option(
            "--revision",
            metavar="REVISION",
            help="Branch, tag or commit; by default main, as the cache knew it last.",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name", metavar="NAME", help="The model's name in the cache (one model only)."
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
    complete: Annotated[
        bool,
        typer.Option("--complete", help="Ask the Hub for what PATH lacks, and for nothing else."),
    ] = False,
    as_is: Annotated[
        bool,
        typer.Option(
            "--as-is",
            help="Take what is there for the whole, where the cache has no list of the commit's"
            " files (huggingface_hub before 2).",
        ),
    ] = False,
    link: Annotated[
        bool,
        typer.Option(
            "--link",
            help="Hard links in place of copies: for files on the same mount that you own. They"
            " become read-only; who owns a file can still change it.",
        ),
    ] = False,
    secret: Annotated[
        str | None,
        typer.Option(
            "--secret", metavar="NAME", help="Secret in --secrets-dir with the Hub's token."
        ),
    ] = None,
    root: Root = None,
    secrets_dir: SecretsDir = None,
    keep_free: KeepFreeOption = None,
    capacity: CapacityOption = None,
    io_priority: IoPriority = None,
    ca_bundle: CaBundle = None,
    output: Output = Format.TABLE,
) -> int:
    """Take models over that huggingface_hub has fetched, without fetching them again.

    Every byte is read and compared with its digest. Blocks are shared where the file system can
    (reflink), else copied; PATH stays as it is. An agent whose catalog asks for the same revision
    then fetches nothing.
    """
    found = settings(
        FetchSettings,
        root=root,
        secrets_dir=secrets_dir,
        keep_free=keep_free,
        capacity=capacity,
        io_priority=io_priority,
        ca_bundle=ca_bundle,
    )
    if complete and as_is:
        raise UsageError("--complete and --as-is exclude each other: give one of them")
    chosen = [each for each in repositories(path) if repository in (None, each.name)]
    if not chosen:
        raise NotFound(f"{path} has no {repository}: look at what models--… there are")
    if len(chosen) > 1 and (name is not None or revision is not None):
        raise UsageError("--name and --revision are for one model: give --repository too")
    if name is not None:
        check_name(name)
    rules = _Rules(
        tuple(include or ()), tuple(exclude or ()), allow_unsafe_formats, secret, complete, as_is
    )
    configure_logs(as_json=False, level="error")
    spare_metadata()
    store = open_store(found.root, found.keep_free, found.capacity, create=True)
    adopting = _Adopting(store, found, rules, link=link)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: adopting.stop())
    with Display(adopting.book) if output is Format.TABLE else nullcontext():
        outcomes = [adopting.one(each, revision, name) for each in chosen]
    adopting.close()
    return _tell(store, outcomes, output)


@dataclass(frozen=True, slots=True)
class _Rules:
    """What is taken of a repository."""

    include: tuple[str, ...]
    exclude: tuple[str, ...]
    allow_unsafe_formats: bool
    secret: str | None
    complete: bool
    as_is: bool

    def source(self, repository: str, revision: str) -> Source:
        """As a catalog would ask for it."""
        if revision == "main":
            uri = f"hf://{repository}"
        else:
            shown = revision if _REF.fullmatch(revision) else quote(revision, safe="")
            uri = f"hf://{repository}@{shown}"
        return self._source(uri)

    def pinned(self, repository: str, commit: str) -> Source:
        """For asking the Hub about this very commit."""
        return self._source(f"hf://{repository}@{commit}")

    def _source(self, uri: str) -> Source:
        try:
            return Source(
                uri=uri,
                include=self.include,
                exclude=self.exclude,
                allow_unsafe_formats=self.allow_unsafe_formats,
                secret_name=self.secret,
            )
        except ValidationError as error:
            raise UsageError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of one repository."""

    repository: str
    name: str
    manifest: Manifest | None = None
    error: ModelCacheError | None = None
    received: int = 0


class _Adopting:
    """Takes over one repository after the other."""

    def __init__(self, store: Store, found: FetchSettings, rules: _Rules, *, link: bool) -> None:
        self._store = store
        self._rules = rules
        self._link = link
        self._cancel = Cancel()
        self.book = ProgressBook()
        self._engine, self._origins = outfit(found, store.layout.root, file_roots=None)
        self._fetcher = ModelFetcher(store, self._engine, self.book)

    def stop(self) -> None:
        """End soon; what was taken over is kept."""
        threading.Thread(target=self._cancel.set, daemon=True).start()

    def close(self) -> None:
        """Nothing is taken over any more."""
        self._engine.close()

    def one(self, repository: CachedRepository, revision: str | None, name: str | None) -> _Outcome:
        """Take one over; what fails is its own failure."""
        label = name or repository.name
        try:
            self._cancel.check()
            uri = parse_uri(f"hf://{repository.name}")
            label = name or default_name(uri)
            return _Outcome(repository.name, label, self._one(repository, revision, label))
        except ModelCacheError as error:
            return _Outcome(repository.name, label, error=error)

    def _one(self, repository: CachedRepository, revision: str | None, name: str) -> Manifest:
        if repository.folder.is_relative_to(self._store.layout.root):
            raise UsageError(f"{repository.folder} is in the cache already")
        commit, asked = repository.commit(revision)
        source = self._rules.source(repository.name, asked)
        hub = None
        if self._rules.complete:
            hub = open_origin(self._rules.pinned(repository.name, commit), self._origins)
        refs = tuple(dict.fromkeys(["main" if asked == commit else asked, "main"]))
        origin = HubCacheOrigin(repository, commit, refs, hub)
        there = self._resolve(origin)
        if there.partial and self._rules.as_is:
            source = _just_these(source, there)
        found = select(there, source)
        lacks = origin.lacks(found)
        if lacks and hub is None:
            raise NotFound(
                f"{len(lacks)} of {len(found.files)} files are not in {repository.folder.name}"
                f" ({lacks[0].path}): give --complete to fetch them"
            )
        if self._link:
            self._hard_link(name, origin, found)
        wanted = ModelFetch(name, source, origin, found)
        return self._fetcher.fetch(wanted, self._cancel)

    def _resolve(self, origin: HubCacheOrigin) -> Revision:
        try:
            return origin.resolve()
        except NotFound:
            if not self._rules.as_is:
                raise
            return origin.as_is()

    def _hard_link(self, name: str, origin: HubCacheOrigin, revision: Revision) -> None:
        for file in revision.files:
            self._cancel.check()
            if not file.size or self._store.find(file.identity, file.sha256, file.size):
                continue
            location = origin.locate(file)
            if isinstance(location, LocalLocation):
                content = hard_link(self._store, location, file)
                self._store.record(name, revision.snapshot, content)


def _just_these(source: Source, revision: Revision) -> Source:
    """A source that asks for what is there and nothing else: who asks for more is not content."""
    if source.include:
        return source
    if len(revision.files) > _MOST_GLOBS:
        raise UsageError(
            f"there are {len(revision.files)} files, too many to be listed one by one: say what is"
            " wanted with --include, or give --complete"
        )
    return source.model_copy(update={"include": tuple(escape(f.path) for f in revision.files)})


def _tell(store: Store, outcomes: list[_Outcome], output: Format) -> int:
    errors = [each.error for each in outcomes if each.error is not None]
    if output is Format.JSON:
        print_json("AdoptResult", {"models": [_plain(store, each) for each in outcomes]})
        return errors[0].exit_code if errors else 0
    rows, notes = [], {}
    for each in outcomes:
        if each.manifest is not None:
            size, files = human_bytes(each.manifest.size), str(len(each.manifest.files))
            state, short = ModelState.READY.value, each.manifest.revision[:12]
            rows.append([each.name, state, each.repository, short, size, files, ""])
        elif each.error is not None:
            note = reason_of(each.error)
            rows.append([each.name, ModelState.FAILED.value, each.repository, "", "", "", note])
            notes[each.name] = str(each.error)
    if len(outcomes) > 1 or not errors:
        print_table(["NAME", "STATE", "REPOSITORY", "REVISION", "SIZE", "FILES", "NOTE"], rows)
        print_notes(notes)
    if errors:
        raise errors[0] if len(outcomes) == 1 else _sum_up(errors, len(outcomes))
    return 0


def _sum_up(errors: list[ModelCacheError], count: int) -> ModelCacheError:
    first = errors[0]
    if isinstance(first, Cancelled):
        return first
    summary = ModelCacheError(f"{len(errors)} of {count} models were not taken over")
    summary.exit_code = first.exit_code
    return summary


def _plain(store: Store, outcome: _Outcome) -> dict[str, object]:
    plain: dict[str, object] = {"name": outcome.name, "repository": outcome.repository}
    if outcome.manifest is None:
        assert outcome.error is not None
        reason = reason_of(outcome.error)
        state = ModelState.FAILED.value
        return {**plain, "state": state, "reason": reason, "message": str(outcome.error)}
    return {
        **plain,
        "state": ModelState.READY.value,
        "revision": outcome.manifest.revision,
        "bytes": outcome.manifest.size,
        "files": len(outcome.manifest.files),
        "path": str(store.layout.current(outcome.name)),
    }
