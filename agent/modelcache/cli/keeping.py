"""modelcache verify, evict: checking and removing what the cache holds."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from modelcache.api import Manifest, ModelReport
from modelcache.cli.bars import byte_bars
from modelcache.cli.inspecting import Name, find_report, find_snapshots
from modelcache.cli.options import Output, Root, open_store
from modelcache.cli.output import Format, human_bytes, print_json, print_table
from modelcache.errors import ChecksumMismatch, InUse
from modelcache.service.reporting import read_node_report
from modelcache.service.using import Using
from modelcache.store import Damage, Store

_TOLD_USERS: Final = 3


def verify(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="The model's name; all without it.")
    ] = None,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Only tell; don't withdraw what is damaged.")
    ] = False,
    root: Root = None,
    output: Output = Format.TABLE,
) -> int:
    """Read models back and compare every byte with its digest.

    What is damaged is withdrawn, so that nothing shows it any more; an agent then fetches the
    damaged files again, and only those. Exit code 5 when something was damaged.
    """
    store = open_store(root)
    snapshots = find_snapshots(store, name)
    damages = _verify(store, snapshots, bars=output is Format.TABLE)
    if not report_only:
        for manifest, found in damages:
            store.withdraw(manifest, found)
    checked = [(manifest, _of(damages, manifest)) for manifest in snapshots]
    if output is Format.JSON:
        print_json("VerifyResult", {"snapshots": [_plain(m, found) for m, found in checked]})
        return ChecksumMismatch.exit_code if damages else 0
    _tell(checked)
    if damages:
        names = ", ".join(sorted({manifest.model for manifest, _ in damages}))
        count = sum(len(found) for _, found in damages)
        what = "left as it is" if report_only else "withdrawn, to be fetched again"
        noun = "file" if count == 1 else "files"
        raise ChecksumMismatch(f"{count} damaged {noun} in {names}: {what}")
    return 0


def _plain(manifest: Manifest, damages: list[Damage]) -> dict[str, object]:
    return {
        "model": manifest.model,
        "snapshot": manifest.snapshot,
        "bytes": manifest.size,
        "damaged": [
            {"path": d.path, "message": d.what, "ranges": [list(r) for r in d.ranges]}
            for d in damages
        ],
    }


def _verify(
    store: Store, snapshots: list[Manifest], *, bars: bool
) -> list[tuple[Manifest, list[Damage]]]:
    damages = []
    with byte_bars(wanted=bars) as progress:
        for manifest in snapshots:
            task = progress.add_task(manifest.model, total=manifest.size)
            found = store.verify(
                manifest,
                lambda size, task=task: progress.advance(task, size),  # type: ignore[misc]
            )
            if found:
                damages.append((manifest, found))
    return damages


def _of(damages: list[tuple[Manifest, list[Damage]]], manifest: Manifest) -> list[Damage]:
    return next((found for damaged, found in damages if damaged is manifest), [])


def _tell(checked: list[tuple[Manifest, list[Damage]]]) -> None:
    rows = []
    for manifest, damages in checked:
        state = f"{len(damages)} damaged" if damages else "whole"
        first = f"{damages[0].path}: {damages[0].what}" if damages else ""
        if damages and damages[0].ranges:
            first += " in bytes " + ", ".join(f"{a}-{b - 1}" for a, b in damages[0].ranges[:4])
        rows.append(
            [manifest.model, manifest.snapshot[:12], human_bytes(manifest.size), state, first]
        )
    if rows:
        print_table(["NAME", "REVISION", "SIZE", "STATE", "NOTE"], rows)
    else:
        print("The cache is empty.")


def evict(
    name: Name,
    force: Annotated[
        bool, typer.Option("--force", help="Also when it is in use, or nobody knows.")
    ] = False,
    root: Root = None,
    output: Output = Format.TABLE,
) -> None:
    """Remove a model from the cache, unless it is in use.

    Exit code 8 when a pod, a process or a lease uses it, or it can't be told that none does. An
    agent whose catalog has the model fetches it again: take it out of the catalog first.
    """
    store = open_store(root)
    report = find_report(store, name)
    find_snapshots(store, name)
    if not force:
        _check_use(store, report)
    freed = store.evict(name)
    if output is Format.JSON:
        print_json("EvictResult", {"name": name, "freedBytes": freed})
        return
    print(f"{name}: removed, {human_bytes(freed)} freed")
    if report.wanted and _has_agent(store, name):
        print("The agent's catalog has it, so it will be fetched again.")


def _check_use(store: Store, report: ModelReport) -> None:
    """Refuse to remove what is used, or may be.

    Raises:
        InUse: naming who uses it.
    """
    name = report.name
    uses = Using(store, alone=True).uses()
    users = [user.sentence for user in uses.of(name)]
    if users:
        more = f", and {len(users) - _TOLD_USERS} more" if len(users) > _TOLD_USERS else ""
        raise InUse(
            f"{name} is in use: {'; '.join(users[:_TOLD_USERS])}{more}. End that first, or give"
            " --force"
        )
    if report.used_by:
        # Pods, which may have no file open at this moment.
        raise InUse(
            f"{name} is in use by {report.used_by}, as the agent last reported. End that, wait a"
            " minute, or give --force"
        )
    if uses.unknown is not None:
        raise InUse(
            f"{name} may be in use: {uses.unknown}. Run it as root, or give --force if nothing"
            " uses it"
        )


def _has_agent(store: Store, name: str) -> bool:
    report = read_node_report(store.layout)
    models = report.status.models if report and report.status else ()
    return any(model.name == name and model.wanted for model in models)
