"""Nodes as agents report them, and what happens on them, told by the code that tells of it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from modelcache import __version__
from modelcache.api import ModelReport, ModelState, NodeCache, NodeCacheStatus
from modelcache.api.nodecache import CatalogReport, CompileReport, DiskReport, NodeMeta
from modelcache.cluster.changes import ReportChanges
from modelcache.service.happenings import Happening, Happenings
from modelcache.service.page import Facts, ReadAhead
from modelcache.service.reporting import DISK_CONDITION, disk_condition
from modelcache.store import DiskSpace
from modelcache.store.sickness import WELL, Health
from tests.support.pages.models import GIB, NOW, ROOT, before

SINCE: Final = timedelta(days=3, hours=5)
"""How long the agent has been there."""


def node(
    *models: ModelReport,
    name: str = "gpu-pool-a-7f3k",
    capacity: int = 3500,
    health: Health = WELL,
    compile_caches: tuple[CompileReport, ...] = (),
    **more: Any,
) -> NodeCache:
    """A node's report; `capacity` of its disk in GiB."""
    content = sum(each.bytes_done for each in models if each.state is ModelState.READY)
    content += sum(each.bytes for each in compile_caches)
    space = space_of(capacity, models, compile_caches)
    fields: dict[str, Any] = {
        "disk": DiskReport(
            capacity=space.capacity,
            available=space.available,
            used=content,
            reserved=space.reserved,
            taken=space.used,
            budget=space.budget,
            free=space.free,
            inodes=space.inodes,
            inodes_free=space.inodes_free,
        ),
        "catalog": CatalogReport(objects=sum(each.wanted for each in models)),
        "conditions": (disk_condition(health, None, before(minutes=12)),),
        **more,
    }
    status = NodeCacheStatus(
        agent_version=__version__,
        root=ROOT,
        models=tuple(sorted(models, key=lambda each: each.name)),
        compile_caches=compile_caches,
        **fields,
    )
    return NodeCache(metadata=NodeMeta(name=name), status=status)


def space_of(
    capacity: int, models: tuple[ModelReport, ...], compiled: tuple[CompileReport, ...] = ()
) -> DiskSpace:
    """The disk with these models on it; a fifth is kept free, and others have 12 GiB."""
    size, others = capacity * GIB, 12 * GIB
    used = sum(each.bytes_done for each in models) + sum(each.bytes for each in compiled)
    moving = [each for each in models if each.state in (ModelState.DOWNLOADING, _UNPACKED)]
    reserved = sum(each.bytes_total - each.bytes_done for each in moving)
    free, kept = size - used - others, size // 5
    return DiskSpace(
        capacity=size,
        available=max(0, free - kept - reserved),
        reserved=reserved,
        used=used,
        others=others,
        kept_free=kept,
        budget=used + max(0, free - kept),
        free=free,
        inodes=size >> 14,
        inodes_free=(size >> 14) - sum(each.files for each in models) - 1_000,
    )


_UNPACKED: Final = ModelState.VERIFYING


def facts(found: NodeCache | None, *events: Happening, **more: Any) -> Facts:
    """What the page tells of a node."""
    fields: dict[str, Any] = {
        "now": NOW,
        "since": NOW - SINCE,
        "version": __version__,
        "age": 0.4,
        "happenings": events,
        "read_ahead": ReadAhead("nvme1n1", 8 << 20),
        "watermarks": (0.9, 0.8),
        **more,
    }
    return Facts(node=found, **fields)


class Story:
    """What happened on a node since its agent started."""

    def __init__(self, since: timedelta = SINCE) -> None:
        self._now = NOW - since
        self._told = Happenings(clock=self._clock)
        self._told.note("AgentStarted", "", f"modelcache {__version__}")

    def at(self, **ago: float) -> Happenings:
        """Who is told of what happened so long ago."""
        self._now = before(**ago)
        return self._told

    def changed(self, old: NodeCache, new: NodeCache, **ago: float) -> None:
        """The next report said something else."""
        assert new.status is not None
        ReportChanges(self.at(**ago), old, DISK_CONDITION).look(new.status, {})

    @property
    def latest(self) -> tuple[Happening, ...]:
        """The last one first."""
        return self._told.latest()

    def _clock(self) -> datetime:
        return self._now
