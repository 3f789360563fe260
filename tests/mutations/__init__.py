"""Mutations: how the code may be broken, and the test that has to notice.

Each is a patch in this folder with a head of a few lines:

    Promise: the first column of its row in docs/reliability.md
    Broken: what the patch does, for people
    Test: tests/unit/....py::test_name (one line for each that has to fail)

`make test-mutations` applies each to a copy of the checkout and runs its tests there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent
_HEAD: Final = re.compile(r"(Promise|Broken|Test): (\S.*)")


@dataclass(frozen=True, slots=True)
class Mutation:
    """One patch.

    Attributes:
        name: of its file, without the ending.
        promise: what it breaks.
        broken: how, for people.
        tests: ids of the tests that have to fail.
        text: the whole file.
    """

    name: str
    promise: str
    broken: str
    tests: tuple[str, ...]
    text: str

    @property
    def files(self) -> tuple[str, ...]:
        """The files that it changes."""
        return tuple(re.findall(r"^\+\+\+ b/(.+)$", self.text, re.MULTILINE))


def mutations() -> list[Mutation]:
    """All of them, by name.

    Raises:
        ValueError: a patch's head is not as it should be.
    """
    return [_read(path) for path in sorted(FOLDER.glob("*.patch"))]


def _read(path: Path) -> Mutation:
    text = path.read_text()
    head, _, patch = text.partition("\n--- a/")
    if not patch:
        raise ValueError(f"{path.name} has no patch")
    said: dict[str, list[str]] = {"Promise": [], "Broken": [], "Test": []}
    for line in head.splitlines():
        found = _HEAD.fullmatch(line)
        if found is None:
            raise ValueError(f"{path.name}: {line!r} is no line of a head")
        said[found[1]].append(found[2])
    if len(said["Promise"]) != 1 or len(said["Broken"]) != 1 or not said["Test"]:
        raise ValueError(f"{path.name}: one Promise, one Broken, and at least one Test")
    return Mutation(path.stem, said["Promise"][0], said["Broken"][0], tuple(said["Test"]), text)
