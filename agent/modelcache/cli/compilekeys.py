"""modelcache compile key, diff: what a compile cache was compiled for, and in what two differ."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from modelcache.api import CachedModel, CompileCache
from modelcache.api.meta import SUBDOMAIN_PATTERN
from modelcache.catalog import FileCatalog
from modelcache.cli.keyfiles import Named, read_keys
from modelcache.cli.manifests import read_manifests
from modelcache.cli.options import Output, Root, flag, open_store, settings
from modelcache.cli.output import Format, print_json, print_table
from modelcache.compilecache.engines.table import Engine, engine_of, table
from modelcache.compilecache.keys.differing import Difference, nearest
from modelcache.compilecache.keys.facts import from_labels, from_machine, machine_cpu
from modelcache.compilecache.keys.making import key_of_command, key_of_object
from modelcache.compilecache.keys.models import (
    model_of_command,
    model_of_manifest,
    model_of_object,
)
from modelcache.compilecache.keys.packages import identity_of_command
from modelcache.compilecache.keys.parts import Key, ModelIdentity
from modelcache.errors import UsageError
from modelcache.settings.compilerun import CompileRunSettings
from modelcache.store import Store

_IMAGE: Final = re.compile(r"(?:[^@]+@)?sha256:[0-9a-f]{64}")


def key(
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="COMMAND", help="The command that begins the engine."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", metavar="FILE", help="Catalog file with a CompileCache."),
    ] = None,
    name: Annotated[str, typer.Option(metavar="NAME", help="Which of several, by its name.")] = "",
    node_labels: Annotated[
        str,
        typer.Option(
            metavar="FILE|NAME=VALUE,...",
            help="The key on a node with these labels: a Node as kubectl prints it, or a list."
            " The processor is this machine's all the same.",
        ),
    ] = "",
    node_rank: Annotated[
        int,
        typer.Option(metavar="NUMBER", min=0, help="Which node of several that run one engine."),
    ] = 0,
    engine: Annotated[
        str, typer.Option(metavar="NAME", help="The engine, where the command doesn't tell.")
    ] = "",
    image: Annotated[
        str,
        typer.Option(
            metavar="IMAGE@sha256:...",
            help="The engine's image; without one the packages of the command's Python count.",
        ),
    ] = "",
    cache_dir: Annotated[
        Path | None, flag("cache_dir", "DIRECTORY", kind=CompileRunSettings)
    ] = None,
    trust_domain: Annotated[
        str, typer.Option(metavar="NAME", help="Who shares caches with each other.")
    ] = "default",
    root: Root = None,
    engine_table: Annotated[
        Path | None, flag("engine_table", "FILE", kind=CompileRunSettings)
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Print the key of a compile cache, and its parts: what it is compiled for.

    Of an object in a catalog file, as on this machine or on a node with given labels; or of a
    command that begins an engine here.
    """
    if (file is None) == (not command):
        raise UsageError("give either -f FILE with a CompileCache, or -- and a command")
    labels = _labels(node_labels) if node_labels else None
    facts = from_machine() if labels is None else from_labels(labels, machine_cpu())
    if file is not None:
        cache, model = read_object(file, name, _store(root))
        found = key_of_object(cache, facts, model, node_rank=node_rank)
    else:
        assert command is not None
        if not re.fullmatch(SUBDOMAIN_PATTERN, trust_domain):
            raise UsageError(
                f"--trust-domain {trust_domain[:80]}: lower-case letters, digits, dots and hyphens"
                " are wanted, as in a CompileCache"
            )
        given = settings(CompileRunSettings, cache_dir=cache_dir, engine_table=engine_table)
        engine = engine_named(command, engine, table(given.engine_table))
        identity = _identity(image) or identity_of_command(command, os.environ)
        facts = from_machine() if labels is None else from_labels(labels, machine_cpu())
        found = key_of_command(
            engine,
            command,
            os.environ,
            facts,
            cache_dir=Path(os.path.abspath(given.cache_dir)),
            identity=identity,
            model=model_of_command(engine, command, os.environ),
            trust_domain=trust_domain,
        )
    if output is Format.JSON:
        print_json("CompileKey", {"digest": found.digest, "key": found.to_document()})
        return
    print(f"Key: {found.digest}\n")
    print_table(["PART", "NAME", "VALUE"], _rows(found))


