"""modelcache explain: why a model is here or isn't, from all that this node knows of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from modelcache.api import ModelReport
from modelcache.catalog import FileCatalog
from modelcache.cli.collectingcmd import Unwanted, plain_disk, plain_staying, revision
from modelcache.cli.happened import Lately, compiled_of, happened
from modelcache.cli.inspecting import Name
from modelcache.cli.nodes.sources import OWN_LIMITS, agents_disk
from modelcache.cli.options import Output, Root, flag, open_store, settings
from modelcache.cli.output import Format, Said, age, human_bytes, one_line, print_json
from modelcache.cli.topcmd import Agent, ClusterWide, Kubeconfig, Namespace
from modelcache.errors import NotFound, Reason, UsageError
from modelcache.planning.explaining import Explanation, without_holders
from modelcache.planning.explaining import explain as explained
from modelcache.planning.placement import selects
from modelcache.service.collecting import Collection, collection
from modelcache.settings import AgentSettings, StatusSettings


def explain(
    name: Name,
    cluster: ClusterWide = False,
    root: Root = None,
    catalog: Annotated[Path | None, flag("catalog", "PATH")] = None,
    node_name: Annotated[str | None, flag("node_name", "NAME")] = None,
    node_labels: Annotated[str | None, flag("node_labels", "KEY=VALUE,...")] = None,
    delete_unwanted_after: Unwanted = None,
    agent: Agent = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = None,
    output: Output = Format.TABLE,
) -> None:
    """Say why a model is here or isn't, what happened to it, and what would have to happen.

    It rests on the store, on what this node's agent last reported, and on what the agent says that
    happened lately. With --catalog it says as well whether the files there place the model here.
    With --cluster it tells of all nodes, from what the API server has.
    """
    if cluster:
        # The client of the API server takes half a second to be imported.
        from modelcache.cli.explainfleet import explain_fleet

        everywhere = settings(StatusSettings, kubeconfig=kubeconfig, namespace=namespace)
        explain_fleet(name, everywhere, output)
        return
    store = open_store(root)
    asked = settings(
        AgentSettings,
        catalog=catalog,
        node_name=node_name,
        node_labels=node_labels,
        delete_unwanted_after=delete_unwanted_after,
    )
    address = settings(StatusSettings, listen=agent).address
    placement = _placement(name, asked) if asked.catalog is not None else None
    found = collection(store, asked.delete_unwanted_after, agents_disk(address, store.layout.root))
    report = found.reports.get(name)
    if report is None:
        raise NotFound(
            f"{name} is not here, and nothing wants it here: neither the store nor the agent's last"
            f" report knows it{'; ' + placement if placement else ''}. A CachedModel of that name"
            " either isn't there or doesn't select this node"
        )
    size = max(0, report.bytes_total - report.bytes_done)
    room = found.room(name, size, report.priority) if size else None
    compiled = compiled_of(store, name)
    answer = explained(
        report,
        found.uses,
        found.space,
        room,
        grace=found.grace,
        now=found.now,
        own_limits="" if found.is_told else OWN_LIMITS,
        placement=placement,
        compiled=compiled,
    )
    lately = happened(address, store, {name, *(each.name for each in compiled)})
    if output is Format.JSON:
        content = _plain_answer(answer, found)
        content["compileCaches"] = [each.to_document() for each in compiled]
        content["events"] = [each.plain() for each in lately.events]
        print_json(
            "Explanation", {**content, **({"agent": lately.silent} if lately.silent else {})}
        )
        return
    _tell_answer(answer)
    said = Said()
    for cache in compiled:
        said.once(cache.message or "", "as in compiled")
    said.once(report.message or "", "as in state")
    _tell_events(lately, report, said)


def _placement(name: str, asked: AgentSettings) -> str:
    assert asked.catalog is not None
    if not asked.catalog.exists():
        raise UsageError(f"{asked.catalog} is not there")
    catalog = FileCatalog(asked.catalog).read()
    model = catalog.models.get(name)
    if model is None:
        return f"{asked.catalog} has no CachedModel {name}"
    if asked.labels is None:
        return "yes: the labels of this node are not known, so every object is for it"
    if selects(model.spec, asked.node_name, asked.labels):
        return f"yes: its nodeSelector and nodeAffinity select {asked.node_name}"
    return f"no: its nodeSelector or nodeAffinity does not select {asked.node_name}"


def _plain_answer(answer: Explanation, found: Collection) -> dict[str, Any]:
    return {
        "verdict": answer.verdict,
        "facts": [{"about": about, "message": message} for about, message in answer.facts],
        "holders": [plain_staying(each) for each in answer.holders],
        "remedies": list(answer.remedies),
        "disk": plain_disk(found),
    }


def _tell_answer(answer: Explanation) -> None:
    print(one_line(answer.verdict))
    print()
    for about, message in answer.facts:
        print(f"{about + ':':<10}{one_line(message)}")
    for number, each in enumerate(answer.holders):
        about = "" if number else "held by:"
        told = f"{each.model} {revision(each.snapshot)}, {human_bytes(each.size)}: {each.why}"
        print(f"{about:<10}{one_line(told)}")
    for number, remedy in enumerate(answer.remedies):
        print(f"{'' if number else 'to do:':<10}{one_line(remedy)}")


def _tell_events(lately: Lately, report: ModelReport, said: Said) -> None:
    for number, each in enumerate(lately.events):
        times = f", {each.count} times" if each.count > 1 else ""
        about = "" if number else "lately:"
        message = each.message
        if each.is_of_room:
            # How much is missing, and what holds it, changes with each try.
            is_so_now = report.reason is Reason.INSUFFICIENT_DISK
            message = "as in state" if is_so_now else without_holders(message)
        message = said.once(message, "the same")
        told = f"{age(each.at)} ago{times}: {each.reason}: {message}"
        print(f"{about:<10}{one_line(told)}")
    if lately.silent:
        print(f"{'agent:':<10}{one_line(lately.silent)}")
