"""Every metric of every program, in one table: dashboards, alerts and `docs/metrics.md` follow it.

A family that is built is in a module of this package, and nothing else is exposed.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Final

from modelcache.metrics.contract import (
    compilecaches,
    controller,
    disk,
    models,
    programs,
    scrubbing,
    transfers,
    tuner,
    warmer,
    webhook,
)
from modelcache.metrics.contract.families import (
    CounterFamily,
    Family,
    GaugeFamily,
    HistogramFamily,
    InfoFamily,
    Label,
    Program,
)


@dataclass(frozen=True, slots=True)
class Section:
    """Families that belong together. `about` is a module's docstring."""

    title: str
    about: str
    families: tuple[Family, ...]


def _section(title: str, module: ModuleType) -> Section:
    found = tuple(each for each in vars(module).values() if isinstance(each, Family))
    return Section(title, module.__doc__ or "", found)


SECTIONS: Final = (
    _section("Models", models),
    _section("Transfers", transfers),
    _section("Disk", disk),
    _section("Scrubbing", scrubbing),
    _section("Programs and catalog", programs),
    _section("Compile caches", compilecaches),
    _section("Read-ahead", tuner),
    _section("Page cache", warmer),
    _section("Controller", controller),
    _section("Webhook", webhook),
)

FAMILIES: Final = tuple(family for section in SECTIONS for family in section.families)

__all__ = [
    "FAMILIES",
    "SECTIONS",
    "CounterFamily",
    "Family",
    "GaugeFamily",
    "HistogramFamily",
    "InfoFamily",
    "Label",
    "Program",
    "Section",
]
