"""What there is to do for a compile cache on a node."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Look:
    """Ask the place which bundles it has for the key."""

    name: str


@dataclass(frozen=True, slots=True)
class Fetch:
    """Bring a bundle."""

    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class Publish:
    """Bring a bundle of this node to the place."""

    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class Show:
    """Let `current` lead to a bundle that is here."""

    name: str
    key: str
    digest: str


@dataclass(frozen=True, slots=True)
class Hide:
    """Let `current` lead nowhere: what it leads to is not to be seeded."""

    name: str


@dataclass(frozen=True, slots=True)
class Discard:
    """Delete one bundle that is of no use any more."""

    name: str
    key: str
    digest: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Delete all of an object that nothing wants any more."""

    name: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop what runs for an object: it is for what nobody wants any more."""

    name: str


Action = Look | Fetch | Publish | Show | Hide | Discard | Remove | Stop
Work = Look | Fetch | Publish
