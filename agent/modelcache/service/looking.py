"""What a root holds, for commands that run beside an agent or without one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from modelcache.api import Manifest, ModelReport, ModelState
from modelcache.errors import Reason
from modelcache.host.pagecache import NotTold
from modelcache.planning.describing import describe
from modelcache.service.inventory import Inventory
from modelcache.service.reporting import read_node_report
from modelcache.service.residency import resident_of
from modelcache.store import Store

_DAMAGED = {
    "state": ModelState.FAILED,
    "reason": Reason.CHECKSUM_MISMATCH,
    "message": "files are missing or have another size: run modelcache verify",
}
_GONE = {
    "state": ModelState.PENDING,
    "bytes_done": 0,
    "finished_at": None,
    "path": None,
    "hub_path": None,
}


def model_reports(store: Store, *, measure: bool = False) -> tuple[ModelReport, ...]:
    """Every model that the store holds or the agent's last report speaks of, by name.

    What is ready is the store's to say; what is wanted, fetched or failing the agent's. `measure`:
    with what is in the page cache now, where the kernel tells.
    """
    reports = _reports(store)
    if not measure:
        return reports
    shown = store.shown()
    return tuple(
        report.model_copy(update={"resident_bytes": _resident(store, shown[report.name])})
        if report.state is ModelState.READY and report.name in shown
        else report
        for report in reports
    )


def _resident(store: Store, manifest: Manifest) -> int | None:
    with suppress(NotTold, OSError):
        return resident_of(store.layout, manifest)
    return None


def _reports(store: Store) -> tuple[ModelReport, ...]:
    report = read_node_report(store.layout)
    told = {
        model.name: model for model in (report.status.models if report and report.status else ())
    }
    inventory = Inventory(store)
    found: dict[str, ModelReport] = {}
    for name, held in inventory.read().items():
        mine = describe(name, None, held, None, None, None, inventory.paths(name))
        ready = mine.state is ModelState.READY
        agents = told.get(name)
        if agents is None:
            # Without an agent's word, what is here is wanted: somebody has prefetched it.
            found[name] = mine.model_copy(update={"wanted": True, **({} if ready else _DAMAGED)})
        elif ready and not _is_passed_over(store, agents, [manifest for _, manifest in held]):
            kept = (
                *("wanted", "unwanted_since", "priority", "pinned", "page_cache"),
                *("reason", "message", "attempts", "used_by", "last_used_at"),
            )
            update = {field: getattr(agents, field) for field in kept}
            found[name] = mine.model_copy(update=update)
    for name, agents in told.items():
        if name not in found and agents.wanted:
            gone = agents.state is ModelState.READY
            found[name] = agents.model_copy(update=_GONE) if gone else agents
    return tuple(found[name] for name in sorted(found))


def _is_passed_over(store: Store, agents: ModelReport, held: Sequence[Manifest]) -> bool:
    """Whether the agent knew of these snapshots and did not call the model ready for them.

    They are then for a source that the catalog has no longer.
    """
    if not agents.wanted or agents.state is ModelState.READY:
        return False
    layout = store.layout
    try:
        told_at = layout.node_report.stat().st_mtime_ns
        since = max(layout.manifest(m.model, m.snapshot).stat().st_mtime_ns for m in held)
    except FileNotFoundError:
        return False
    return since < told_at
