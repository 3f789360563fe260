"""Moving bytes: from where an origin says they are into the store, verified.

`ModelFetcher` brings one model; `Engine` moves the bytes of all of them. What happens is told as
`events`. The parts that may be replaced: `receiving` (how bytes come in), `digesting` (how they are
hashed), `buffers`; and `store.Partial`, which writes.
"""

from modelcache.transfer.backoff import delay
from modelcache.transfer.cancelling import Cancel
from modelcache.transfer.engine import Engine
from modelcache.transfer.missing import Missing
from modelcache.transfer.modelfetch import ModelFetcher, resolve
from modelcache.transfer.tuning import TransferSettings
from modelcache.transfer.wanted import ModelFetch

__all__ = [
    "Cancel",
    "Engine",
    "Missing",
    "ModelFetch",
    "ModelFetcher",
    "TransferSettings",
    "delay",
    "resolve",
]
