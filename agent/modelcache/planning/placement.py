"""Which nodes an object selects: the Kubernetes scheduler's rules for a Pod.

They are `GetRequiredNodeAffinity` and `nodeSelectorTerm` of k8s.io/component-helpers
(scheduling/corev1/nodeaffinity) and `Requirement.Matches` of k8s.io/apimachinery (pkg/labels): who
copies a Pod's affinity into a CachedModel gets the same nodes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Protocol

from modelcache.api.cachedmodel import NodeAffinity, NodeSelectorTerm, SelectorRequirement

_LABEL_VALUE: Final = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")
_INTEGER: Final = re.compile(r"[+-]?[0-9]+")
_INT64: Final = range(-(2**63), 2**63)


class Placed(Protocol):
    """What says where it belongs: the spec of a CachedModel or of a CompileCache."""

    @property
    def node_selector(self) -> Mapping[str, str]:
        """Labels that a node must have."""

    @property
    def node_affinity(self) -> NodeAffinity | None:
        """Node affinity that has to hold beside them."""


def selects(spec: Placed, node_name: str, node_labels: Mapping[str, str]) -> bool:
    """Whether the node is one that `spec` asks for: nodeSelector and nodeAffinity both hold."""
    if any(node_labels.get(key) != value for key, value in spec.node_selector.items()):
        return False
    affinity = spec.node_affinity
    required = affinity and affinity.required_during_scheduling_ignored_during_execution
    if not required:
        return True
    return any(_holds(term, node_name, node_labels) for term in required.node_selector_terms)


def _holds(term: NodeSelectorTerm, node_name: str, labels: Mapping[str, str]) -> bool:
    if not term.match_expressions and not term.match_fields:
        return False
    return all(_label_holds(r, labels) for r in term.match_expressions) and all(
        _field_holds(r, node_name) for r in term.match_fields
    )


def _label_holds(requirement: SelectorRequirement, labels: Mapping[str, str]) -> bool:
    value = labels.get(requirement.key)
    match requirement.operator:
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "In" | "NotIn":
            # The scheduler can't parse a term with an impossible label value, and passes over it:
            # also with NotIn, which would hold for every node otherwise.
            if not all(_LABEL_VALUE.fullmatch(wanted) for wanted in requirement.values):
                return False
            return (value in requirement.values) == (requirement.operator == "In")
        case "Gt" | "Lt":
            return _compares(requirement, value)


def _compares(requirement: SelectorRequirement, value: str | None) -> bool:
    have = _int64(value)
    bound = _int64(requirement.values[0]) if len(requirement.values) == 1 else None
    if have is None or bound is None:
        return False
    return have > bound if requirement.operator == "Gt" else have < bound


def _int64(text: str | None) -> int | None:
    """What Go's strconv.ParseInt(text, 10, 64) gives, or None where that fails."""
    if text is None or not _INTEGER.fullmatch(text):
        return None
    number = int(text)
    return number if number in _INT64 else None


def _field_holds(requirement: SelectorRequirement, node_name: str) -> bool:
    if requirement.key != "metadata.name" or len(requirement.values) != 1:
        return False
    match requirement.operator:
        case "In":
            return node_name == requirement.values[0]
        case "NotIn":
            return node_name != requirement.values[0]
        case _:
            return False
