"""The tuner's metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal

from prometheus_client.core import Metric

from modelcache.metrics.collecting import AtScrape, ProgramMetrics
from modelcache.metrics.contract import tuner

_KIB: Final = 1024


@dataclass(frozen=True, slots=True)
class TunedDevice:
    """A device whose read-ahead a rule is about.

    Attributes:
        name: the disk, or the mount's source.
        bdi: its name in sysfs.
        kib: what it has; None: it couldn't be read.
        wanted: KiB; None: it isn't known.
        failing: whether it can't be set.
    """

    name: str
    bdi: str
    kib: int | None
    wanted: int | None
    failing: bool


class TunerMetrics(ProgramMetrics):
    """The tuner's registry. Safe for threads."""

    def __init__(self, devices: Callable[[], Iterable[TunedDevice]]) -> None:
        """`devices` gives what is scraped, at each scrape."""
        super().__init__()
        self._devices = devices
        self.registry.register(AtScrape(self._collect))
        self._changes = tuner.CHANGES.register(self.registry)
        tuner.CHANGES.begin(self._changes)

    def changed(self, reason: Literal["rule", "reset"]) -> None:
        """Count a value that was set."""
        self._changes.labels(reason).inc()

    def _collect(self) -> Iterable[Metric]:
        present, wanted = tuner.PRESENT_BYTES.collected(), tuner.WANTED_BYTES.collected()
        failing = tuner.FAILING.collected()
        for device in self._devices():
            names = [device.name, device.bdi]
            if device.kib is not None:
                present.add_metric(names, device.kib * _KIB)
            if device.wanted is not None:
                wanted.add_metric(names, device.wanted * _KIB)
            failing.add_metric(names, float(device.failing))
        yield from (present, wanted, failing)
