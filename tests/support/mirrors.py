"""A Mirror at work in the tests, without its pauses."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any, Self

from modelcache.cluster.watching import Mirror


class Running:
    """Drives a Mirror's rounds in a thread, with short pauses instead of those that it asks for."""

    def __init__(self, mirror: Mirror, pause: float = 0.01) -> None:
        self.mirror = mirror
        self.waits: list[float] = []
        """The pauses that it asked for."""
        self.error: BaseException | None = None
        self._pause = pause
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            while not self._end.is_set():
                wait = self.mirror.cycle()
                self.waits.append(wait)
                self._end.wait(min(wait, self._pause))
        except BaseException as error:  # noqa: BLE001 - shown at the end
            self.error = error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end.set()
        self.mirror.stop()
        self._thread.join(10)
        assert not self._thread.is_alive(), "the mirror didn't stop"
        assert self.error is None, self.error


def names(mirror: Mirror) -> set[str]:
    """What it knows now."""
    return set(mirror.objects)


def model(name: str, **spec: Any) -> dict[str, Any]:
    """A CachedModel."""
    return {
        "apiVersion": "modelcache.dev/v1alpha1",
        "kind": "CachedModel",
        "metadata": {"name": name},
        "spec": {"source": {"uri": "hf://org/repo"}, **spec},
    }
