"""modelcache status: what nodes hold and do, once."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import Final

from modelcache.cli.nodes import tables
from modelcache.cli.nodes.plain import document
from modelcache.cli.nodes.rates import Rates
from modelcache.cli.nodes.sources import Source, ThisNode
from modelcache.cli.nodes.sums import (
    Order,
    Row,
    by_model,
    by_node,
    rows,
    sorted_rows,
    sorted_sums,
    total,
)
from modelcache.cli.nodes.views import Look
from modelcache.cli.options import Output, Root, settings
from modelcache.cli.output import Format, age, human_bytes, one_line, print_json, print_table
from modelcache.cli.topcmd import Agent, ClusterWide, Kubeconfig, Namespace, is_given
from modelcache.planning.wording import Stage, share
from modelcache.settings import StatusSettings

_LEAST_LINES: Final = 10
_TROUBLED: Final = 20
"""Nodes with a model that fails, of which each is named."""


def status(
    cluster: ClusterWide = False,
    root: Root = None,
    agent: Agent = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = None,
    output: Output = Format.TABLE,
) -> None:
    """Say what this node, or all nodes, hold: models, disk, compile caches, and what is wrong.

    This node's agent is asked; where none answers, the root tells what it last wrote. What fails
    and what is on the way comes first.
    """
    found = settings(
        StatusSettings, root=root, listen=agent, kubeconfig=kubeconfig, namespace=namespace
    )
    with closing(_source(found, cluster=cluster)) as source:
        look = source.look()
    models = sorted_rows(rows(look, Rates()), Order.URGENCY)
    if output is Format.JSON:
        print_json("Status", document(look, models, time.time()))
        return
    facts = _facts(look, models)
    for about, value in facts:
        print(f"{about:<10}{one_line(value)}")
    if cluster:
        _tell_cluster(look, models)
    else:
        _tell_node(look, models, used=len(facts) + 2)


def _source(found: StatusSettings, *, cluster: bool) -> Source:
    if not cluster:
        return ThisNode(found, root_given=is_given(found))
    # The client of the API server takes half a second to be imported.
    from modelcache.cli.nodes.fleet import ListedFleet

    return ListedFleet(found)


def _facts(look: Look, models: Sequence[Row]) -> list[tuple[str, str]]:
    facts = [
        ("node", look.nodes[0].name if len(look.nodes) == 1 else ""),
        ("told by", tables.told_by(look)),
        ("models", tables.counted(total(models))),
        ("disk", tables.disk_line(look)),
        ("compiled", tables.compiled(look.nodes)),
    ]
    warnings = [("warning", each) for each in tables.warnings(look)]
    return [(about, value) for about, value in [*facts, *warnings] if value]


def _tell_node(look: Look, models: Sequence[Row], used: int) -> None:
    shown = _seen(models, used)
    if shown:
        print()
        print_table(["MODEL", "STATE", "DONE", "SIZE", "AGE", "USED"], [_row(row) for row in shown])
    _tell_more(models[len(shown) :])
    compiled = list(tables.compile_rows(look.nodes))
    if compiled:
        print()
        columns = ["COMPILE CACHE", "STATE", "SIZE", "AGE", "LAST START"]
        print_table(
            columns,
            [
                [
                    one_line(each.name),
                    each.state.value,
                    human_bytes(each.bytes) if each.bytes else "",
                    age(each.created_at),
                    f"{each.last_start.result}, {age(each.last_start.at)} ago"
                    if each.last_start
                    else "",
                ]
                for _, each in compiled
            ],
        )
    _tell_remarks((row.report.name, tables.remark(row)) for row in shown)
    _tell_remarks((each.name, each.message or "") for _, each in compiled)


def _seen(models: Sequence[Row], used: int) -> Sequence[Row]:
    """The rows that fit the terminal, and all that isn't well; everything, where it is none."""
    if not sys.stdout.isatty():
        return models
    try:
        height = os.get_terminal_size(sys.stdout.fileno()).lines
    except OSError:
        return models
    urgent = sum(row.stage < Stage.READY for row in models)
    return models[: max(urgent, _LEAST_LINES, height - used - 6)]


def _tell_more(rest: Sequence[Row]) -> None:
    if rest:
        ready = sum(row.stage is Stage.READY for row in rest)
        what = "all ready" if ready == len(rest) else f"{ready} of them ready"
        print(f"and {len(rest)} more, {what}; modelcache ls lists them")


def _row(row: Row) -> list[str]:
    report = row.report
    done, size = report.bytes_done, report.bytes_total
    partly = not row.stage.is_ready and 0 < done < size
    told = f"{human_bytes(done)} ({share(done, size)})" if partly else ""
    return [
        one_line(report.name),
        report.state.value,
        told,
        human_bytes(size) if size else "",
        age(report.finished_at),
        "now" if report.used_by else age(report.last_used_at),
    ]


def _tell_remarks(remarks: Iterable[tuple[str, str]]) -> None:
    told = [(name, remark) for name, remark in remarks if remark]
    if told:
        print()
    for name, remark in told:
        print(one_line(f"{name}: {remark}"))


def _tell_cluster(look: Look, models: Sequence[Row]) -> None:
    columns = ["READY", "ON THE WAY", "FAILING", "DONE", "HOLDS"]
    agents = {node.name: node.agent.value for node in look.nodes}
    for what, sums in (("NODE", by_node(look, models)), ("MODEL", by_model(models))):
        if not sums:
            continue
        print()
        table = []
        for each in sorted_sums(sums.values(), Order.URGENCY):
            done = share(each.came, each.coming) if each.coming else ""
            table.append(
                [
                    one_line(each.name),
                    f"{each.ready}/{each.wanted}",
                    str(each.stages[Stage.ON_THE_WAY] or ""),
                    str(each.failing or ""),
                    done,
                    human_bytes(each.size) if each.size else "",
                    *([agents[each.name]] if what == "NODE" else []),
                ]
            )
        print_table([what, *columns, *(["AGENT"] if what == "NODE" else [])], table)
    failing = [row for row in models if row.stage.is_failing]
    _tell_remarks(
        (f"{row.report.name} on {row.node}", tables.remark(row)) for row in failing[:_TROUBLED]
    )
    if len(failing) > _TROUBLED:
        print(f"and {len(failing) - _TROUBLED} more that fail; modelcache top --cluster shows them")
