"""Affinity of a Pod to the nodes that have its models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from modelcache.api import ModelState
from modelcache.cluster.injection.asking import mapping, sequence
from modelcache.planning.labelling import COMPILE_LABEL, MODEL_LABEL

PREFERRED: Final = "preferredDuringSchedulingIgnoredDuringExecution"
REQUIRED: Final = "requiredDuringSchedulingIgnoredDuringExecution"

WEIGHT: Final = 100
"""Of 1 to 100. The scheduler adds up the weights of the terms that hold for a node."""
CACHE_WEIGHT: Final = 50
"""A model that has to be fetched costs more of a start than what has to be compiled."""


def add_affinity(spec: dict[str, Any], names: Sequence[str], *, required: bool) -> None:
    """Add to a Pod's spec that nodes with the models are preferred, or the only ones.

    Preferred is a term for each model, not one with all of them: so a node with two of three models
    is better than one with none, and one with all three is best.

    Raises:
        Malformed
    """
    affinity = mapping(spec.get("affinity"), "spec.affinity")
    where = "spec.affinity.nodeAffinity"
    node_affinity = mapping(affinity.get("nodeAffinity"), where)
    wanted = [_expression(name) for name in names]
    if required:
        _require(node_affinity, wanted, where)
    else:
        _prefer(node_affinity, wanted, where, WEIGHT)
    spec["affinity"] = affinity
    affinity["nodeAffinity"] = node_affinity


def prefer_cache(spec: dict[str, Any], name: str) -> None:
    """Add to a Pod's spec that nodes with a CompileCache's bundle are preferred. (Never the only
    ones: on another node it compiles.)

    Raises:
        Malformed
    """
    affinity = mapping(spec.get("affinity"), "spec.affinity")
    where = "spec.affinity.nodeAffinity"
    node_affinity = mapping(affinity.get("nodeAffinity"), where)
    wanted = [{"key": f"{COMPILE_LABEL}{name}", "operator": "Exists"}]
    _prefer(node_affinity, wanted, where, CACHE_WEIGHT)
    spec["affinity"] = affinity
    affinity["nodeAffinity"] = node_affinity


def _expression(name: str) -> dict[str, Any]:
    return {"key": f"{MODEL_LABEL}{name}", "operator": "In", "values": [ModelState.READY.value]}


def _prefer(
    node_affinity: dict[str, Any], wanted: list[dict[str, Any]], where: str, weight: int
) -> None:
    terms = sequence(node_affinity.get(PREFERRED), f"{where}.{PREFERRED}")
    there = [term.get("preference") for term in terms]
    preferences = [{"matchExpressions": [expression]} for expression in wanted]
    node_affinity[PREFERRED] = terms + [
        # A preference of the user's own for the same has the weight that they gave it.
        {"weight": weight, "preference": preference}
        for preference in preferences
        if preference not in there
    ]


def _require(node_affinity: dict[str, Any], wanted: list[dict[str, Any]], where: str) -> None:
    if node_affinity.get(REQUIRED) is None:
        node_affinity[REQUIRED] = {"nodeSelectorTerms": [{"matchExpressions": wanted}]}
        return
    required = mapping(node_affinity[REQUIRED], f"{where}.{REQUIRED}")
    where = f"{where}.{REQUIRED}.nodeSelectorTerms"
    for term in sequence(required.get("nodeSelectorTerms"), where):
        expressions = sequence(term.get("matchExpressions"), f"{where}.matchExpressions")
        # The terms are ORed: it has to be in every one. One without any requirement holds for no
        # node, and is to stay so.
        if expressions or term.get("matchFields"):
            more = [expression for expression in wanted if expression not in expressions]
            term["matchExpressions"] = expressions + more
