"""Why a bundle would be seeded here, or not: trust, what starts told, and each part of the key."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from modelcache.compilecache.bundles.local import LocalBundle
from modelcache.compilecache.bundles.statement import Statement
from modelcache.compilecache.bundles.trust import Trust
from modelcache.compilecache.keys.differing import Difference, differences
from modelcache.compilecache.keys.facts import NodeFacts
from modelcache.compilecache.keys.parts import Key
from modelcache.compilecache.starts.marks import Mark
from modelcache.errors import BrokenBundle, NotFound, Untrusted


@dataclass(frozen=True, slots=True)
class Explanation:
    """One bundle, as a start here would see it.

    Attributes:
        digest: `sha256:<64 hex>`; empty: it can't be read.
        key: what it was compiled for; None: it can't be read.
        state: Published, Verified or Withdrawn.
        differences: in which parts of the key it is for another start; empty: it is for this one.
        refusal: why it is not taken, whatever it is for; empty: it would be.
    """

    digest: str
    key: Key | None
    state: str
    differences: tuple[Difference, ...] = ()
    refusal: str = ""

    @property
    def seeded(self) -> bool:
        """Whether a start would be seeded from it (or from a newer one like it)."""
        return self.key is not None and not self.differences and not self.refusal

    def sentences(self) -> Iterator[str]:
        """For people, the most telling first."""
        if self.seeded:
            yield "it is for this start, and trusted: it is what the start is seeded from"
        if self.refusal:
            yield self.refusal
        for each in self.differences:
            yield f"{each.part}: {each.sentence}"

    def plain(self) -> dict[str, Any]:
        """For programs."""
        return {
            "digest": self.digest,
            "key": self.key.digest if self.key is not None else None,
            "state": self.state,
            "seeded": self.seeded,
            "refusal": self.refusal,
            "differences": [
                {
                    "part": each.part,
                    "name": each.name,
                    "ours": each.ours,
                    "theirs": each.theirs,
                    "message": each.sentence,
                }
                for each in self.differences
            ],
        }


def explain(bundle: LocalBundle, ours: Key | NodeFacts, trust: Trust, mark: Mark) -> Explanation:
    """Compare a bundle with what a start here wants.

    Args:
        ours: the start's key; of a machine of which no more is known, what it compiles for.
        mark: what starts have told of the bundle.
    """
    try:
        statement = bundle.statement
    except BrokenBundle as error:
        return Explanation("", None, mark.state.value, refusal=str(error))
    return Explanation(
        statement.digest,
        statement.key,
        mark.state.value,
        differences(_whole(ours, statement), statement.key),
        _refusal(bundle, trust, mark),
    )


def _whole(ours: Key | NodeFacts, statement: Statement) -> Key:
    if isinstance(ours, Key):
        return ours
    cpu = ours.cpu
    if ours.accelerator.vendor != "cpu":
        # Host code beside an accelerator is compiled for the class alone (`keys.making`).
        cpu = cpu.model_copy(update={"features": statement.key.cpu.features})
    return statement.key.model_copy(update={"accelerator": ours.accelerator, "cpu": cpu})


def _refusal(bundle: LocalBundle, trust: Trust, mark: Mark) -> str:
    if mark.withdrawn:
        return f"it is withdrawn, since starts could not load it: {mark.message}"
    try:
        trust.admit(bundle.envelope_bytes)
    except (Untrusted, NotFound) as error:
        return str(error)
    return ""
