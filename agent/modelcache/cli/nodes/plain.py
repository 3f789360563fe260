"""Nodes for who reads lines or JSON: pipes, logs, terminals that can do nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from modelcache.cli.nodes import tables
from modelcache.cli.nodes.sums import Order, Row, Sum, by_node, sorted_rows, total
from modelcache.cli.nodes.views import Look
from modelcache.cli.output import one_line, progressed
from modelcache.planning.wording import Stage


def document(look: Look, found: Sequence[Row], at: float) -> dict[str, Any]:
    """Everything that is known, as the content of one document. Rates are in bytes a second."""
    sums = by_node(look, found)
    rates: dict[str, dict[str, Any]] = {}
    for row in found:
        if row.rate is not None:
            rates.setdefault(row.node, {})[row.report.name] = {
                "bytesPerSecond": round(row.rate),
                **({} if row.left is None else {"secondsLeft": round(row.left)}),
            }
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at)),
        "source": look.where,
        **({"message": look.trouble} if look.trouble else {}),
        "summary": _counts(total(found)),
        "nodes": [
            {
                "name": node.name,
                "toldBy": node.teller.value,
                "agent": node.agent.value,
                **({"message": node.note} if node.note else {}),
                "summary": _counts(sums[node.name]),
                **({"rates": rates[node.name]} if node.name in rates else {}),
                "status": node.status.to_document() if node.status is not None else None,
            }
            for node in look.nodes
        ],
    }


def _counts(each: Sum) -> dict[str, int]:
    counts = {stage.key: each.stages[stage] for stage in Stage}
    return {"wanted": each.wanted, **counts, Stage.READY.key: each.ready}


def lines(look: Look, found: Sequence[Row], at: float) -> Iterator[str]:
    """One line for all together, and one for each model that fails or is on the way."""
    when = time.strftime("%H:%M:%S", time.localtime(at))
    everything = total(found)
    speed = tables.speed(everything)
    yield f"{when} {tables.counted(everything)}{f'; {speed}' if speed else ''}"
    for warning in tables.warnings(look):
        yield f"{when} {one_line(warning)}"
    several = len(look.nodes) > 1
    for row in sorted_rows(found, Order.URGENCY):
        if row.stage.is_failing or row.stage is Stage.ON_THE_WAY:
            where = f"{row.node} " if several else ""
            yield one_line(f"{when} {where}{row.report.name}: {_told(row)}")


def _told(row: Row) -> str:
    report = row.report
    told = tables.remark(row)
    if row.stage is Stage.ON_THE_WAY and report.bytes_total:
        progress = progressed(report.bytes_done, report.bytes_total, row.rate)
        told = "; ".join(part for part in (progress, told) if part)
    return f"{report.state.value}, {told}" if told else report.state.value
