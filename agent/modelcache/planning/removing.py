"""When what nothing wants any more is deleted: of models and compile caches alike."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Removal:
    """What is to be known before anything is deleted that nothing wants any more.

    Attributes:
        after: seconds for which it is kept, should it be wanted again.
        since: by name, since when it is not wanted, in seconds since the epoch.
        kept: what may not go yet: in use, or the node still carries its label.
    """

    after: float
    since: Mapping[str, float]
    kept: Container[str] = ()

    def look(self, name: str, now: float) -> tuple[bool, float | None]:
        """Whether it is to go now; else when it may be that it is, None: nobody knows."""
        since = self.since.get(name)
        if since is None:
            return False, None
        due = since + self.after
        return (False, due) if due > now else (name not in self.kept, None)
