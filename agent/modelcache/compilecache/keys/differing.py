"""In which part two keys differ, in sentences: why a compile cache is none for this node."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from modelcache.compilecache.keys.parts import SCHEMA, Key

_TOLD: Final = {
    "schemaVersion": "the version of the key",
    "trustDomain": "the trust domain",
    "engine": "the engine",
    "engine.identity": "the engine's image (or its installed packages)",
    "accelerator.vendor": "the accelerator's vendor",
    "accelerator": "the accelerator",
    "accelerator.mig": "the MIG profile",
    "accelerator.computeCapability": "the compute capability",
    "accelerator.runtime": "the driver's CUDA version",
    "accelerator.driverMajor": "the driver's major version",
    "cpu.arch": "the processor's architecture",
    "cpu": "the processor's class",
    "cpu.features": "what the processor has beyond its class",
    "model": "the model",
    "model.revision": "the model's revision",
    "model.config": "the model's config.json",
    "parallel.tensor": "the tensor-parallel size",
    "parallel.pipeline": "the pipeline-parallel size",
    "parallel.data": "the data-parallel size",
    "parallel.expert": "the expert-parallel size",
    "parallel.nodeRank": "the node's rank",
    "paths.cacheDir": "the cache directory",
    "paths.model": "the model's path",
    "paths.hub": "the path of the Hub's cache",
}
"""What each is called, the most telling first: other parts follow from these."""
_NEVER_EQUAL: Final = (
    "trustDomain",
    "engine",
    "accelerator.vendor",
    "accelerator",
    "cpu.arch",
    "model",
)


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing in which two keys differ.

    Attributes:
        part: `engine`, `accelerator`, `cpu`, `model`, `args`, `env`, `paths`, `parallel`,
            `trustDomain` or `schemaVersion`.
        name: what of it: `identity`, `--max-model-len`, `VLLM_USE_V1`; empty: the part itself.
        ours: as it is here; empty: it isn't.
        theirs: as it is there; empty: it isn't. Of a variable both are digests.
    """

    part: str
    name: str
    ours: str
    theirs: str

    @property
    def sentence(self) -> str:
        """For a person."""
        if self.part == "env":
            what = f"the environment variable {self.name}"
            if self.ours and self.theirs:
                return f"{what} has another value here than there"
            return f"{what} is set {'here' if self.ours else 'there'} only"
        if (self.part, self.name) == ("cpu", "features"):
            return self._features
        here, there = (value or "nothing" for value in (self.ours, self.theirs))
        if (self.part, self.name) == ("args", ""):
            return f"the arguments that are no options are {here} here and {there} there"
        if self.part == "args":
            what = f"the argument {self.name}"
        else:
            place = f"{self.part}.{self.name}".rstrip(".")
            what = _TOLD.get(place, f"the path in {self.name}")
        return f"{what} is {here} here and {there} there"

    @property
    def _features(self) -> str:
        ours, theirs = {*self.ours.split()}, {*self.theirs.split()}
        more, less = " ".join(sorted(ours - theirs)), " ".join(sorted(theirs - ours))
        told = [f"has {more} here only" * bool(more), f"has {less} there only" * bool(less)]
        return f"the processor {' and '.join(filter(None, told))}"


def differences(ours: Key, theirs: Key) -> tuple[Difference, ...]:
    """In what two keys differ, the most telling first. Empty: they are the same."""
    here, there = dict(_flat(ours)), dict(_flat(theirs))
    found = (
        Difference(*place, here.get(place, ""), there.get(place, ""))
        for place in {**here, **there}
        if here.get(place, "") != there.get(place, "")
    )
    order = {name: number for number, name in enumerate(_TOLD)}
    parts = ("args", "env", "paths")

    def rank(difference: Difference) -> tuple[int, int, str]:
        place = f"{difference.part}.{difference.name}".rstrip(".")
        known = order.get(place)
        if known is not None:
            return (0, known, "")
        return (1, parts.index(difference.part), difference.name)

    return tuple(sorted(found, key=rank))


def nearest(ours: Key, others: Iterable[Key]) -> tuple[Key, tuple[Difference, ...]] | None:
    """Of other keys the one that differs least, and in what; None: there are no others.

    A key for another model or accelerator is farther than any for the same.
    """
    told = [(theirs, differences(ours, theirs)) for theirs in others]
    return min(told, key=lambda pair: (*_distance(pair[1]), pair[0].digest), default=None)


def _distance(found: tuple[Difference, ...]) -> tuple[int, int]:
    far = sum(f"{each.part}.{each.name}".rstrip(".") in _NEVER_EQUAL for each in found)
    return far, len(found)


def _flat(key: Key) -> Iterator[tuple[tuple[str, str], str]]:
    """Each thing that can differ: where it stands, and its value as a text."""
    yield ("schemaVersion", ""), str(key.schema_version or SCHEMA)
    yield ("trustDomain", ""), key.trust_domain
    yield from _fields("engine", {"": key.engine.name, "identity": key.engine.identity})
    accelerator = key.accelerator
    yield from _fields(
        "accelerator",
        {
            "": accelerator.product,
            "vendor": accelerator.vendor,
            "computeCapability": accelerator.compute_capability,
            "mig": accelerator.mig,
            "runtime": accelerator.runtime,
            "driverMajor": accelerator.driver_major,
        },
    )
    features = " ".join(key.cpu.features)
    yield from _fields("cpu", {"": key.cpu.isa, "arch": key.cpu.arch, "features": features})
    model = key.model
    told = {"": model.id, "revision": model.revision, "config": model.config}
    yield from _fields("model", told)
    layout = key.parallel.to_document()
    yield from _fields("parallel", {name: str(size) for name, size in layout.items()})
    yield from _fields("args", _arguments(key.args))
    yield from _fields("env", key.env)
    yield from _fields("paths", key.paths)


def _fields(part: str, values: Mapping[str, str]) -> Iterator[tuple[tuple[str, str], str]]:
    for name, value in values.items():
        yield (part, name), value


def _arguments(arguments: tuple[str, ...]) -> dict[str, str]:
    """Options by name; those that come several times have all their values in one."""
    found: dict[str, list[str]] = {}
    for place, argument in enumerate(arguments):
        if argument == "--":
            found[""] = [*arguments[place + 1 :]]
            break
        name, sign, value = argument.partition("=")
        found.setdefault(name, []).append(value if sign else "given")
    return {name: " ".join(values) for name, values in found.items()}
