"""Before an engine starts: its key, a bundle for it, and a cache directory seeded from that.

Whatever fails here costs the engine nothing but what it could have been spared.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from modelcache.compilecache.bundles.local import LocalBundle
from modelcache.compilecache.engines.table import Engine
from modelcache.compilecache.keys.parts import Key
from modelcache.compilecache.starts.cachedirs import taken
from modelcache.compilecache.starts.reporting import Seeding
from modelcache.compilecache.starts.seeding import Seeded, seed
from modelcache.compilecache.starts.sources import Sourced, Sources
from modelcache.compilecache.starts.using import in_use
from modelcache.compilecache.trees.scanning import Tree, scan
from modelcache.errors import BrokenBundle, Cancelled, ModelCacheError
from modelcache.transfer.cancelling import Cancel


@dataclass(frozen=True)
class Wishes:
    """What is asked for of the start's preparation."""

    engine: Engine
    env: Mapping[str, str]
    """The engine's, as the user has it."""
    cache_dir: Path
    key: Callable[[], Key]
    """Takes seconds: the engine's packages are looked at."""
    sources: Sources
    seeds: bool = True


@dataclass(frozen=True)
class Prepared:
    """How the engine is to be started, and what is known of its cache.

    Attributes:
        env: its environment.
        key: what it is started for; None: it can't be told.
        usable: whether its caches lie in a directory that it has for itself, so that they may be
            captured afterwards.
        bundle: what that was seeded from.
        seeding: the same for the report.
        before: the files that were in it.
        notes: what the user is to know.
    """

    env: Mapping[str, str]
    key: Key | None = None
    usable: bool = False
    bundle: LocalBundle | None = None
    seeding: Seeding = field(default_factory=Seeding)
    before: Tree = field(default_factory=lambda: Tree(()))
    notes: tuple[str, ...] = ()


def prepare(wishes: Wishes, kept: ExitStack, cancel: Cancel) -> Prepared:
    """Do what can be done.

    Args:
        kept: what has to stay as long as the engine runs: the cache directory's lock.

    Raises:
        Cancelled
    """
    key = None
    try:
        key = wishes.key()
        cancel.check()
        directory = kept.enter_context(taken(wishes.cache_dir))
        began = time.monotonic()
        sourced = wishes.sources.look(key, cancel) if wishes.seeds else Sourced()
        env, notes = _environment(wishes)
        bundle = sourced.bundle
        digest = bundle.digest if bundle else None
        left = directory.prepare(key.digest, digest, keep=wishes.seeds)
        seeding = Seeding(message=sourced.message if wishes.seeds else "it was not asked for")
        if bundle is not None:
            seeding = _seed(bundle, sourced, wishes, cancel)
            seeding = seeding.model_copy(update={"seconds": time.monotonic() - began})
        elif left:
            seeding = seeding.model_copy(update={"source": "kept"})
        before = scan(wishes.cache_dir, wishes.engine.wanted)
        seeded = bundle if seeding.digest is not None else None
        return Prepared(env, key, True, seeded, seeding, before, notes)
    except Cancelled:
        raise
    except (ModelCacheError, OSError) as error:
        why = str(error) if isinstance(error, ModelCacheError) else told(error)
        return Prepared(wishes.env, key, seeding=Seeding(message=why))


def _seed(bundle: LocalBundle, sourced: Sourced, wishes: Wishes, cancel: Cancel) -> Seeding:
    """Seed; a bundle that is broken on this disk goes, so that a good one can come."""
    try:
        with in_use(bundle.directory):
            seeded: Seeded = seed(bundle, wishes.cache_dir, cancel=cancel)
    except BrokenBundle as error:
        sources, statement = wishes.sources, bundle.statement
        sources.holding.remove(sources.name, statement.key.digest, statement.digest, force=True)
        return Seeding(message=f"the bundle on this machine is damaged and was removed: {error}")
    if not seeded.seeded:
        return Seeding(message=seeded.why)
    return Seeding(
        digest=bundle.digest,
        source=sourced.source,
        files=seeded.files,
        bytes=seeded.bytes,
        message=sourced.message,
    )


def _environment(wishes: Wishes) -> tuple[dict[str, str], tuple[str, ...]]:
    """The engine's environment: what the user has set stays, and is told where it matters."""
    wanted = wishes.engine.environment(wishes.cache_dir)
    kept = {name for name, value in wanted.items() if wishes.env.get(name, value) != value}
    notes = tuple(
        f"{name} is set to something else than {wanted[name]}: what the engine keeps there is"
        " neither seeded nor captured, unless it lies in the cache directory"
        for name in sorted(kept)
    )
    own = {name: value for name, value in wanted.items() if name not in kept}
    return {**wishes.env, **own}, notes


def told(error: OSError) -> str:
    """What the system says is wrong, and with which file."""
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"
