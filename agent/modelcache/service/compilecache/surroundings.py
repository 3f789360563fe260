"""What lies around one node's compile caches."""

from __future__ import annotations

from collections.abc import Collection, Container
from typing import Protocol

from modelcache.service.surroundings import Node


class CompileSurroundings(Protocol):
    """What the keeper asks in every round. Answers come from memory, at once."""

    def node(self) -> Node | None:
        """The node; None as long as it is not known: nothing is decided then."""

    def kept_compile_caches(self) -> Container[str] | None:
        """Compile caches whose bundles may not be deleted now: pods ask for them, or the node
        carries their label. None where that is not known."""

    def published(self, name: str, key: str | None) -> frozenset[str]:
        """Digests that others say were published for a key."""

    def withdrawn(self, name: str) -> frozenset[str]:
        """Digests that are to be seeded nowhere."""

    def permitted_bundles(self) -> Container[str] | None:
        """Digests of the bundles that may be fetched now; None: all."""

    def want_bundles(self, digests: Collection[str], most: int) -> None:
        """Ask for the permits of fetches that run or are to run, of which `most` are of use;
        whatever is not among them is given back."""


class AloneWithCaches:
    """A daemon that knows of no cluster."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def node(self) -> Node:
        """The node as it was told by settings."""
        return self._node

    def kept_compile_caches(self) -> None:
        """Who uses what is not known here."""
        return

    def published(self, name: str, key: str | None) -> frozenset[str]:  # noqa: ARG002
        """Nobody says any."""
        return frozenset()

    def withdrawn(self, name: str) -> frozenset[str]:  # noqa: ARG002
        """Nobody says any."""
        return frozenset()

    def permitted_bundles(self) -> None:
        """Everything."""
        return

    def want_bundles(self, digests: Collection[str], most: int) -> None:
        """Nobody gives any."""
