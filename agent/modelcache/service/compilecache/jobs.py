"""What the crew is given to do, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modelcache.api import CompileCache
from modelcache.compilecache.bundles.trust import Trust
from modelcache.compilecache.keys.parts import Key
from modelcache.compilecache.trees.scanning import Limits as TreeLimits
from modelcache.planning.compileactions import Work
from modelcache.planning.compiletrials import Offer


@dataclass(frozen=True, slots=True)
class Job:
    """One piece of work.

    Attributes:
        work: what is to be done.
        spec: the object's `spec_digest`.
        cache: the object.
        key: this node's for it.
        trust: whom this node trusts for it.
        place: as `Need.place`.
        limits: of what is taken.
        hinted: hints that a look answers.
        explain: whether a look that finds nothing is to say what is there for other keys.
    """

    work: Work
    spec: str
    cache: CompileCache
    key: Key
    trust: Trust
    place: str
    limits: TreeLimits
    hinted: frozenset[str] = frozenset()
    explain: bool = False


@dataclass(frozen=True, slots=True)
class Looked:
    """What a place has for a key: what can be used, and what can't with why.

    `nearest`: in what the nearest bundle for another key differs, as a sentence.
    """

    offers: tuple[Offer, ...]
    refused: Mapping[str, str]
    nearest: str


@dataclass(frozen=True, slots=True)
class Result:
    """The end of a job: what a look found, or an error, or neither."""

    job: Job
    looked: Looked | None = None
    error: BaseException | None = None
    stopped: bool = False
