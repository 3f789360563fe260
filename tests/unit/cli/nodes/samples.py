"""Nodes as they may be reported."""

from __future__ import annotations

from typing import Any

from modelcache.api import DiskReport, ModelReport, ModelState, NodeCacheStatus
from modelcache.cli.nodes.views import AgentState, Look, NodeView, Teller
from modelcache.errors import Reason

GIB = 1 << 30
DISK = DiskReport(
    capacity=900 * GIB, available=400 * GIB, used=300 * GIB, reserved=GIB, taken=301 * GIB,
    budget=800 * GIB,
)  # fmt: skip


def ready(name: str, size: int = 2 * GIB, **more: Any) -> ModelReport:
    return ModelReport(name=name, state=ModelState.READY, bytes_done=size, bytes_total=size, **more)


def moving(name: str, done: int, size: int = 2 * GIB, **more: Any) -> ModelReport:
    return ModelReport(
        name=name, state=ModelState.DOWNLOADING, revision="r" * 40, bytes_done=done,
        bytes_total=size, **more,
    )  # fmt: skip


def failing(name: str, message: str = "the token is refused", **more: Any) -> ModelReport:
    return ModelReport(
        name=name, state=ModelState.FAILED, reason=Reason.AUTH_FAILED, message=message, **more
    )


def status(*models: ModelReport, **more: Any) -> NodeCacheStatus:
    return NodeCacheStatus(agent_version="1.2.3", root="/cache", models=models, disk=DISK, **more)


def node(*models: ModelReport, **more: Any) -> NodeView:
    return NodeView("n1", status(*models, **more), Teller.AGENT, AgentState.UP)


def one(*models: ModelReport, **more: Any) -> Look:
    return Look((node(*models, **more),), "127.0.0.1:8080")


def fleet(**nodes: NodeCacheStatus | None) -> Look:
    views = [NodeView(n, s, Teller.CLUSTER, AgentState.UP) for n, s in sorted(nodes.items())]
    return Look(tuple(views), "https://api")
