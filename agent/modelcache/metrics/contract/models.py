"""What is known of each model."""

from __future__ import annotations

from typing import Final

from modelcache.metrics.contract.families import GaugeFamily, InfoFamily
from modelcache.metrics.contract.labels import MODEL, MODEL_STATE, ORIGIN, REASON, REVISION

STATE: Final = GaugeFamily(
    "modelcache_model_state", "1 for the state that a model is in.", (MODEL, MODEL_STATE)
)
INFO: Final = InfoFamily(
    "modelcache_model_info",
    "A model's revision and origin.",
    (MODEL,),
    facts=(REVISION, ORIGIN),
)
DONE_BYTES: Final = GaugeFamily(
    "modelcache_model_done_bytes", "Bytes of a model on the disk.", (MODEL,)
)
SIZE_BYTES: Final = GaugeFamily("modelcache_model_size_bytes", "Bytes of a model in all.", (MODEL,))
RESIDENT_BYTES: Final = GaugeFamily(
    "modelcache_model_resident_bytes",
    "Bytes of a model's present revision that are in the page cache, in steps of 1 %.",
    (MODEL,),
)
FAILING: Final = GaugeFamily(
    "modelcache_model_failing", "1 for why a model's last try failed.", (MODEL, REASON)
)
READY_TIMESTAMP: Final = GaugeFamily(
    "modelcache_model_ready_timestamp_seconds",
    "When a model's present revision became ready, in Unix time.",
    (MODEL,),
)
