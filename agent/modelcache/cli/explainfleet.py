"""`modelcache explain NAME --cluster`: one model over all nodes, from what the API server has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from modelcache.cli.nodes.fleet import ListedFleet
from modelcache.cli.nodes.rates import Rates
from modelcache.cli.nodes.sums import Order, Row, rows, sorted_rows
from modelcache.cli.nodes.tables import compile_rows, remark
from modelcache.cli.nodes.views import AgentState, Look
from modelcache.cli.output import Format, Said, age, human_bytes, one_line, print_json
from modelcache.cluster.client import CACHED_MODELS, EVENTS, Client, Object
from modelcache.cluster.events import NAMESPACE, OLD_NAMESPACE
from modelcache.cluster.reading import read_model
from modelcache.errors import ClusterError, NotFound, UsageError
from modelcache.planning.wording import Stage
from modelcache.settings import StatusSettings

_MOST_NODES: Final = 10
_MOST_EVENTS: Final = 10
_TELLERS: Final = ("modelcache.dev/agent", "modelcache.dev/controller")


@dataclass(frozen=True, slots=True)
class _Event:
    """One Event that has to do with the model."""

    at: str
    where: str
    reason: str
    note: str
    count: int


def explain_fleet(name: str, found: StatusSettings, output: Format) -> None:
    """Say how far all nodes are with a model, and why.

    Raises:
        UsageError: there is no way to the API server.
        ClusterError
        NotFound: neither an object nor a node knows it.
    """
    with closing(ListedFleet(found)) as source:
        look = source.look()
        thing = _object(source.client, name)
        events, silent = _events(source.client, name)
    here = sorted_rows((r for r in rows(look, Rates()) if r.report.name == name), Order.URGENCY)
    if thing is None and not here:
        raise NotFound(
            f"there is no CachedModel {name} at {look.where}, and no node holds anything of it"
        )
    verdict = _verdict(name, thing, here)
    said = Said()
    facts = [*_of_the_object(thing), *_of_nodes(look, here, said), *_of_compile_caches(look, name)]
    if output is Format.JSON:
        content = {
            "verdict": verdict,
            "facts": [{"about": about, "message": message} for about, message in facts],
            "nodes": [{"node": row.node, **row.report.to_document()} for row in here],
            "events": _plain(events),
        }
        print_json("Explanation", content)
        return
    print(one_line(verdict))
    print()
    before = ""
    for about, message in [*facts, *_lately(name, events, silent, said)]:
        print(f"{'' if about == before else f'{about}:':<10}{one_line(message)}")
        before = about


def _object(client: Client, name: str) -> Object | None:
    try:
        return client.get(CACHED_MODELS, name)
    except ClusterError as error:
        if error.status == 404:
            return None
        raise


def _verdict(name: str, thing: Object | None, here: Sequence[Row]) -> str:
    wanted = [row for row in here if row.stage is not Stage.UNWANTED]
    if thing is None:
        return f"There is no CachedModel {name} any more: what nodes have of it goes in time."
    if not wanted:
        return f"{name} is on no node: it selects none that has an agent."
    ready = sum(row.stage.is_ready for row in wanted)
    if ready == len(wanted):
        nodes = "the one node" if ready == 1 else f"all {ready} nodes"
        return f"{name} is ready on {nodes} that it selects."
    return f"{name} is ready on {ready} of the {len(wanted)} nodes that it selects."


def _of_the_object(thing: Object | None) -> list[tuple[str, str]]:
    if thing is None:
        return []
    try:
        spec = read_model(thing).spec
    except UsageError as error:
        facts = [("wanted", f"its object can't be read: {error}")]
    else:
        pinned = ", pinned" if spec.pinned else ""
        facts = [("wanted", f"with priority {spec.priority}{pinned}, from {spec.source.shown}")]
    for each in (thing.get("status") or {}).get("conditions") or ():
        if each.get("type") == "Ready":
            facts.append(("status", f"{each.get('reason')}: {each.get('message')}"))
    return facts


def _of_nodes(look: Look, here: Sequence[Row], said: Said) -> list[tuple[str, str]]:
    down = {node.name for node in look.nodes if node.agent is AgentState.DOWN}
    facts = []
    absent = [row for row in here if not row.stage.is_ready and row.stage is not Stage.UNWANTED]
    updates = [row for row in here if row.stage is Stage.UPDATE_FAILING]
    for about, troubled in (("not on", absent), ("failing", updates)):
        facts += [(about, _told(row, down, said)) for row in troubled[:_MOST_NODES]]
        if len(troubled) > _MOST_NODES:
            facts.append((about, f"and {len(troubled) - _MOST_NODES} nodes more"))
    ready = [row.node for row in here if row.stage.is_ready]
    leaving = [row.node for row in here if row.stage is Stage.UNWANTED]
    for about, names in (("ready on", ready), ("leaves", leaving)):
        if names:
            more = f" and {len(names) - _MOST_NODES} more" if len(names) > _MOST_NODES else ""
            facts.append((about, ", ".join(names[:_MOST_NODES]) + more))
    return facts


def _told(row: Row, down: Iterable[str], said: Said) -> str:
    report = row.report
    told = f"{row.node}: {report.state.value}"
    if row.stage is Stage.ON_THE_WAY and report.bytes_total:
        told += f", {human_bytes(report.bytes_done)} of {human_bytes(report.bytes_total)}"
    why = remark(row)
    if report.message:
        why = why.replace(report.message, said.once(report.message, f"as on {row.node}"))
    agent = "; its agent is not ready" if row.node in down else ""
    return f"{told}{f', {why}' if why else ''}{agent}"


def _of_compile_caches(look: Look, name: str) -> list[tuple[str, str]]:
    counts: dict[str, Counter[str]] = {}
    for _, each in compile_rows(look.nodes):
        if each.model == name:
            counts.setdefault(each.name, Counter())[each.state.value] += 1
    return [
        ("compiled", f"{cache}: {', '.join(f'{state} on {n}' for state, n in found.most_common())}")
        for cache, found in sorted(counts.items())
    ]


def _events(client: Client, name: str) -> tuple[list[_Event], str]:
    """The last Events that have to do with the model, newest first; or why there are none."""
    found: list[_Event] = []
    why = ""
    # The second one for API servers from before 1.23; few may read it.
    for namespace in (NAMESPACE, OLD_NAMESPACE):
        try:
            found += _events_in(client, namespace, name)
        except ClusterError as error:
            if namespace == NAMESPACE:
                why = f"Events can't be read: {error}"
    newest = sorted(found, key=lambda each: each.at, reverse=True)[:_MOST_EVENTS]
    return newest, "" if newest else why


def _events_in(client: Client, namespace: str, name: str) -> list[_Event]:
    return [
        _event(each)
        for teller in _TELLERS
        for page in client.pages(EVENTS, namespace, fields=f"reportingController={teller}")
        for each in page.items
        if _is_about(each, name)
    ]


def _is_about(event: Object, name: str) -> bool:
    things = (event.get("regarding") or {}, event.get("related") or {})
    return any(each.get("kind") == "CachedModel" and each.get("name") == name for each in things)


def _event(event: Object) -> _Event:
    series = event.get("series") or {}
    regarding = event.get("regarding") or {}
    return _Event(
        at=str(series.get("lastObservedTime") or event.get("eventTime") or ""),
        where=f"{regarding.get('kind', '')} {regarding.get('name', '')}",
        reason=str(event.get("reason") or ""),
        note=str(event.get("note") or ""),
        count=int(series.get("count") or 1),
    )


def _lately(name: str, events: Sequence[_Event], silent: str, said: Said) -> list[tuple[str, str]]:
    if silent:
        return [("lately", silent)]
    return [("lately", _line(name, each, said)) for each in events]


def _line(name: str, event: _Event, said: Said) -> str:
    times = f", {event.count} times" if event.count > 1 else ""
    when = f"{age(datetime.fromisoformat(event.at))} ago" if event.at else "once"
    note = event.note.removeprefix(f"{name}: ")
    told = event.note.replace(note, said.once(note, "the same")) if note else ""
    return f"{when}{times}, {event.where}: {event.reason}: {told}"


def _plain(events: Iterable[_Event]) -> list[dict[str, Any]]:
    return [
        {"at": e.at, "about": e.where, "reason": e.reason, "message": e.note, "count": e.count}
        for e in events
    ]
