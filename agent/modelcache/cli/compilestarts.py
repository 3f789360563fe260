"""modelcache compile run: an engine started with its compile cache."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer

from modelcache.api import CompileCache
from modelcache.api.meta import NAME_MAX
from modelcache.cli.compilekeys import engine_named, read_object
from modelcache.cli.options import CaBundle, Root, SecretsDir, flag, open_store, settings
from modelcache.cli.output import Format, one_line
from modelcache.compilecache.bundles.signing import SigningKey, TrustedKeys
from modelcache.compilecache.bundles.trust import Trust
from modelcache.compilecache.engines.table import Engine, table
from modelcache.compilecache.keys.arguments import program_of
from modelcache.compilecache.keys.differing import Difference, differences
from modelcache.compilecache.keys.facts import NodeFacts, from_machine
from modelcache.compilecache.keys.making import key_of_command, key_of_object
from modelcache.compilecache.keys.models import model_of_command
from modelcache.compilecache.keys.packages import identity_of_command
from modelcache.compilecache.keys.parts import Key, ModelIdentity
from modelcache.compilecache.places.fetching import BundleFetcher
from modelcache.compilecache.places.opening import open_place, uri_of
from modelcache.compilecache.places.protocol import Place
from modelcache.compilecache.starts.conducting import not_started
from modelcache.compilecache.starts.holding import Holding
from modelcache.compilecache.starts.marks import Marks
from modelcache.compilecache.starts.ownkey import own_key
from modelcache.compilecache.starts.reporting import Start, to_bytes
from modelcache.compilecache.starts.running import Order
from modelcache.compilecache.starts.running import run as run_order
from modelcache.compilecache.starts.sources import Sources
from modelcache.errors import ModelCacheError, UsageError
from modelcache.origins import spare_metadata
from modelcache.service.logs import configure_logs
from modelcache.service.opening import store_of
from modelcache.service.outfit import outfit
from modelcache.settings.compilerun import CompileRunSettings
from modelcache.store.durable import Durable

_SCRIPT: Final = re.compile(r"(?:.*/)?([^/]+)\.py")


def run(
    command: Annotated[
        list[str],
        typer.Argument(
            metavar="COMMAND", help="The command that starts the engine, best after a `--`."
        ),
    ],
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", "-f", metavar="FILE", help="Catalog file with the CompileCache that it is."
        ),
    ] = None,
    name: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="What it is called: by default as the engine and its model."
        ),
    ] = "",
    engine: Annotated[
        str, typer.Option(metavar="NAME", help="The engine, where the command doesn't tell.")
    ] = "",
    cache_dir: Annotated[
        Path | None, flag("cache_dir", "DIRECTORY", kind=CompileRunSettings)
    ] = None,
    root: Root = None,
    bundles: Annotated[str | None, flag("bundles", "PLACE", kind=CompileRunSettings)] = None,
    bundles_secret: Annotated[
        str | None, flag("bundles_secret", "NAME", "--secret", kind=CompileRunSettings)
    ] = None,
    signing_key: Annotated[
        Path | None, flag("signing_key", "FILE", "--sign", kind=CompileRunSettings)
    ] = None,
    public_keys: Annotated[
        Path | None,
        flag("public_keys", "FILE|DIRECTORY", "--public-key", kind=CompileRunSettings),
    ] = None,
    engine_table: Annotated[
        Path | None, flag("engine_table", "FILE", kind=CompileRunSettings)
    ] = None,
    quiet_time: Annotated[
        str | None, flag("quiet_time", "DURATION", kind=CompileRunSettings)
    ] = None,
    prepare_time: Annotated[
        str | None, flag("prepare_time", "DURATION", kind=CompileRunSettings)
    ] = None,
    finish_time: Annotated[
        str | None, flag("finish_time", "DURATION", kind=CompileRunSettings)
    ] = None,
    secrets_dir: SecretsDir = None,
    ca_bundle: CaBundle = None,
    gzip: Annotated[
        bool, typer.Option("--gzip", help="Compress captures by gzip, which MCV reads as well.")
    ] = False,
    seed: Annotated[
        bool,
        typer.Option(
            "--seed/--no-seed",
            help="Start from a bundle, or from what an earlier start left; or from nothing.",
        ),
    ] = True,
    capture: Annotated[
        bool, typer.Option("--capture/--no-capture", help="Capture what was compiled.")
    ] = True,
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE", help="Write what became of it there, as JSON."),
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Say nothing: the engine's output alone.")
    ] = False,
    output: Annotated[
        Format,
        typer.Option("--output", "-o", help="How to say on standard error what became of it."),
    ] = Format.TABLE,
) -> int:
    """Run a command that starts an engine: from what was compiled before, and keeping what it
    compiles now.

    Its output, exit code and signals are its own. Whatever fails of the cache is told on standard
    error, and the command runs all the same.
    """
    say = _silent if quiet or output is Format.JSON else tell

    def done(start: Start) -> None:
        if report is not None:
            report.write_bytes(to_bytes(start))
        if output is Format.JSON and not quiet:
            print(to_bytes(start).decode(), end="", file=sys.stderr, flush=True)

    given: dict[str, Any] = {
        "cache_dir": cache_dir,
        "root": root,
        "bundles": bundles,
        "bundles_secret": bundles_secret,
        "signing_key": signing_key,
        "public_keys": public_keys,
        "engine_table": engine_table,
        "quiet_time": quiet_time,
        "prepare_time": prepare_time,
        "finish_time": finish_time,
        "secrets_dir": secrets_dir,
        "ca_bundle": ca_bundle,
    }
    configure_logs(as_json=False, level="error")
    spare_metadata()
    try:
        found = settings(CompileRunSettings, **given)
        subject = subject_of(command, found, file, name, engine)
        shelf = Shelf(found, subject.name, subject.cache)
        order = Order(
            argv=command,
            env=os.environ,
            engine=subject.engine,
            cache_dir=subject.cache_dir,
            key=subject.key,
            sources=shelf.sources,
            durable=shelf.durable,
            signing_key=shelf.signing_key,
            tell=say,
            seeds=seed,
            captures=capture,
            compression="gzip" if gzip else "zstd",
            quiet_seconds=found.quiet_time,
            prepare_seconds=found.prepare_time,
            finish_seconds=found.finish_time,
            done=done,
        )
    except (ModelCacheError, OSError) as error:
        say(f"{error}; the command runs without its compile cache")
        _become(command)
    return run_order(order)


def _become(command: list[str]) -> NoReturn:
    """Be the command.

    Raises:
        NotStarted
    """
    sys.stdout.flush()
    try:
        os.execvp(command[0], command)  # noqa: S606 - the user's own command
    except OSError as error:
        raise not_started(command, error) from error


def tell(line: str) -> None:
    """Say a line beside the engine's own."""
    print(f"modelcache: {one_line(line)}", file=sys.stderr, flush=True)


