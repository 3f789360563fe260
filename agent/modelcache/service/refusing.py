"""Why a model does not fit, in a sentence: what is missing, what limits it, who holds the rest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from modelcache.planning.evicting import Amount, Decision, Staying
from modelcache.store import MODEL_NAMES_BYTES, DiskSpace, human_size

_MOST_HOLDERS: Final = 4


@dataclass(frozen=True, slots=True)
class Refused:
    """A model for which no room can be made.

    Attributes:
        model: its name.
        need: what its fetch needs, with the names of its files.
        left: bytes that it could have without anything going; below zero: they are missing already.
        kept: room that is kept for others, which come first.
        promised: bytes that are promised to fetches under way.
    """

    model: str
    need: Amount
    left: int
    kept: Amount
    promised: int


def refusal(refused: Refused, decision: Decision, space: DiskSpace, root: Path) -> str:
    """The sentence. `decision`: what might have gone, and what stays, and why."""
    name, missing = refused.model, decision.missing
    holders = held_by(decision.staying)
    if not missing.bytes:
        return (
            f"{name} needs {refused.need.inodes} inodes, and {missing.inodes} are missing at"
            f" {root} ({space.inodes_kept} are kept free), even if all goes that may; {holders}"
        )
    notes = [f"{human_size(space.kept_free)} are kept free"]
    if space.used + space.free - space.kept_free > space.budget:
        taken, most = human_size(space.used), human_size(space.budget)
        notes.append(f"the cache has {taken} of the {most} that it may take")
    if refused.promised:
        notes.append(f"{human_size(refused.promised)} are promised to fetches under way")
    if refused.kept:
        notes.append(f"{human_size(refused.kept.bytes)} are kept for what comes first")
    need, left = refused.need.bytes - MODEL_NAMES_BYTES, refused.left - MODEL_NAMES_BYTES
    return (
        f"{name} needs {human_size(need)} and {root} has {human_size(max(0, left))} to give"
        f" ({', '.join(notes)}): {human_size(missing.bytes)} are missing, even if all goes that"
        f" may; {holders}"
    )


def held_by(staying: tuple[Staying, ...]) -> str:
    """What holds the rest, the largest first, as the end of a sentence."""
    if not staying:
        return "no model holds the rest"
    largest = sorted(staying, key=lambda each: (-each.size, each.model, each.snapshot))
    told = [f"{each.model} has {human_size(each.size)}: {each.why}" for each in largest]
    more = f"; and {len(told) - _MOST_HOLDERS} more" if len(told) > _MOST_HOLDERS else ""
    return "; ".join(told[:_MOST_HOLDERS]) + more
