"""What a root holds, for commands that run beside an agent or without one."""

from __future__ import annotations

from modelcache.api import ModelReport, ModelState
from modelcache.planning.describing import describe
from modelcache.service.inventory import Inventory
from modelcache.service.reporting import read_node_report
from modelcache.store import Store


def model_reports(store: Store) -> tuple[ModelReport, ...]:
    """Every model that the store holds or the agent's last report speaks of, by name.

    What is ready is the store's to say; what is wanted, fetched or failing the agent's.
    """
    report = read_node_report(store.layout)
    told = {
        model.name: model for model in (report.status.models if report and report.status else ())
    }
    inventory = Inventory(store)
    found: dict[str, ModelReport] = {}
    for name, held in inventory.read().items():
        mine = describe(name, None, held, None, None, None, inventory.paths(name))
        agents = told.get(name)
        # Without an agent's word, what is here is wanted: somebody has prefetched it.
        update: dict[str, object] = {"wanted": True}
        if agents is not None:
            update = {
                field: getattr(agents, field)
                for field in ("wanted", "priority", "pinned", "reason", "message", "attempts")
            }
        found[name] = mine.model_copy(update=update)
    for name, agents in told.items():
        if name not in found and agents.wanted:
            gone = agents.state is ModelState.READY
            found[name] = (
                agents.model_copy(update={"state": ModelState.PENDING}) if gone else agents
            )
    return tuple(found[name] for name in sorted(found))
