"""What this node compiles for, found out in a thread of its own: a sick driver may never answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import structlog

from modelcache.compilecache.keys.facts import NodeFacts, of_node
from modelcache.errors import AcceleratorUnknown, ModelCacheError

log = structlog.get_logger(__name__)

_AGAIN_SECONDS: Final = 600.0
_RETRY_SECONDS: Final = 30.0
_HUNG_SECONDS: Final = 60.0
_MOST_ASKING: Final = 4
"""Questions without an answer: labels may change each minute, and threads that hang never end."""
_NVIDIA: Final = "0x10de"
_DISPLAY: Final = ("0x0300", "0x0302")
"""VGA and 3D controllers, by the first two bytes of a PCI device's class."""


def find_out(labels: Mapping[str, str], pci: Path = Path("/sys/bus/pci/devices")) -> NodeFacts:
    """What the node with these labels, which this process runs on, compiles for.

    Raises:
        AcceleratorUnknown: it has an accelerator, and nobody says which.
    """
    facts = of_node(labels)
    if facts.accelerator.vendor == "cpu" and _has_nvidia(pci):
        # A container sees all PCI devices of its node, and only those GPUs that it was given.
        raise AcceleratorUnknown(
            "this node has a GPU of NVIDIA's, and no label says which: install GPU feature"
            " discovery (it is part of NVIDIA's device plug-in and GPU operator)"
        )
    return facts


def _has_nvidia(pci: Path) -> bool:
    for device in pci.glob("*"):
        try:
            vendor = (device / "vendor").read_text().strip()
            kind = (device / "class").read_text().strip()
        except OSError:
            continue
        if vendor == _NVIDIA and kind.startswith(_DISPLAY):
            return True
    return False


class Facts:
    """This node's facts as they were last found out. `look` from one thread."""

    def __init__(
        self,
        on_change: Callable[[], None],
        find: Callable[[Mapping[str, str]], NodeFacts] = find_out,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_change` is called, from another thread, when there is something new to look at."""
        self._on_change = on_change
        self._find = find
        self._clock = clock
        self._mutex = threading.Lock()
        self._unanswered = 0
        self._asking: tuple[Mapping[str, str], float] | None = None
        self._answer: tuple[Mapping[str, str], NodeFacts | None, str, float] | None = None

    def look(self, labels: Mapping[str, str]) -> tuple[NodeFacts | None, str]:
        """The facts for the node with these labels; else None, and why they are not known."""
        now = self._clock()
        with self._mutex:
            answer, asking = self._answer, self._asking
            if answer is not None and answer[0] == labels:
                _, facts, why, at = answer
                wait = _AGAIN_SECONDS if facts is not None else _RETRY_SECONDS
                if now - at >= wait and asking is None:
                    self._ask(labels, now)
                return facts, why
            hangs = asking is not None and now - asking[1] >= _HUNG_SECONDS
            other = asking is not None and asking[0] != labels
            if asking is None or (hangs and other and self._unanswered < _MOST_ASKING):
                self._ask(labels, now)
                return None, ""
            return None, "the accelerator's driver gives no answer" if hangs else ""

    def _ask(self, labels: Mapping[str, str], now: float) -> None:
        asking = self._asking = labels, now
        self._unanswered += 1
        threading.Thread(
            target=self._run, args=(labels, asking), name="node-facts", daemon=True
        ).start()

    def _run(self, labels: Mapping[str, str], asking: tuple[Mapping[str, str], float]) -> None:
        facts, why = None, ""
        try:
            facts = self._find(labels)
        except (ModelCacheError, OSError, ValueError) as error:
            why = str(error)
        with self._mutex:
            self._unanswered -= 1
            if self._asking is asking:
                self._asking = None
            before = self._answer
            self._answer = labels, facts, why, self._clock()
        if before is None or before[:3] != (labels, facts, why):
            if facts is None:
                log.warning("node.facts_unknown", message=why)
            else:
                accelerator = facts.accelerator
                log.info("node.facts", vendor=accelerator.vendor, product=accelerator.product)
            self._on_change()
