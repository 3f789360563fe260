"""A Pod that asks for models is given affinity to the nodes that have them, and their mounts; one
that asks for a compile cache is given what seeds and captures it.

Pure: from a Pod, as it stands in JSON, to a Pod. `inject` is the whole of it; `templates` finds the
Pod in a Deployment and the like.
"""

from modelcache.cluster.injection.asking import AFFINITY_ANNOTATION, INJECT_LABEL, Known, Malformed
from modelcache.cluster.injection.compileasking import CACHE_ANNOTATION, Caches
from modelcache.cluster.injection.config import Config, Level
from modelcache.cluster.injection.injecting import Injected, inject
from modelcache.cluster.inuse import MODEL_ANNOTATION

__all__ = [
    "AFFINITY_ANNOTATION",
    "CACHE_ANNOTATION",
    "INJECT_LABEL",
    "MODEL_ANNOTATION",
    "Caches",
    "Config",
    "Injected",
    "Known",
    "Level",
    "Malformed",
    "inject",
]
