"""What the agent's endpoints answer about the node: `/v1/node`, and `/readyz`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from modelcache.api import NodeCache
from modelcache.catalog import Catalog
from modelcache.service.diskwatch import DiskWatch
from modelcache.service.endpoints import Answer, document, text
from modelcache.service.reporting import is_unreadable
from modelcache.store.sickness import DiskState


def node(report: NodeCache | None) -> Answer:
    """The node's report."""
    if report is None:
        return text(503, "the cache was not looked at yet")
    return document(report.to_document())


class Readiness:
    """Whether the agent can work: its catalog is read, its disk can be written. Models may be
    missing: that is the node's affair, and told by its condition."""

    def __init__(
        self,
        catalog: Callable[[], Catalog | None],
        disk: DiskWatch,
        scratch: Path,
        *,
        from_files: bool,
    ) -> None:
        """`scratch`: where a file is written to see that it can be. `from_files`: whether who
        deploys the agent also writes the catalog, and is to see that none of it can be read."""
        self._catalog = catalog
        self._disk = disk
        self._probe = scratch / "readyz"
        self._from_files = from_files

    def readyz(self) -> Answer:
        """200, or 503 and why."""
        catalog = self._catalog()
        if catalog is None:
            return text(503, "the catalog was not read yet")
        if is_unreadable(catalog) and self._from_files:
            return text(503, f"nothing of the catalog can be read: {catalog.problems[0]}")
        health = self._disk.health
        if health.state is DiskState.DOWN:
            return text(503, health.message)
        try:
            self._probe.write_bytes(b"ok")
            self._probe.unlink(missing_ok=True)
        except OSError as error:
            self._disk.noted(error)
            return text(503, f"the disk can't be written: {error.strerror}")
        return text(200, "ok")
