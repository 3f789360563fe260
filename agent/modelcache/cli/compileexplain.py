"""modelcache compile explain: why a start was, or would be, seeded from a bundle or not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final

import typer

from modelcache.cli.compilestarts import Shelf, Subject, subject_of, trust_of
from modelcache.cli.options import Output, Root, flag, settings
from modelcache.cli.output import Format, age, human_bytes, print_json, print_table
from modelcache.compilecache.bundles.local import ENVELOPE_NAME, LocalBundle
from modelcache.compilecache.keys.facts import NodeFacts, from_machine
from modelcache.compilecache.keys.parts import Key
from modelcache.compilecache.starts.explaining import Explanation, explain
from modelcache.compilecache.starts.marks import Mark
from modelcache.compilecache.starts.reporting import Start, lines, read_last
from modelcache.errors import BrokenBundle, NotFound, UsageError
from modelcache.service.logs import configure_logs
from modelcache.settings.compilerun import CompileRunSettings

_SHORT: Final = 12
_MOST_NAMED: Final = 8
"""Compile caches that are told to who mistyped one's name."""

Told = tuple[Explanation, LocalBundle | None]


def explain_cache(
    what: Annotated[
        str,
        typer.Argument(
            metavar="NAME|BUNDLE",
            help="A compile cache of this machine by its name, or a bundle's directory.",
        ),
    ],
    command: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[-- COMMAND...]",
            help="The command of the start that is asked about; by default the last one.",
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", metavar="FILE", help="Catalog file with its CompileCache."),
    ] = None,
    engine: Annotated[
        str, typer.Option(metavar="NAME", help="The engine, where the command doesn't tell.")
    ] = "",
    cache_dir: Annotated[
        Path | None, flag("cache_dir", "DIRECTORY", kind=CompileRunSettings)
    ] = None,
    root: Root = None,
    public_keys: Annotated[
        Path | None,
        flag("public_keys", "FILE|DIRECTORY", "--public-key", kind=CompileRunSettings),
    ] = None,
    signing_key: Annotated[
        Path | None, flag("signing_key", "FILE", "--sign", kind=CompileRunSettings)
    ] = None,
    engine_table: Annotated[
        Path | None, flag("engine_table", "FILE", kind=CompileRunSettings)
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Say how the last start went, and of each bundle whether a start would be seeded from it, and
    if not, which part of its key is another, or who does not vouch for it.

    Without a command, and where no start is known, a bundle is compared with what this machine
    compiles for.
    """
    found = settings(
        CompileRunSettings,
        cache_dir=cache_dir,
        root=root,
        public_keys=public_keys,
        signing_key=signing_key,
        engine_table=engine_table,
    )
    configure_logs(as_json=False, level="error")
    if file is not None and not command:
        raise UsageError("-f says what a command is the engine of: give that, too, behind a --")
    folder = Path(what)
    bundle = LocalBundle.open(folder) if (folder / ENVELOPE_NAME).exists() else None
    if not (found.root / "layout.json").exists() and bundle is None:
        raise UsageError(f"{found.root} is not a model cache, and {what} is no bundle: give --root")
    if bundle is None and "/" in what:
        raise NotFound(
            f"there is no bundle in {what}: give the directory that has its {ENVELOPE_NAME}, or the"
            " name of a compile cache of this machine"
        )
    name = bundle.statement.name if bundle is not None else what
    subject = subject_of(command, found, file, name, engine) if command else None
    if bundle is not None:
        last, ours, told = _one(bundle, found, subject)
    else:
        shelf = Shelf(found, name, subject.cache if subject is not None else None)
        last = read_last(shelf.holding.layout, name)
        ours = _ours(subject, last)
        told = _held(shelf, name, ours)
        if last is None and not told:
            raise NotFound(_unknown(name, shelf))
    if output is Format.JSON:
        print_json("CompileExplanation", _plain(name, ours, last, [each for each, _ in told]))
        return
    _tell(name, last if subject is None and bundle is None else None, told)


def _unknown(name: str, shelf: Shelf) -> str:
    known = shelf.holding.names()[:_MOST_NAMED]
    there = f"; known there: {', '.join(known)}" if known else ""
    return f"nothing is known of a compile cache {name} in {shelf.holding.layout.root}{there}"


def _ours(subject: Subject | None, last: Start | None) -> Key | NodeFacts:
    if subject is not None:
        return subject.key()
    if last is not None and last.key is not None:
        return last.key
    return from_machine(os.environ)


def _one(
    bundle: LocalBundle, found: CompileRunSettings, subject: Subject | None
) -> tuple[Start | None, Key | NodeFacts, list[Told]]:
    """A bundle that lies anywhere; what this machine knows of it counts, if it has a cache."""
    name = bundle.statement.name
    cache = subject.cache if subject is not None else None
    if not (found.root / "layout.json").exists():
        ours = _ours(subject, None)
        return None, ours, [(explain(bundle, ours, trust_of(found, cache), Mark()), bundle)]
    shelf = Shelf(found, name, cache)
    last = read_last(shelf.holding.layout, name)
    ours = _ours(subject, last)
    mark = shelf.marks.of(name, bundle.digest)
    return last, ours, [(explain(bundle, ours, shelf.trust, mark), bundle)]


def _held(shelf: Shelf, name: str, ours: Key | NodeFacts) -> list[Told]:
    """What is held, newest first."""
    told: list[Told] = []
    for held in reversed(shelf.holding.of(name)):
        mark: Mark = shelf.marks.of(name, held.digest)
        try:
            bundle = held.open()
            told.append((explain(bundle, ours, shelf.trust, mark), bundle))
        except (BrokenBundle, NotFound) as error:
            digest = f"sha256:{held.digest}"
            told.append((Explanation(digest, None, mark.state.value, refusal=str(error)), None))
    return told


def _plain(
    name: str, ours: Key | NodeFacts, last: Start | None, told: list[Explanation]
) -> dict[str, object]:
    return {
        "name": name,
        "key": ours.digest if isinstance(ours, Key) else None,
        "lastStart": last.to_document() if last is not None else None,
        "bundles": [each.plain() for each in told],
    }


def _tell(name: str, last: Start | None, told: list[Told]) -> None:
    if last is not None:
        print(f"The last start of {name}, {age(last.started_at)} ago:")
        for line in lines(last):
            print(f"  {line}")
        print()
    if not told:
        print("There is no bundle on this machine.")
        return
    rows = []
    for each, bundle in told:
        statement = bundle.statement if bundle is not None else None
        size = human_bytes(statement.archive.size) if statement else ""
        when = age(statement.created_at) if statement else ""
        digest = each.digest.removeprefix("sha256:")[:_SHORT]
        rows.append([digest, each.state, size, when, "yes" if each.seeded else "no"])
    print_table(["BUNDLE", "STATE", "SIZE", "AGE", "FOR THIS START"], rows)
    for each, _ in told:
        print(f"\n{each.digest.removeprefix('sha256:')[:_SHORT]}:")
        for sentence in each.sentences():
            print(f"  {sentence}")
