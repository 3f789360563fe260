"""The programs themselves: how they are, and what they were told."""

from __future__ import annotations

from typing import Final

from modelcache.metrics.contract.families import GaugeFamily, InfoFamily, Program
from modelcache.metrics.contract.labels import VERSION

BUILD: Final = InfoFamily(
    "modelcache_build_info",
    "The version of the program.",
    programs=tuple(Program),
    facts=(VERSION,),
)
CATALOG_OBJECTS: Final = GaugeFamily(
    "modelcache_catalog_objects", "Objects of the catalog in force."
)
CATALOG_PROBLEMS: Final = GaugeFamily(
    "modelcache_catalog_problems", "Things wrong with the catalog's documents."
)
