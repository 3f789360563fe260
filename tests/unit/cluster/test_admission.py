"""What an admission review is answered, whatever it is."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcache.cluster.admission import Outcome, Reviewed, review
from modelcache.cluster.injection import Config, Injected, Malformed, inject
from modelcache.errors import UsageError

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "p", "annotations": {"modelcache.dev/model": "a"}},
    "spec": {"containers": [{"name": "engine", "image": "x"}]},
}
KIND = {"group": "", "version": "v1", "kind": "Pod"}


def injected(pod: dict[str, Any], namespace: str) -> Injected:
    assert namespace == "ns"
    return inject(pod, {"a": "hf"}, Config(image="image"))


def document(**request: Any) -> dict[str, Any]:
    given = {"uid": "1", "kind": KIND, "operation": "CREATE", "namespace": "ns", "object": POD}
    return {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": given | request,
    }


def ask(found: Any, how: Any = injected) -> Reviewed:
    return review(json.dumps(found).encode(), how)


def response(reviewed: Reviewed) -> dict[str, Any]:
    answer = reviewed.answer
    assert (answer["apiVersion"], answer["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    found: dict[str, Any] = answer["response"]
    assert found["uid"] == "1"
    assert found["allowed"] is True
    return found


def test_a_pod_that_asks_is_patched() -> None:
    reviewed = ask(document())
    found = response(reviewed)
    assert reviewed.outcome is Outcome.INJECTED
    assert found["patchType"] == "JSONPatch"
    steps = json.loads(base64.b64decode(found["patch"]))
    assert "/spec/affinity" in [step["path"] for step in steps]
    assert "warnings" not in found


def test_a_pod_that_is_injected_already_is_not_patched() -> None:
    reviewed = ask(document(object=injected(POD, "ns").pod))
    assert reviewed.outcome is Outcome.UNCHANGED
    assert "patch" not in response(reviewed)


@pytest.mark.parametrize(
    "other",
    [
        {"operation": "UPDATE"},
        {"operation": "DELETE", "object": None},
        {"kind": {"group": "apps", "version": "v1", "kind": "Deployment"}},
        {"kind": "Pod"},
        {"subResource": "binding"},
        {"object": [1]},
    ],
)
def test_what_is_no_new_pod_is_left_alone(other: dict[str, Any]) -> None:
    reviewed = ask(document(**other))
    assert reviewed.outcome is Outcome.UNCHANGED
    assert "patch" not in response(reviewed)


def test_what_can_be_no_pod_is_allowed_with_a_warning() -> None:
    reviewed = ask(document(object={**POD, "spec": {"containers": "many"}}))
    assert reviewed.outcome is Outcome.FAILED
    (warning,) = response(reviewed)["warnings"]
    assert warning.startswith("modelcache: nothing is injected: spec.containers")


def test_another_version_is_allowed_with_a_warning() -> None:
    (warning,) = response(ask({**document(), "apiVersion": "admission.k8s.io/v2"}))["warnings"]
    assert "v2" in warning


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"{}", b'{"request": {}}', b"\xff", b"[" * 9999]
)
def test_what_is_no_review_has_no_answer(body: bytes) -> None:
    with pytest.raises(UsageError):
        review(body, injected)


def test_warnings_are_as_many_and_as_long_as_the_api_server_takes() -> None:
    told = tuple(f"{number} {'x' * 500}" for number in range(40))
    warnings = response(ask(document(), lambda pod, namespace: Injected(pod, told)))["warnings"]
    assert all(len(warning) <= 256 for warning in warnings)
    assert sum(map(len, warnings)) <= 4096
    assert warnings[0].startswith("modelcache: 0 ")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_object_is_allowed(thing: Any) -> None:
    assert response(ask(document(object=thing)))["allowed"]


@given(JSON, st.sampled_from(["metadata", "spec"]))
def test_any_part_of_a_pod_is_allowed(thing: Any, part: str) -> None:
    assert response(ask(document(object={**POD, part: thing})))["allowed"]


@given(
    JSON,
    st.sampled_from(
        ["containers", "initContainers", "volumes", "affinity", "securityContext", "os"]
    ),
)
def test_any_field_of_a_spec_is_allowed(thing: Any, field: str) -> None:
    spec = {"containers": [{"name": "engine"}], field: thing}
    assert response(ask(document(object={**POD, "spec": spec})))["allowed"]


def test_the_namespace_is_asked_for() -> None:
    def refuse(pod: dict[str, Any], namespace: str) -> Injected:
        raise Malformed(namespace)

    (warning,) = response(ask(document(namespace="other"), refuse))["warnings"]
    assert warning.endswith("other")
