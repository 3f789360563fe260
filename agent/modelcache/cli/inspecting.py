"""modelcache ls, show, labels: what the cache holds."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Annotated

import typer

from modelcache.api import Manifest, ModelReport, PageCache
from modelcache.cli.options import Output, Root, flag, open_store, settings
from modelcache.cli.output import (
    Format,
    age,
    human_bytes,
    one_line,
    print_json,
    print_notes,
    print_table,
)
from modelcache.errors import NotFound
from modelcache.planning.labelling import labels as node_labels
from modelcache.planning.using import Uses
from modelcache.planning.wording import share, state
from modelcache.service.looking import model_reports
from modelcache.service.using import Using
from modelcache.settings import AgentSettings
from modelcache.store import Quarantined, Store

Name = Annotated[str, typer.Argument(metavar="NAME", help="The model's name.")]


def ls(root: Root = None, output: Output = Format.TABLE) -> None:
    """List the models of the cache."""
    store = open_store(root)
    reports, aside = model_reports(store, measure=True), store.quarantine.all()
    if output is Format.JSON:
        items = [report.to_document() for report in reports]
        print_json("ModelList", {"items": items, "quarantine": [_plain(each) for each in aside]})
        return
    if not reports:
        print("The cache is empty.")
    else:
        columns = [
            "NAME",
            "STATE",
            "REVISION",
            "SIZE",
            "MEMORY",
            "FILES",
            "AGE",
            "USED",
            "SOURCE",
            "NOTE",
        ]
        print_table(columns, [_row(report) for report in reports])
        print_notes({r.name: r.message for r in reports if r.message})
    if aside:
        noun = "file is" if len(aside) == 1 else "files are"
        size = human_bytes(sum(each.bytes for each in aside))
        line = f"{len(aside)} damaged {noun} kept aside ({size}), the last one of {aside[-1].model}"
        print(line, file=sys.stderr)


def _plain(each: Quarantined) -> dict[str, object]:
    return {
        "sha256": each.digest,
        "model": each.model,
        "bytes": each.bytes,
        "message": each.what,
        "since": datetime.fromtimestamp(each.at, UTC).isoformat(timespec="seconds"),
        "path": str(each.data),
    }


def _row(report: ModelReport) -> list[str]:
    size = human_bytes(report.bytes_total)
    if report.bytes_done < report.bytes_total:
        size = f"{human_bytes(report.bytes_done)} of {size}"
    return [
        report.name,
        state(report),
        (report.revision or "")[:12],
        size if report.bytes_total else "",
        _share_in_memory(report),
        str(report.files or ""),
        age(report.finished_at),
        "now" if report.used_by else age(report.last_used_at),
        report.source or "",
        report.reason or ("" if report.wanted else "not in the catalog"),
    ]


def _share_in_memory(report: ModelReport) -> str:
    if report.resident_bytes is None or not report.bytes_total:
        return ""
    return share(report.resident_bytes, report.bytes_total)


def show(name: Name, root: Root = None, output: Output = Format.TABLE) -> None:
    """Show one model: its state, its files, and where they are."""
    store = open_store(root)
    report = find_report(store, name)
    snapshots = store.snapshots(name)
    uses = Using(store, alone=True).uses()
    if output is Format.JSON:
        print_json(
            "Model",
            {
                "status": report.to_document(),
                "use": {
                    "users": [
                        {"kind": user.kind, "name": user.name, "message": user.sentence}
                        for user in uses.of(name)
                    ],
                    "unknown": uses.unknown,
                },
                "snapshots": [manifest.to_document() for manifest in snapshots],
            },
        )
        return
    for label, value in _facts(report, uses):
        if value:
            print(f"{label + ':':<14}{value}")
    for manifest in snapshots:
        print(f"\nSnapshot {manifest.snapshot}, {human_bytes(manifest.size)}:")
        rows = [
            [file.path, human_bytes(file.size), f"sha256:{file.sha256}"] for file in manifest.files
        ]
        print_table(["PATH", "SIZE", "DIGEST"], rows)


def _facts(report: ModelReport, uses: Uses) -> list[tuple[str, str]]:
    used = "; ".join(user.sentence for user in uses.of(report.name))
    if not used and report.used_by:
        used = f"{report.used_by}, as the agent last reported"
    last = report.last_used_at
    return [
        ("Name", report.name),
        ("State", state(report)),
        ("Source", report.source or ""),
        ("Revision", report.revision or ""),
        ("Size", human_bytes(report.bytes_total) if report.bytes_total else ""),
        ("In memory", _in_memory(report)),
        ("Page cache", report.page_cache.value if report.page_cache is not PageCache.NONE else ""),
        ("Priority", str(report.priority) if report.priority else ""),
        ("Pinned", "yes" if report.pinned else ""),
        ("Used by", one_line(used)),
        ("Last used", last.isoformat() if last and not used else ""),
        ("Ready since", report.finished_at.isoformat() if report.finished_at else ""),
        ("Files at", report.path or ""),
        ("Hub cache", report.hub_path or ""),
        ("Reason", report.reason.value if report.reason else ""),
        ("Message", one_line(report.message or "")),
        ("Attempts", str(report.attempts) if report.attempts else ""),
        ("Next try", report.retry_at.isoformat() if report.retry_at else ""),
    ]


def _in_memory(report: ModelReport) -> str:
    if report.resident_bytes is None:
        return ""
    return f"{human_bytes(report.resident_bytes)} ({_share_in_memory(report)})"


def labels(
    root: Root = None,
    max_labels: Annotated[int | None, flag("max_labels", "NUMBER")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Print the labels that the node carries on account of what the cache holds."""
    most = settings(AgentSettings, max_labels=max_labels).max_labels
    found = node_labels(model_reports(open_store(root)), most)
    if output is Format.JSON:
        print_json("NodeLabels", {"labels": found})
    for key, value in sorted(found.items()) if output is Format.TABLE else ():
        print(f"{key}={value}")


def find_report(store: Store, name: str) -> ModelReport:
    """One model's report.

    Raises:
        NotFound: naming what there is.
    """
    reports = {report.name: report for report in model_reports(store, measure=True)}
    if name not in reports:
        there = ", ".join(list(reports)[:10]) or "nothing"
        raise NotFound(f"no model {name!r} in {store.layout.root}; there is {there}")
    return reports[name]


def find_snapshots(store: Store, name: str | None) -> list[Manifest]:
    """The snapshots of one model, or of all.

    Raises:
        NotFound
    """
    if name is None:
        return store.manifests()
    found = store.snapshots(name)
    if not found:
        find_report(store, name)
        raise NotFound(f"model {name!r} has no content in {store.layout.root}")
    return found
