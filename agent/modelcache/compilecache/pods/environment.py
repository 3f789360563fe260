"""What injection tells the containers that it adds: environment variables, and where things are.

The same names as the settings of `modelcache compile seed` and `compile capture`
(`settings.compilepods`), of which these are the ones that a pod's containers are given.
"""

from __future__ import annotations

from typing import Final

PREFIX: Final = "MODELCACHE_"

NAME: Final = f"{PREFIX}COMPILE_NAME"
"""The CompileCache."""
ENGINE: Final = f"{PREFIX}COMPILE_ENGINE"
"""The engine, by its name in the table."""
CACHE_DIR: Final = f"{PREFIX}COMPILE_CACHE_DIR"
"""Where the engine's caches lie, in all containers at the same path."""
BUNDLES: Final = f"{PREFIX}COMPILE_BUNDLES"
"""A directory with a directory for each CompileCache, as on a node."""
WORK: Final = f"{PREFIX}COMPILE_WORK"
"""A directory of the two containers' own, which the engine doesn't see."""
SIZE: Final = f"{PREFIX}COMPILE_SIZE"
"""The limit of the cache's volume, beyond which the pod is evicted."""
RANKS: Final = f"{PREFIX}COMPILE_RANKS"
"""How many ranks of the engine the pod has."""
HEALTH: Final = f"{PREFIX}COMPILE_HEALTH"
"""A URL without a host, by which the engine says that it serves; empty: there is none."""
PUBLISH: Final = f"{PREFIX}COMPILE_PUBLISH"
"""Whether what is captured is handed to the agent; else starts are only judged and reported."""
QUIET: Final = f"{PREFIX}COMPILE_QUIET"
"""For how long nothing may change before the cache counts as complete."""
STAY: Final = f"{PREFIX}COMPILE_STAY"
"""Whether the sidecar, when it has nothing more to do, waits to be stopped: one that ends would be
started again."""
PORT: Final = f"{PREFIX}COMPILE_PORT"
"""Where the agent listens on the node's address."""
TOKEN_FILE: Final = f"{PREFIX}COMPILE_TOKEN_FILE"
"""The service-account token for the agent, which kubelet renews."""
HOST_IP: Final = f"{PREFIX}HOST_IP"
POD_IP: Final = f"{PREFIX}POD_IP"
POD_NAME: Final = "POD_NAME"
POD_NAMESPACE: Final = "POD_NAMESPACE"

BUNDLES_AT: Final = "/modelcache/compile"
"""In the init container: the node's bundles, read-only."""
WORK_AT: Final = "/modelcache/work"
TOKEN_AT: Final = "/modelcache/token"  # noqa: S105 - a directory
TOKEN_NAME: Final = "token"  # noqa: S105 - a file in it

SEED_REPORT: Final = "seed.json"
"""In the work directory: what the init container did, for the sidecar."""
CAPTURE_REPORT: Final = "capture.json"
"""In the work directory: what the sidecar did, for one that takes its place."""
STAGING: Final = "staging"
"""In the work directory: where the archive is made."""
