"""Read-ahead of this node's devices."""

from __future__ import annotations

from typing import Final

from modelcache.metrics.contract.families import CounterFamily, GaugeFamily, Program
from modelcache.metrics.contract.labels import BDI, CHANGE, DEVICE

_BY: Final = (Program.TUNER,)

PRESENT_BYTES: Final = GaugeFamily(
    "modelcache_read_ahead_bytes", "Read-ahead of a device.", (DEVICE, BDI), _BY
)
WANTED_BYTES: Final = GaugeFamily(
    "modelcache_read_ahead_wanted_bytes", "What a device's read-ahead is to be.", (DEVICE, BDI), _BY
)
FAILING: Final = GaugeFamily(
    "modelcache_read_ahead_failing",
    "1 for a device whose read-ahead can't be set.",
    (DEVICE, BDI),
    _BY,
)
CHANGES: Final = CounterFamily(
    "modelcache_read_ahead_changes_total", "Values that were set.", (CHANGE,), _BY
)
