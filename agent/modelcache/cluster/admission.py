"""Answers to the API server's admission reviews (admission.k8s.io/v1): Pods as they are created.

Whatever is asked, the Pod is allowed: without its mounts it starts as it would without us.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from modelcache.cluster.client import Object
from modelcache.cluster.injection import Injected, Malformed
from modelcache.cluster.jsonpatches import difference
from modelcache.errors import UsageError

VERSION: Final = "admission.k8s.io/v1"

_MOST_WARNINGS: Final = 16
_WARNING_CHARACTERS: Final = 250
"""The API server cuts a warning at 256, and all of them together at 4096."""


class Outcome(StrEnum):
    """What became of a review."""

    INJECTED = "injected"
    UNCHANGED = "unchanged"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Reviewed:
    """An answer, and what became of the Pod."""

    answer: Object
    outcome: Outcome
    warnings: tuple[str, ...] = ()


Inject = Callable[[Object, str], Injected]
"""Injects a Pod of a namespace."""


def review(body: bytes, inject: Inject) -> Reviewed:
    """Answer a review. A dry run is answered alike: nothing is done here but answering.

    Raises:
        UsageError: it is no review, so that there is no answer to it.
    """
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"that is no JSON: {error}") from error
    request = asked.get("request") if isinstance(asked, dict) else None
    uid = request.get("uid") if isinstance(request, dict) else None
    if not isinstance(request, dict) or not isinstance(uid, str) or not uid:
        raise UsageError("that is no AdmissionReview: it has no request.uid")
    if asked.get("apiVersion") != VERSION:
        version = str(asked.get("apiVersion"))[:60]
        return _failed(uid, f"the review is of version {version!r}: {VERSION} is understood")
    pod = request.get("object")
    if not _is_pods_creation(request) or not isinstance(pod, dict):
        return Reviewed(_answer(uid), Outcome.UNCHANGED)
    try:
        injected = inject(pod, str(request.get("namespace") or ""))
        patch = difference(pod, injected.pod)
    except (Malformed, RecursionError) as error:
        return _failed(uid, str(error))
    outcome = Outcome.INJECTED if patch else Outcome.UNCHANGED
    return Reviewed(_answer(uid, patch, injected.warnings), outcome, injected.warnings)


def _is_pods_creation(request: Object) -> bool:
    kind = request.get("kind")
    return (
        isinstance(kind, dict)
        and (kind.get("group"), kind.get("kind")) == ("", "Pod")
        and request.get("operation") == "CREATE"
        and not request.get("subResource")
    )


def _failed(uid: str, why: str) -> Reviewed:
    warning = f"nothing is injected: {why}"
    return Reviewed(_answer(uid, (), (warning,)), Outcome.FAILED, (warning,))


def _answer(uid: str, patch: Any = (), warnings: tuple[str, ...] = ()) -> Object:
    response: Object = {"uid": uid, "allowed": True}
    if patch:
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(json.dumps(patch).encode()).decode()
    if warnings:
        # From version 1.19 on; older servers pass over it.
        response["warnings"] = [
            f"modelcache: {warning}"[:_WARNING_CHARACTERS] for warning in warnings[:_MOST_WARNINGS]
        ]
    return {"apiVersion": VERSION, "kind": "AdmissionReview", "response": response}
