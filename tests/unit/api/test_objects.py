from __future__ import annotations

import copy
from typing import Any

import pytest
from pydantic import ValidationError

from modelcache.api import CachedModel, ModelReport, ModelState, Source
from modelcache.api.meta import NAME_MAX

_DOCUMENT: dict[str, Any] = {
    "apiVersion": "modelcache.dev/v1alpha1",
    "kind": "CachedModel",
    "metadata": {"name": "llama"},
    "spec": {"source": {"uri": "hf://org/name", "include": ["*.json"]}, "pageCache": "Warm"},
}


def changed(**spec: Any) -> dict[str, Any]:
    document = copy.deepcopy(_DOCUMENT)
    document["spec"].update(spec)
    return document


def test_there_and_back() -> None:
    model = CachedModel.from_document(_DOCUMENT)
    assert model.spec.source.include == ("*.json",)
    assert CachedModel.from_document(model.to_document()) == model


@pytest.mark.parametrize(
    "spec",
    [
        {"priority": "5"},
        {"priority": True},
        {"priority": 5.0},
        {"pinned": "true"},
        {"pinned": 1},
        {"pageCache": True},
        {"nodeSelector": {"a": 1}},
        {"nodeSelector": {"a": "b c"}},
        {"nodeSelector": {"a": "x" * 64}},
        {"nodeSelector": {"a": "-"}},
        {"source": {"uri": "hf://a/b", "include": "*.json"}},
        {"source": {"uri": "hf://a/b", "secret_name": "token"}},
    ],
)
def test_what_the_api_server_refuses_is_refused(spec: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CachedModel.from_document(changed(**spec))


@pytest.mark.parametrize("length", [1, NAME_MAX])
def test_names_fit_in_a_label(length: int) -> None:
    document = copy.deepcopy(_DOCUMENT)
    document["metadata"]["name"] = "x" * length
    name = CachedModel.from_document(document).name
    longest = max(("model.", "revision.", "compile."), key=len)
    assert len(f"{longest}{name}") <= 63


@pytest.mark.parametrize(
    "name", ["", "x" * 55, "x" * 300, "A", "a.b", "a_b", "-a", "a-", "a\n", "é", "٣"]
)
def test_other_names_do_not(name: str) -> None:
    document = copy.deepcopy(_DOCUMENT)
    document["metadata"]["name"] = name
    with pytest.raises(ValidationError):
        CachedModel.from_document(document)


def test_the_limit_of_a_name_is_tight() -> None:
    assert len("revision." + "x" * NAME_MAX) == 63


@pytest.mark.parametrize(
    ("interval", "seconds"), [("60s", 60), ("1h30m", 5400), ("366d", 31622400)]
)
def test_intervals(interval: str, seconds: int) -> None:
    model = CachedModel.from_document(changed(refresh={"policy": "Poll", "interval": interval}))
    assert model.spec.refresh.seconds == seconds


@pytest.mark.parametrize("interval", ["59s", "367d", "1", "h", "-1h", "1.5h", "9" * 30 + "d"])
def test_other_intervals(interval: str) -> None:
    with pytest.raises(ValidationError):
        CachedModel.from_document(changed(refresh={"interval": interval}))


@pytest.mark.parametrize(
    "requirement",
    [
        {"key": "a", "operator": "In"},
        {"key": "a", "operator": "NotIn", "values": []},
        {"key": "a", "operator": "Exists", "values": ["x"]},
        {"key": "a", "operator": "Gt", "values": ["x"]},
        {"key": "a", "operator": "Lt", "values": ["1", "2"]},
        {"key": "a", "operator": "Near", "values": ["1"]},
        {"key": "", "operator": "Exists"},
    ],
)
def test_requirements_that_no_pod_may_have(requirement: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CachedModel.from_document(_with_terms({"matchExpressions": [requirement]}))


@pytest.mark.parametrize(
    "requirement",
    [
        {"key": "metadata.uid", "operator": "In", "values": ["x"]},
        {"key": "metadata.name", "operator": "Exists"},
        {"key": "metadata.name", "operator": "In", "values": ["x", "y"]},
    ],
)
def test_fields_that_no_pod_may_have(requirement: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"matchFields\[0\]"):
        CachedModel.from_document(_with_terms({"matchFields": [requirement]}))


@pytest.mark.parametrize("key", ["a", "a.b/c_d", "x" * 63, f"{'p' * 253}/n", "node.k8s.io/A.b-C"])
def test_what_can_be_a_label_can_be_selected(key: str) -> None:
    assert CachedModel.from_document(changed(nodeSelector={key: ""}))
    assert CachedModel.from_document(
        _with_terms({"matchExpressions": [{"key": key, "operator": "Exists"}]})
    )


@pytest.mark.parametrize("key", ["", "/a", "a/", "a/b/c", "A/b", "-a", "a b", "x" * 64, "a\n"])
def test_what_cannot_be_a_label_cannot_be_selected(key: str) -> None:
    with pytest.raises(ValidationError):
        CachedModel.from_document(changed(nodeSelector={key: "x"}))
    with pytest.raises(ValidationError):
        CachedModel.from_document(
            _with_terms({"matchExpressions": [{"key": key, "operator": "Exists"}]})
        )


def test_a_node_may_have_a_long_name() -> None:
    requirement = {"key": "metadata.name", "operator": "In", "values": ["n" * 253]}
    assert CachedModel.from_document(_with_terms({"matchFields": [requirement]}))


def _with_terms(*terms: dict[str, Any]) -> dict[str, Any]:
    required = {"nodeSelectorTerms": list(terms)}
    return changed(nodeAffinity={"requiredDuringSchedulingIgnoredDuringExecution": required})


def test_a_source_is_the_same_whoever_pays_for_it() -> None:
    source = Source(uri="hf://org/name", secret_name="one")
    assert source.digest() == Source(uri="hf://org/name", secret_name="two").digest()
    assert source.digest() != Source(uri="hf://org/name", include=("*.json",)).digest()


def test_python_builds_by_field_name() -> None:
    report = ModelReport(name="a", state=ModelState.READY, bytes_done=1)
    assert report.to_document()["bytesDone"] == 1
