"""modelcache lease, leases, release: holding models, so that nothing removes them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from modelcache.api import Manifest
from modelcache.api.cachedmodel import DURATION_PATTERN, duration_seconds
from modelcache.cli.inspecting import Name, find_snapshots
from modelcache.cli.options import Output, Root, open_store
from modelcache.cli.output import Format, one_line, print_json, print_table
from modelcache.errors import NotFound, UsageError
from modelcache.store import Lease


def lease(
    name: Name,
    duration: Annotated[
        str, typer.Option("--for", metavar="TIME", help="How long, such as 2h; up to 30d.")
    ],
    revision: Annotated[
        str | None,
        typer.Option("--revision", metavar="REVISION", help="Only this one, by its first letters."),
    ] = None,
    holder: Annotated[
        str, typer.Option("--holder", metavar="TEXT", help="Who holds it, for others to read.")
    ] = "",
    root: Root = None,
    output: Output = Format.TABLE,
) -> None:
    """Hold a model, so that nothing removes it, and print the lease's id.

    It ends after its time, or with modelcache release. For what is used and nothing tells: a
    process that opens the files now and then, or one on another machine.
    """
    if not re.fullmatch(DURATION_PATTERN, duration) or len(duration) > 32:
        raise UsageError(f"--for: {duration!r} is not a duration: write 90s, 10m, 1h30m or 2d")
    store = open_store(root)
    snapshots = find_snapshots(store, name)
    snapshot = None if revision is None else _snapshot(snapshots, name, revision)
    taken = store.leases.take(
        name, float(duration_seconds(duration)), snapshot=snapshot, holder=holder
    )
    if output is Format.JSON:
        print_json("Lease", _plain(taken))
    else:
        print(taken.id)


def _snapshot(snapshots: list[Manifest], name: str, revision: str) -> str:
    found = [m.snapshot for m in snapshots if m.snapshot.startswith(revision)]
    exact = [snapshot for snapshot in found if snapshot == revision]
    if len(exact or found) == 1:
        return (exact or found)[0]
    there = ", ".join(m.snapshot for m in snapshots)
    if found:
        raise UsageError(f"--revision: {revision!r} may be several of {name}'s: {there}")
    raise NotFound(f"{name} has no revision {revision!r} here; there is {there}")


def leases(root: Root = None, output: Output = Format.TABLE) -> None:
    """List who holds models, and until when."""
    found = open_store(root, looking=True).leases.all()
    if output is Format.JSON:
        print_json("LeaseList", {"items": [_plain(each) for each in found]})
    elif not found:
        print("There are no leases.")
    else:
        print_table(["ID", "NAME", "REVISION", "HOLDER", "EXPIRES"], [_row(each) for each in found])


def _row(each: Lease) -> list[str]:
    if each.model is None:
        return [one_line(each.id), "can't be read: it may hold any", "", "", "never"]
    revision = each.snapshot[:12] if each.snapshot else "any"
    return [one_line(each.id), each.model, revision, one_line(each.holder), _moment(each.expires)]


def _plain(each: Lease) -> dict[str, Any]:
    readable = each.model is not None
    return {
        "id": each.id,
        "model": each.model,
        "snapshot": each.snapshot,
        "holder": each.holder,
        "expiresAt": _moment(each.expires) if readable else None,
    }


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def release(
    lease_id: Annotated[str, typer.Argument(metavar="ID", help="The lease's id.")],
    root: Root = None,
    output: Output = Format.TABLE,
) -> None:
    """End a lease."""
    open_store(root).leases.release(lease_id)
    if output is Format.JSON:
        print_json("ReleaseResult", {"id": lease_id})
    else:
        print(f"{lease_id}: released")
