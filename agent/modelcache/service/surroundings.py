"""What lies around one node's cache: the node itself, who uses its content, who else fetches."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Mapping
from dataclasses import dataclass
from typing import Protocol

from modelcache.planning.using import Uses


@dataclass(frozen=True, slots=True)
class Node:
    """The node, as far as planning looks at it. `labels` None: unknown, every object is meant."""

    name: str
    labels: Mapping[str, str] | None = None


class Surroundings(Protocol):
    """What the reconciler asks in every round. Answers come from memory, at once; who has files
    open is looked for within some seconds."""

    def node(self) -> Node | None:
        """The node; None as long as it is not known: nothing is decided then."""

    def uses(self) -> Uses:
        """Who uses which content, as of some seconds ago at most: that is not deleted, and nothing
        where it is not known."""

    def labelled(self) -> Collection[str] | None:
        """Models whose label the node carries: their content is not deleted.

        None where that is not known: nothing is deleted then.
        """

    def permitted(self) -> Container[str] | None:
        """Keys of the fetches that may begin; None: all."""

    def want_permits(self, keys: Mapping[str, int], most: int) -> None:
        """Ask for the permits of fetches that run or are to run, by key with their priority.

        Whatever is not among them is given back. `most`: how many are of use at a time.
        """


class Alone:
    """A daemon that knows of no cluster."""

    def __init__(self, node: Node, uses: Callable[[], Uses] | None = None) -> None:
        """`uses` says who uses what; without it nobody knows."""
        self._node = node
        self._uses = uses

    def node(self) -> Node:
        """The node as it was told by settings."""
        return self._node

    def uses(self) -> Uses:
        """What this machine tells."""
        if self._uses is None:
            return Uses(unknown="nobody tells who uses what")
        return self._uses()

    def labelled(self) -> Collection[str]:
        """There is no node that could carry a label."""
        return ()

    def permitted(self) -> Container[str] | None:
        """Everything."""
        return None

    def want_permits(self, keys: Mapping[str, int], most: int) -> None:
        """Nobody gives any."""
