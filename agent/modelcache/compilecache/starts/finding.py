"""Which bundle a start is seeded from: of those for exactly its key the newest that is trusted."""

from __future__ import annotations

from dataclasses import dataclass

from modelcache.compilecache.bundles.local import LocalBundle
from modelcache.compilecache.bundles.statement import Statement
from modelcache.compilecache.bundles.trust import Trust
from modelcache.compilecache.starts.holding import Held, Holding
from modelcache.compilecache.starts.marks import Marks
from modelcache.errors import BrokenBundle, ModelCacheError, NotFound, Untrusted


class Withdrawn(ModelCacheError):
    """Starts could not load the bundle: it is seeded no more."""


@dataclass(frozen=True, slots=True)
class Passed:
    """A bundle that a start was not seeded from, though it is for its key."""

    digest: str
    """`sha256:<64 hex>`."""
    why: str
    """A sentence."""


@dataclass(frozen=True, slots=True)
class Found:
    """What there is for a key."""

    bundle: LocalBundle | None
    """The one to seed from."""
    passed: tuple[Passed, ...] = ()
    """Those that are newer, or all, and why they were passed over."""


def find(holding: Holding, marks: Marks, trust: Trust, name: str, key: str) -> Found:
    """Look among the bundles that are held.

    Args:
        name: the compile cache.
        key: 64 hex digits: the key's digest.

    Raises:
        UnsafePath: no compile cache can have that name.
    """
    passed: list[Passed] = []
    for held in reversed(holding.of(name)):
        if held.key != key:
            continue
        try:
            return Found(usable(held, marks, trust), tuple(passed))
        except (Withdrawn, Untrusted, BrokenBundle, NotFound) as error:
            passed.append(Passed(f"sha256:{held.digest}", str(error)))
    return Found(None, tuple(passed))


def usable(held: Held, marks: Marks, trust: Trust) -> LocalBundle:
    """A bundle that a start may be seeded from.

    Raises:
        Withdrawn
        Untrusted: nobody vouches for it.
        BrokenBundle: it is not what its name says.
        NotFound: it was just removed.
    """
    mark = marks.of(held.name, held.digest)
    if mark.withdrawn:
        raise Withdrawn(
            f"the bundle {held.digest[:12]} is withdrawn, since starts could not load it:"
            f" {mark.message}"
        )
    bundle = LocalBundle.open(held.directory)
    statement = trust.admit(bundle.envelope_bytes)
    _check_names(held, statement)
    return bundle


def _check_names(held: Held, statement: Statement) -> None:
    """A signed bundle under the name of another key would be seeded where it doesn't belong."""
    if statement.digest != f"sha256:{held.digest}" or statement.key.digest != held.key:
        raise BrokenBundle(
            f"{held.directory} has the bundle {statement.digest} for key {statement.key.digest}:"
            " it lies at a wrong place; remove it"
        )