def diff(
    ours: Annotated[
        Path, typer.Argument(metavar="A", help="A key (`compile key -o json`) or a bundle.")
    ],
    theirs: Annotated[
        Path,
        typer.Argument(metavar="B", help="Another; of a directory of bundles the nearest counts."),
    ],
    output: Output = Format.TABLE,
) -> None:
    """Say in which part of their keys two compile caches differ, the most telling part first.

    Each is a file that `compile key -o json` printed, a bundle's bundle.json, or a directory with
    bundles. Signatures are not looked at.
    """
    our = read_keys(ours)
    if len({each.key.digest for each in our}) > 1:
        raise UsageError(f"{ours} has bundles with {len(our)} keys: name one of them")
    one, other, found = _nearest(our[0], read_keys(theirs))
    if output is Format.JSON:
        content = {
            "same": not found,
            "ours": {"from": one.place, "key": one.key.digest},
            "theirs": {"from": other.place, "key": other.key.digest},
            "differences": [*map(_plain, found)],
        }
        print_json("CompileKeyDifference", content)
        return
    print(f"here:  {one.key.digest}  {one.place}")
    print(f"there: {other.key.digest}  {other.place}")
    if not found:
        print("\nThe keys are the same.")
        return
    print()
    for difference in found:
        print(f"{difference.part}: {difference.sentence}")


def _nearest(one: Named, others: list[Named]) -> tuple[Named, Named, tuple[Difference, ...]]:
    found = nearest(one.key, (each.key for each in others))
    assert found is not None  # read_keys gives one at least
    other = next(each for each in others if each.key is found[0])
    return one, other, found[1]


def _plain(difference: Difference) -> dict[str, str]:
    return {
        "part": difference.part,
        "name": difference.name,
        "ours": difference.ours,
        "theirs": difference.theirs,
        "message": difference.sentence,
    }


def _rows(found: Key) -> list[list[str]]:
    rows = []
    for part, value in found.to_document().items():
        if isinstance(value, dict):
            inner = {name: " ".join(v) if isinstance(v, list) else v for name, v in value.items()}
            rows += [[part, name, str(item)] for name, item in inner.items() if item not in ("", 0)]
        elif isinstance(value, list):
            rows += [[part, "", item] for item in value]
        else:
            rows.append([part, "", str(value)])
    return rows


def read_object(file: Path, name: str, store: Store | None) -> tuple[CompileCache, ModelIdentity]:
    """The object in a file, and its model, as far as that or this machine's cache knows it.

    Args:
        name: which of several; empty: the only one.
        store: this machine's cache; None: it has none.

    Raises:
        UsageError
    """
    if not file.exists():
        raise UsageError(f"{file} is not there")
    catalog = FileCatalog(file).read()
    named = [
        found
        for document in catalog.documents.values()
        if isinstance(found := document.object, CompileCache) and name in ("", found.name)
    ]
    if len(named) != 1:
        problem = f": {catalog.problems[0]}" if catalog.problems else ""
        which = f"the CompileCache {name}" if name else "a CompileCache"
        if named:
            raise UsageError(f"{file} has {len(named)} CompileCaches: choose one with --name")
        raise UsageError(f"{file} has not {which} in it{problem}")
    (cache,) = named
    sources = {
        document.object.name: document.object.spec.source
        for document in catalog.documents.values()
        if isinstance(document.object, CachedModel)
    }
    return cache, _model(cache.spec.model, sources, store, file)


def _model(
    model: str, sources: Mapping[str, Any], store: Store | None, file: Path
) -> ModelIdentity:
    manifest = store.current(model) if store is not None else None
    if manifest is not None:
        return model_of_manifest(manifest)
    if model not in sources:
        raise UsageError(
            f"the CachedModel {model} is neither in {file} nor held by a cache on this machine:"
            " add it there, or give --root"
        )
    return model_of_object(sources[model].uri, sources[model].parsed.revision or "", "")


def _store(root: Path | None) -> Store | None:
    try:
        return open_store(root)
    except UsageError:
        if root is not None:
            raise
        return None  # this machine has no cache


def _labels(text: str) -> Mapping[str, str]:
    """The labels in a file, or as they are listed.

    Raises:
        UsageError
    """
    if not Path(text).is_file():
        pairs = [pair.partition("=") for pair in text.split(",")]
        if not all(separator for _, separator, _ in pairs):
            raise UsageError(f"--node-labels {text}: write NAME=VALUE,..., or the name of a file")
        return {name.strip(): value.strip() for name, _, value in pairs}
    (document, *_) = [*read_manifests(text), {}]
    if isinstance(document, dict) and document.get("kind") == "Node":
        document = (document.get("metadata") or {}).get("labels")
    if not isinstance(document, dict) or not document:
        raise UsageError(f"{text} has neither a Node with labels nor a mapping of labels in it")
    return {str(name): str(value) for name, value in document.items()}


def engine_named(command: Sequence[str], name: str, engines: Mapping[str, Engine]) -> str:
    """The engine that a command starts: the one that is named, else the one that it tells.

    Raises:
        UsageError: there is none of that name.
    """
    name = name or engine_of(command, engines)
    if name not in engines:
        raise UsageError(
            f"there is no engine {name!r}: {', '.join(engines)} are known, and --engine-table adds"
            " others"
        )
    return name


def _identity(image: str) -> str:
    """The digest of an image; empty: none is given."""
    if image and not _IMAGE.fullmatch(image):
        raise UsageError(
            f"--image {image[:200]}: IMAGE@sha256: and 64 hex digits are wanted, since a tag may"
            " move"
        )
    return image.rpartition("@")[2]
