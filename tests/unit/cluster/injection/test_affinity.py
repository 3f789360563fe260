"""Affinity for the nodes that have the models, beside the pod's own."""

from __future__ import annotations

from typing import Any

import pytest

from modelcache.cluster.injection import inject
from tests.unit.cluster.injection.samples import CONFIG, KNOWN, pod

PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"

ZONE = {"key": "zone", "operator": "In", "values": ["z"]}
NAME = {"key": "metadata.name", "operator": "In", "values": ["n"]}


def wants(model: str) -> dict[str, Any]:
    return {"key": f"modelcache.dev/model.{model}", "operator": "In", "values": ["Ready"]}


def affinity(given: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = inject(given, KNOWN, CONFIG).pod["spec"]["affinity"]
    return found


def terms(*given: dict[str, Any]) -> dict[str, Any]:
    return {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": list(given)}}}


def test_preferred_is_a_term_for_each_model() -> None:
    found = affinity(pod("a, b,a,"))["nodeAffinity"]
    assert found == {
        PREFERRED: [
            {"weight": 100, "preference": {"matchExpressions": [wants(name)]}} for name in "ab"
        ]
    }


def test_required_is_one_term_with_all_models() -> None:
    assert affinity(pod("a,b", "required")) == terms({"matchExpressions": [wants("a"), wants("b")]})


def test_required_goes_into_every_term() -> None:
    given = terms({"matchExpressions": [ZONE]}, {"matchFields": [NAME]})
    assert affinity(pod("a", "required", affinity=given)) == terms(
        {"matchExpressions": [ZONE, wants("a")]},
        {"matchFields": [NAME], "matchExpressions": [wants("a")]},
    )


@pytest.mark.parametrize("empty", [{}, {"matchExpressions": []}, {"matchFields": None}])
def test_a_term_that_matches_no_node_goes_on_to_match_none(empty: dict[str, Any]) -> None:
    given = terms(empty, {"matchExpressions": [ZONE]})
    found = affinity(pod("a", "required", affinity=given))
    first, second = found["nodeAffinity"][REQUIRED]["nodeSelectorTerms"]
    assert first == empty
    assert second == {"matchExpressions": [ZONE, wants("a")]}


def test_what_the_pod_has_is_kept() -> None:
    own: dict[str, Any] = {
        "podAntiAffinity": {"x": 1},
        "nodeAffinity": {
            PREFERRED: [{"weight": 1, "preference": {"matchExpressions": [ZONE]}}],
            REQUIRED: {"nodeSelectorTerms": [{"matchExpressions": [ZONE]}]},
        },
    }
    found = affinity(pod("a", affinity=own))
    assert found["podAntiAffinity"] == {"x": 1}
    assert found["nodeAffinity"][REQUIRED] == own["nodeAffinity"][REQUIRED]
    assert found["nodeAffinity"][PREFERRED][0] == own["nodeAffinity"][PREFERRED][0]
    assert len(found["nodeAffinity"][PREFERRED]) == 2


def test_a_word_that_isnt_known_is_preferred_with_a_warning() -> None:
    found = inject(pod("a", "Required!"), KNOWN, CONFIG)
    assert list(found.pod["spec"]["affinity"]["nodeAffinity"]) == [PREFERRED]
    assert any("Required!" in warning for warning in found.warnings)


@pytest.mark.parametrize("text", ["", " ", ",", None])
def test_no_model_is_no_affinity(text: str | None) -> None:
    given = pod(text)
    found = inject(given, KNOWN, CONFIG)
    assert found.pod == given
    assert found.warnings


@pytest.mark.parametrize("name", ["A", "a_b", "a/b", "-a", "x" * 55, "ä"])
def test_what_can_be_no_models_name_is_left_out(name: str) -> None:
    found = inject(pod(f"{name},a"), KNOWN, CONFIG)
    assert len(found.pod["spec"]["affinity"]["nodeAffinity"][PREFERRED]) == 1
    assert len(found.warnings) == 1


def test_a_model_that_isnt_there_is_a_warning() -> None:
    found = inject(pod("a,other"), KNOWN, CONFIG)
    (warning,) = found.warnings
    assert "other" in warning
    assert len(found.pod["spec"]["affinity"]["nodeAffinity"][PREFERRED]) == 2


def test_nothing_is_missed_where_nothing_is_known() -> None:
    assert inject(pod("a,other"), None, CONFIG).warnings == ()
