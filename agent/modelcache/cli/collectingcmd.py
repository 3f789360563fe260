"""modelcache gc: what goes and what stays, and why."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from modelcache.cli.nodes.sources import OWN_LIMITS, agents_disk
from modelcache.cli.nodes.views import Teller
from modelcache.cli.options import Output, Root, flag, open_store, settings
from modelcache.cli.output import Format, human_bytes, one_line, print_json, print_table
from modelcache.cli.topcmd import Agent
from modelcache.errors import UsageError
from modelcache.planning.evicting import Decision, Going, Staying
from modelcache.service.collecting import Collection, collection, may_go
from modelcache.service.lettinggo import evict
from modelcache.settings import AgentSettings, StatusSettings
from modelcache.settings.values import parse_size
from modelcache.store import Store

Unwanted = Annotated[str | None, flag("delete_unwanted_after", "TIME")]
_NEW: str = "(a new model)"


def gc(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only tell what would go and why.")
    ] = False,
    room: Annotated[
        str | None,
        typer.Option(
            "--room",
            metavar="SIZE",
            help="With --dry-run: what would go for a model of that size.",
        ),
    ] = None,
    priority: Annotated[
        int, typer.Option("--priority", help="With --room: the priority of that model.")
    ] = 0,
    root: Root = None,
    delete_unwanted_after: Unwanted = None,
    agent: Agent = None,
    output: Output = Format.TABLE,
) -> None:
    """Remove what nothing needs: unwanted models, old revisions, leftovers of crashes.

    What is wanted is as this node's agent last reported it; without its word, all models are.
    What is in use, or may be, stays.
    """
    if room is not None and not dry_run:
        raise UsageError("--room tells what would go: give --dry-run. An agent does it by itself")
    store = open_store(root)
    address = settings(StatusSettings, listen=agent).address
    told = agents_disk(address, store.layout.root)
    found = collection(store, _grace(delete_unwanted_after), told)
    if room is None:
        decision = found.all_that_may()
    else:
        try:
            decision = found.room(_NEW, parse_size(room), priority)
        except ValueError as error:
            raise UsageError(f"--room: {error}") from error
    freed = None if dry_run else _carry_out(store, decision, found)
    if output is Format.JSON:
        print_json("CollectResult", _plain(decision, found, freed, asked=room is not None))
        return
    _tell(decision, found, freed, asked=room is not None)


def _grace(given: str | None) -> float | None:
    return settings(AgentSettings, delete_unwanted_after=given).delete_unwanted_after


def _carry_out(store: Store, decision: Decision, found: Collection) -> int:
    """Remove it, each after asking once more who uses it; bytes that were freed."""
    before = store.space.measure(exact=True).used
    for going in decision.going:
        if may_go(store, going, found.reports):
            evict(store, going)
    store.sweep()
    return max(0, before - store.space.measure(exact=True).used)


def _plain(
    decision: Decision, found: Collection, freed: int | None, *, asked: bool
) -> dict[str, Any]:
    content: dict[str, Any] = {
        "dryRun": freed is None,
        "going": [
            {
                "model": going.model,
                "snapshots": list(going.snapshots),
                "rule": going.rule.value,
                "bytes": going.frees.bytes,
                "message": going.why,
            }
            for going in decision.going
        ],
        "staying": [plain_staying(each) for each in decision.staying],
        "frees": decision.frees.bytes,
        "disk": plain_disk(found),
    }
    if asked:
        content["missing"] = decision.missing.bytes
    if freed is not None:
        content["freed"] = freed
    return content


def plain_staying(each: Staying) -> dict[str, Any]:
    """What stays and why, as a document has it."""
    return {
        "model": each.model,
        "snapshot": each.snapshot,
        "hold": each.hold.value,
        "bytes": each.size,
        "message": each.why,
    }


def plain_disk(found: Collection) -> dict[str, Any]:
    """The disk as a document has it, in bytes; `taken` as a NodeCache has it. Its limits are those
    of who `toldBy` names: `Agent`, or, as `Root`, of this command."""
    space = found.space
    return {
        "toldBy": (Teller.AGENT if found.is_told else Teller.ROOT).value,
        "capacity": space.capacity,
        "budget": space.budget,
        "taken": space.used,
        "others": space.others,
        "keptFree": space.kept_free,
        "reserved": space.reserved,
        "available": space.available,
    }


def _tell(decision: Decision, found: Collection, freed: int | None, *, asked: bool) -> None:
    space = found.space
    rows = [_row(going, snapshot) for going in decision.going for snapshot in going.snapshots]
    rows += [_staying_row(each) for each in decision.staying]
    if rows:
        print_table(["NAME", "REVISION", "SIZE", "", "WHY"], rows)
        print()
    if asked and decision.missing:
        print(f"It would not fit: {human_bytes(decision.missing.bytes)} would still be missing.")
    elif asked and not decision.going:
        print("It would fit as it is.")
    elif freed is None:
        print(f"{human_bytes(decision.frees.bytes)} would be freed.")
    else:
        print(f"{human_bytes(freed)} freed.")
    print(
        f"The cache {'takes' if freed is None else 'took'} {human_bytes(space.used)} of the"
        f" {human_bytes(space.budget)} that it may{'' if found.is_told else OWN_LIMITS}."
    )


def _row(going: Going, snapshot: str) -> list[str]:
    frees = human_bytes(going.frees.bytes) if snapshot == going.snapshots[0] else ""
    return [going.model, revision(snapshot), frees, "goes", one_line(going.why)]


def _staying_row(each: Staying) -> list[str]:
    size = human_bytes(each.size)
    return [each.model or "?", revision(each.snapshot), size, "stays", one_line(each.why)]


def revision(name: str) -> str:
    """A snapshot, or what kind of thing it is."""
    kind, of_another_kind, _ = name.partition("/")
    return f"({kind})" if of_another_kind else name[:12]
