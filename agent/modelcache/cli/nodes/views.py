"""What is known of each node at one moment, and where it is known from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from modelcache.api import ModelReport, NodeCacheStatus


class Teller(StrEnum):
    """Who told."""

    AGENT = "Agent"
    """The node's agent, just now."""
    ROOT = "Root"
    """What lies in the root: the store, and what an agent last wrote there."""
    CLUSTER = "Cluster"
    """The API server: what the agent last published."""


class AgentState(StrEnum):
    """Whether a node's agent works."""

    UP = "Up"
    DOWN = "Down"
    UNKNOWN = "Unknown"
    """It can't be told: pods may not be listed, or nobody said where it listens."""


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node.

    Attributes:
        name: the node's.
        status: what is reported; None where nothing was reported yet.
        teller: who told.
        agent: whether its agent works.
        note: what is to be known of this report, as a sentence; empty where it is as it should be.
    """

    name: str
    status: NodeCacheStatus | None
    teller: Teller
    agent: AgentState = AgentState.UNKNOWN
    note: str = ""

    @property
    def models(self) -> tuple[ModelReport, ...]:
        """Its models, by name."""
        return self.status.models if self.status is not None else ()


@dataclass(frozen=True, slots=True)
class Look:
    """All that was asked for, at one moment.

    Attributes:
        nodes: by name.
        where: who was asked, for people.
        trouble: why it is not of this moment; empty where it is.
    """

    nodes: tuple[NodeView, ...]
    where: str
    trouble: str = ""
