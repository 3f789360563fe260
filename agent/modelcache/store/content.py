"""What a root holds, for who only reads it: it may be mounted read-only, or be another user's."""

from __future__ import annotations

from pathlib import Path

from modelcache.api import Manifest
from modelcache.errors import UsageError
from modelcache.store.durable import Durable
from modelcache.store.layout import Layout, check_version
from modelcache.store.manifests import Manifests


class Content:
    """The models of a root. Writes nothing. Not safe for threads."""

    def __init__(self, root: Path) -> None:
        """Open the cache at `root`.

        Raises:
            UsageError: there is none.
            StoreDamaged: a newer program has written it.
        """
        self.layout = Layout(root.absolute())
        if not self.layout.marker.exists():
            raise UsageError(f"{root} is not a model cache: give --root")
        check_version(self.layout)
        self._manifests = Manifests(self.layout, Durable(self.layout.scratch))

    def shown(self) -> dict[str, Manifest]:
        """The snapshot that each model's `current` leads to, by the model's name."""
        return self._manifests.shown(self._manifests.all())
