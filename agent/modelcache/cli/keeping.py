"""modelcache verify, evict: checking and removing what the cache holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Final

import typer

from modelcache.api import Manifest, ModelReport
from modelcache.cli.bars import byte_bars
from modelcache.cli.inspecting import Name, find_snapshots
from modelcache.cli.options import Output, Root, open_store
from modelcache.cli.output import Format, human_bytes, print_json, print_table
from modelcache.errors import ChecksumMismatch, DiskFailed, InUse
from modelcache.service.diskwatch import DiskWatch
from modelcache.service.looking import model_reports
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
    store = open_store(root, looking=report_only)
    snapshots = find_snapshots(store, name)
    checked: list[_Checked] = []
    try:
        _verify(store, snapshots, checked, withdraw=not report_only, bars=output is Format.TABLE)
    except BaseException:
        if checked and output is Format.TABLE:
            _tell(checked)  # what was withdrawn by then is to be known
        raise
    damaged = [each for each in checked if each.damages]
    if output is Format.JSON:
        print_json("VerifyResult", {"snapshots": [_plain(each) for each in checked]})
        return ChecksumMismatch.exit_code if damaged else 0
    _tell(checked)
    if damaged:
        names = ", ".join(sorted({each.manifest.model for each in damaged}))
        count = sum(len(each.damages) for each in damaged)
        what = "left as it is" if report_only else "withdrawn, to be fetched again"
        noun = "file" if count == 1 else "files"
        raise ChecksumMismatch(f"{count} damaged {noun} in {names}: {what}")
    return 0


@dataclass(frozen=True, slots=True)
class _Checked:
    """A snapshot that was read back; `gone`: somebody removed it meanwhile."""

    manifest: Manifest
    damages: list[Damage]
    gone: bool = False


def _plain(each: _Checked) -> dict[str, object]:
    return {
        "model": each.manifest.model,
        "snapshot": each.manifest.snapshot,
        "bytes": each.manifest.size,
        "gone": each.gone,
        "damaged": [
            {"path": d.path, "message": d.what, "ranges": [list(r) for r in d.ranges]}
            for d in each.damages
        ],
    }


def _verify(
    store: Store, snapshots: list[Manifest], checked: list[_Checked], *, withdraw: bool, bars: bool
) -> None:
    """Read one after the other, adding to `checked`. What is damaged is withdrawn before the next
    is read: all of them may take hours, and whoever stops it has not read in vain."""
    withdrawn: dict[str, Damage] = {}
    with byte_bars(wanted=bars) as progress:
        for manifest in snapshots:
            task = progress.add_task(manifest.model, total=manifest.size)
            found = _read_back(
                store,
                manifest,
                lambda size, task=task: progress.advance(task, size),  # type: ignore[misc]
            )
            shared = [damage for damage in found if damage.sha256 in withdrawn]
            if found and not shared and not _is_there(store, manifest):
                checked.append(_Checked(manifest, [], gone=True))
                continue
            news = [damage for damage in found if damage.sha256 not in withdrawn]
            if news and withdraw:
                _withdraw(store, manifest, news)
                withdrawn |= {damage.sha256: damage for damage in news if damage.blob}
            bad = {damage.sha256 for damage in found}
            for file in manifest.files:
                if file.sha256 not in bad:
                    store.note_checked(file.sha256)  # the agent needn't read it so soon again
            told = [replace(withdrawn.get(d.sha256, d), path=d.path) for d in found]
            checked.append(_Checked(manifest, told))


def _read_back(store: Store, manifest: Manifest, on_bytes: Callable[[int], None]) -> list[Damage]:
    try:
        return store.verify(manifest, on_bytes)
    except FileNotFoundError:
        return store.look(manifest)  # removed between two looks at it


def _is_there(store: Store, manifest: Manifest) -> bool:
    return any(each.snapshot == manifest.snapshot for each in store.snapshots(manifest.model))


def _withdraw(store: Store, manifest: Manifest, damages: list[Damage]) -> None:
    """Withdraw what is damaged, unless it is the disk that is out of order, and not the files.

    Raises:
        DiskFailed: nothing of it was withdrawn.
    """
    unreadable = next((damage for damage in damages if damage.unreadable), None)
    if unreadable is not None and DiskWatch(store.layout).is_down_now(unreadable.what):
        raise DiskFailed(
            f"{manifest.model}: {unreadable.path} {unreadable.what}, and a probe of the disk"
            " failed as well: look at it (dmesg, smartctl). What can't be read was not withdrawn"
        )
    store.withdraw(manifest, damages)


def _tell(checked: list[_Checked]) -> None:
    rows = []
    for each in checked:
        manifest, damages = each.manifest, each.damages
        state = f"{len(damages)} damaged" if damages else "gone" if each.gone else "whole"
        note = f"{damages[0].path}: {damages[0].what}" if damages else ""
        if damages and damages[0].ranges:
            note += " in bytes " + ", ".join(f"{a}-{b - 1}" for a, b in damages[0].ranges[:4])
        if each.gone:
            note = "removed, or withdrawn by the agent, while it was read"
        rows.append(
            [manifest.model, manifest.snapshot[:12], human_bytes(manifest.size), state, note]
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
    """Remove a model from the cache, unless it is in use, with what is left of its fetches and what
    went bad of it.

    Exit code 8 when a pod, a process or a lease uses it, or it can't be told that none does. An
    agent whose catalog has the model fetches it again: take it out of the catalog first.
    """
    store = open_store(root)
    rest = [each for each in store.remnants.all() if each.models == {name}]
    if not rest:
        find_snapshots(store, name)
    elif not store.snapshots(name) and name in store.space.promised():
        raise InUse(f"{name} is being fetched: take it out of the catalog first")
    report = next((each for each in model_reports(store) if each.name == name), None)
    if not force:
        _check_use(store, name, report)
    freed = sum(store.remnants.remove(name, each.name) for each in rest) + store.evict(name)
    if output is Format.JSON:
        print_json("EvictResult", {"name": name, "freedBytes": freed})
        return
    print(f"{name}: removed, {human_bytes(freed)} freed")
    if report is not None and report.wanted and _has_agent(store, name):
        print("The agent's catalog has it, so it will be fetched again.")


def _check_use(store: Store, name: str, report: ModelReport | None) -> None:
    """Refuse to remove what is used, or may be.

    Raises:
        InUse: naming who uses it.
    """
    uses = Using(store, alone=True).uses()
    users = [user.sentence for user in uses.of(name)]
    if users:
        more = f", and {len(users) - _TOLD_USERS} more" if len(users) > _TOLD_USERS else ""
        raise InUse(
            f"{name} is in use: {'; '.join(users[:_TOLD_USERS])}{more}. End that first, or give"
            " --force"
        )
    if report is not None and report.used_by:
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
