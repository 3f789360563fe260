"""What injection depends on beside the Pod and the objects."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from modelcache.compilecache.pods.protocol import PORT


class Level(StrEnum):
    """What a namespace enforces of Pods (Pod Security admission)."""

    PRIVILEGED = "privileged"
    BASELINE = "baseline"
    RESTRICTED = "restricted"


@dataclass(frozen=True, slots=True)
class Config:
    """What injection depends on beside the Pod.

    Attributes:
        root: the cache's root on the nodes.
        image: of the init container; empty: it is not known.
        level: what the Pod's namespace enforces.
        namespace: the Pod's; empty: it is not known.
        compile_port: where the agents listen for compile caches; 0: nowhere.
        native_sidecars: whether the API server knows sidecars among init containers (from 1.29 on).
    """

    root: str = "/var/lib/modelcache"
    image: str = ""
    level: Level = Level.PRIVILEGED
    namespace: str = ""
    compile_port: int = PORT
    native_sidecars: bool = True