def _silent(_line: str) -> None:
    pass


@dataclass(frozen=True)
class Subject:
    """What is run: an engine with a command, maybe as an object has it."""

    name: str
    engine: Engine
    cache_dir: Path
    key: Callable[[], Key]
    """Looks at this machine, and at the engine's packages: that takes seconds."""
    cache: CompileCache | None = None


def subject_of(
    command: Sequence[str],
    found: CompileRunSettings,
    file: Path | None,
    name: str,
    engine: str,
) -> Subject:
    """What a command line names.

    Raises:
        UsageError
    """
    engines = table(found.engine_table)
    cache = model = None
    if file is not None:
        # A root that is not there is made by the first start.
        store = open_store(found.root) if (found.root / "layout.json").exists() else None
        cache, model = read_object(file, name, store)
    if cache is not None:
        engine = cache.spec.engine.name
    chosen = engine_named(command, engine, engines)
    cache_dir = Path(cache.spec.engine.cache_dir) if cache is not None else found.cache_dir
    # Not `resolve`: engines note the path as it is written.
    cache_dir = Path(os.path.abspath(cache_dir))
    making = _Key(tuple(command), chosen, cache_dir, cache, model)
    name = cache.name if cache is not None else name or _name(chosen, command)
    return Subject(name, engines[chosen], cache_dir, making.make, cache)


