"""The labels. What is no name of an object is of a closed set."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final, get_args

from modelcache.api import ModelState
from modelcache.api.cachedmodel import NodeCounts
from modelcache.api.compilecache import CompileNodeCounts
from modelcache.api.nodecache import CompileState
from modelcache.api.uri import SCHEMES
from modelcache.cluster import resources
from modelcache.cluster.admission import Outcome
from modelcache.cluster.resources import Verb
from modelcache.cluster.startuptaints import Cause
from modelcache.compilecache.engines.judging import MissReason
from modelcache.errors import Reason
from modelcache.metrics.contract.families import Label
from modelcache.planning.evicting import Rule
from modelcache.store.sickness import DiskState
from modelcache.transfer.spending import Activity

OTHER: Final = "Other"
"""Where a closed set has no word for it."""

_REASONS: Final = tuple(reason.value for reason in Reason)

MODEL: Final = Label("model", "a CachedModel of the catalog, or one of which something is here")
ORIGIN: Final = Label("origin", "the scheme of the source's URI", SCHEMES)
REASON: Final = Label("reason", "why it failed", _REASONS)
ENDED: Final = Label("reason", "why it failed; empty: it succeeded", ("", *_REASONS))
REVISION: Final = Label("revision", "the immutable revision: a commit, or a digest")
VERSION: Final = Label("version", "of this software")

STATUS: Final = Label("status", "HTTP's", ("429", "503", "other"))

MODEL_STATE: Final = Label("state", "how far it is", tuple(state.value for state in ModelState))
ACTIVITY: Final = Label(
    "activity",
    "what the time went on: waiting for bytes, the disk, digests, a bandwidth limit",
    get_args(Activity),
)

RULE: Final = Label("rule", "by which it went", tuple(rule.value for rule in Rule))
DISK_STATE: Final = Label("state", "how it is", tuple(state.value for state in DiskState))

COMPILE_CACHE: Final = Label("compile_cache", "a CompileCache of the catalog")
COMPILE_STATE: Final = Label("state", "how far it is", tuple(state.value for state in CompileState))
START: Final = Label("result", "how it helped", ("Hit", "Partial", "Miss", "Unknown"))
MISS: Final = Label(
    "reason",
    "the likely one; empty: it was a hit, or nobody knows",
    ("", *(reason.value for reason in MissReason), OTHER),
)
REFUSAL: Final = Label(
    "reason",
    "why",
    (
        "Busy",
        "ChecksumMismatch",
        "Failed",
        "Incomplete",
        "InsufficientDisk",
        "Internal",
        "KeyChanged",
        "KeyUnknown",
        "LengthRequired",
        "LoadFailed",
        "Malformed",
        "NoSigningKey",
        "NotAPublisher",
        "NotAuthenticated",
        "NotFound",
        "OnlyLoaded",
        "OtherCache",
        "OtherDirectory",
        "OtherImage",
        "OtherNode",
        "TooLarge",
        "TooMany",
        "Unavailable",
        "UnknownCache",
        "Unsafe",
        OTHER,
    ),
)

DEVICE: Final = Label("device", "the disk, or what is mounted")
BDI: Final = Label("bdi", "its name in `/sys/class/bdi`")
CHANGE: Final = Label(
    "reason", "because a rule wants it, or because somebody had changed it", ("rule", "reset")
)
DROP: Final = Label(
    "cause", "no longer asked for, or to leave memory to others", ("unwanted", "memory")
)

_WATCHED: Final = {
    each.plural for each in vars(resources).values() if isinstance(each, resources.Resource)
}
_ONLY_REQUESTED: Final = {
    "daemonsets",
    "deployments",
    "mutatingwebhookconfigurations",
    "secrets",
    "tokenreviews",
    "version",
}
RESOURCE: Final = Label("resource", "the plural of the objects", tuple(sorted(_WATCHED)))
REQUESTED: Final = Label(
    "resource",
    "the plural of the objects; `version` of the server",
    (*sorted(_WATCHED | _ONLY_REQUESTED), "other"),
)
VERB: Final = Label("verb", "as RBAC has it", get_args(Verb))
CODE: Final = Label(
    "code",
    "HTTP's; empty: no answer came",
    ("", *(str(status.value) for status in HTTPStatus), "other"),
)
TASK: Final = Label("task", "a loop of the program")
WRITTEN: Final = Label("result", "`conflict` is tried again", ("ok", "conflict", "error"))
TAINT_CAUSE: Final = Label("cause", "why it went", tuple(cause.value for cause in Cause))
NODES: Final = Label("state", "how far they are", tuple(NodeCounts.model_fields))
COMPILE_NODES: Final = Label("state", "how far they are", tuple(CompileNodeCounts.model_fields))
OUTCOME: Final = Label(
    "outcome",
    "`failed` ones are created as they were",
    tuple(outcome.value for outcome in Outcome),
)
