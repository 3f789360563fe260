"""What the rows of this dashboard ask for."""

from __future__ import annotations

from typing import Final

from dashboards import shared
from dashboards.boards import link_to_model
from dashboards.queries import MODEL, NODE, grown, of, ratio
from dashboards.style import Key

CACHE: Final = (*NODE, 'compile_cache=~"$compile_cache"')
MODEL_KEY: Final = Key("model", "Model", link_to_model("cold-start"))
CACHE_KEY: Final = Key("compile_cache", "Compile cache")

CACHE_STATES: Final = ("Pending", "Missing", "Downloading", "Ready", "Failed")

USES: Final = of("modelcache_model_uses_total", *MODEL)
SAVED: Final = of("modelcache_saved_seconds_total", *MODEL)
STARTS: Final = of(shared.STARTS, *CACHE)
COMPILED: Final = of("modelcache_compile_seconds_total", *CACHE)
SPARED: Final = of("modelcache_compile_seconds_saved_total", *CACHE)
WAITED: Final = "modelcache_time_to_ready_seconds"


def per(total: str, times: str, by: str = "", over: str = "$__range") -> str:
    """What a counter grew by for each by which another did."""
    return ratio(grown(total, by, over), grown(times, by, over))


def before(by: str = "", over: str = "$__range") -> str:
    """Seconds of compiling of a start, had there been no compile cache."""
    both = f"({grown(COMPILED, by, over)} + {grown(SPARED, by, over)})"
    return ratio(both, grown(STARTS, by, over))