@dataclass(frozen=True)
class _Key:
    """Makes the key of what is run."""

    command: tuple[str, ...]
    engine: str
    cache_dir: Path
    cache: CompileCache | None
    model: ModelIdentity | None

    def make(self) -> Key:
        """The key.

        Raises:
            ModelCacheError: the engine's packages, or the accelerator, can't be told.
        """
        facts = from_machine(os.environ)
        cache, model = self.cache, self.model
        if cache is None or model is None:
            own = model_of_command(self.engine, self.command, os.environ)
            identity = identity_of_command(self.command, os.environ)
            return self._of_command(facts, identity, own, "default")
        theirs = key_of_object(cache, facts, model)
        identity = cache.spec.engine.image.rpartition("@")[2]
        ours = self._of_command(facts, identity, model, cache.spec.trust_domain)
        other = [each for each in differences(ours, theirs) if _is_another(each)]
        if other:
            raise UsageError(
                f"the command is not what the CompileCache {cache.name} has in its spec:"
                f" {'; '.join(each.sentence for each in other[:3])}"
            )
        return theirs

    def _of_command(
        self, facts: NodeFacts, identity: str, model: ModelIdentity, domain: str
    ) -> Key:
        return key_of_command(
            self.engine,
            self.command,
            os.environ,
            facts,
            cache_dir=self.cache_dir,
            identity=identity,
            model=model,
            trust_domain=domain,
        )


def _is_another(difference: Difference) -> bool:
    """Whether a command is none of the object's, as far as both say it: what the image sets, or a
    file that an option names, is not in the object."""
    if difference.part == "env":
        return bool(difference.theirs)
    if difference.part == "paths":
        return difference.name != "hub" and bool(difference.ours and difference.theirs)
    return difference.part in ("args", "parallel")


def _name(engine: str, command: Sequence[str]) -> str:
    """`vllm-llama-3-8b`, `torch-train`: the engine, and its model or script."""
    model = model_of_command(engine, command, os.environ).id if engine != "other" else ""
    scripts = (found[1] for word in command if (found := _SCRIPT.fullmatch(word)))
    what = model.rstrip("/").rpartition("/")[2] or next(scripts, "") or program_of(command)
    text = f"{engine}-{what.rpartition('/')[2]}"
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:NAME_MAX].strip("-") or "cache"


def trust_of(
    found: CompileRunSettings, cache: CompileCache | None, own: SigningKey | None = None
) -> Trust:
    """Whose bundles are taken: our own, those by keys that are given, those that an object pins.

    Raises:
        UsageError: a key can't be used.
    """
    if own is None and found.signing_key is not None:
        own = SigningKey.load(found.signing_key)
    keys = [own.public] if own is not None else []
    if found.public_keys is not None:
        keys += TrustedKeys.load(found.public_keys).values()
    return Trust(TrustedKeys(*keys), frozenset(cache.spec.bundles.digests if cache else ()))


class Shelf:
    """What a compile cache's bundles are kept on: this machine's root, and a place."""

    def __init__(
        self, found: CompileRunSettings, name: str, cache: CompileCache | None = None
    ) -> None:
        """Open it.

        Raises:
            UsageError: a key can't be used, or the place is none.
            StoreDamaged: the root can't be used.
        """
        self._found = found
        self._store = store_of(found)
        layout = self._store.layout
        self.durable = Durable(layout.scratch)
        self.holding = Holding(layout, self.durable)
        self.marks = Marks(layout, self.durable)
        self.trust = trust_of(found, cache, self.signing_key())
        place, fetcher = self._place(cache)
        self.sources = Sources(name, self.holding, self.marks, self.trust, place, fetcher)

    def signing_key(self) -> SigningKey:
        """The key that captures are signed with.

        Raises:
            UsageError, InsufficientDisk
        """
        if self._found.signing_key is not None:
            return SigningKey.load(self._found.signing_key)
        return own_key(self._store.layout, self.durable)

    def _place(self, cache: CompileCache | None) -> tuple[Place | None, BundleFetcher | None]:
        uri = self._found.bundles or (cache.spec.bundles.uri if cache is not None else None)
        if uri is None:
            return None, None
        secret = self._found.bundles_secret
        if secret is None and cache is not None and not self._found.bundles:
            secret = cache.spec.bundles.secret_name
        engine, origins = outfit(self._found, self._store.layout.root, file_roots=None)
        return open_place(uri_of(uri), secret, origins), BundleFetcher(self._store, engine)
