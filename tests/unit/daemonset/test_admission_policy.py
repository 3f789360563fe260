"""What agents and the controller may write, by the policies' own expressions."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest

from modelcache.cluster.ownnode import OUR_LABELS
from modelcache.planning.labelling import MODEL_LABEL, REVISION_LABEL
from modelcache.service.reporting import DISK_CONDITION, READY_CONDITION
from tests.support.manifests import FOLDER, Object, objects, one
from tests.unit.daemonset.policies import ENGINES, Policy

DOCUMENTS = objects(FOLDER / "components" / "admission-policy")
POLICIES = [each for each in DOCUMENTS if each["kind"] == "ValidatingAdmissionPolicy"]
CLAIM = "authentication.kubernetes.io/node-name"
AGENT = "system:serviceaccount:modelcache-system:modelcache-agent"
CONTROLLER = "system:serviceaccount:modelcache-system:modelcache-controller"
NODE = "gpu-7.example"

Review = Callable[[Object], list[str]]


@pytest.fixture(scope="module", params=ENGINES)
def review(request: pytest.FixtureRequest) -> Review:
    """Why the policies refuse a request."""
    policies = [Policy(document, ENGINES[request.param]) for document in POLICIES]

    def ask(admission: Object) -> list[str]:
        return [
            refusal
            for policy in policies
            if policy.matches(admission)
            for refusal in policy.refusals(admission)
        ]

    return ask


def a_node(**metadata: Any) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": NODE,
            "uid": "1b4e28ba",
            "resourceVersion": "1041",
            "labels": {
                "kubernetes.io/hostname": NODE,
                "modelcache.dev/node": "true",
                "modelcache.dev/model.llama": "Ready",
                "modelcache.dev/revision.llama": "0123456789ab",
            },
            "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"},
            "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:metadata": {}}}],
            **metadata,
        },
        "spec": {
            "podCIDR": "10.0.7.0/24",
            "taints": [
                {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"},
                {"key": "modelcache.dev/not-ready", "effect": "NoSchedule"},
            ],
        },
        "status": {
            "capacity": {"cpu": "192", "nvidia.com/gpu": "8"},
            "conditions": [
                {"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-11-21T05:00:00Z"},
                {"type": "DiskPressure", "status": "False"},
            ],
            "images": [{"names": ["example.com/vllm:1"], "sizeBytes": 10_737_418_240}],
            "nodeInfo": {"bootID": "4d2e"},
        },
    }


def change(thing: Object, path: str, value: Any) -> Object:
    """A copy with something else at a path; None takes it away."""
    changed: Object = copy.deepcopy(thing)
    *way, last = path.split("|")
    place = changed
    for step in way:
        place = place.setdefault(step, {})
    if value is None:
        del place[last]
    else:
        place[last] = value
    return changed


def asking(
    resource: str,
    old: Object | None,
    new: Object | None,
    *,
    subresource: str = "",
    user: str = AGENT,
    extra: Object | None = None,
    group: str = "",
    version: str = "v1",
) -> Object:
    """A request as the API server gives it to admission."""
    operation = "UPDATE" if old and new else "CREATE" if new else "DELETE"
    info: Object = {"username": user, "groups": ["system:authenticated"]}
    if extra is None:
        info["extra"] = {
            CLAIM: [NODE],
            "authentication.kubernetes.io/pod-name": ["modelcache-agent-x7"],
        }
    elif extra:
        info["extra"] = extra
    request: Object = {
        "uid": "705ab4f5",
        "resource": {"group": group, "version": version, "resource": resource},
        "operation": operation,
        "name": (old or new or {})["metadata"].get("name", ""),
        "userInfo": info,
        "object": new,
        "oldObject": old,
        "dryRun": False,
        "options": {},
    }
    return request | ({"subResource": subresource} if subresource else {})


def relabelled(labels: Object, **how: Any) -> Object:
    """An agent's patch of labels; None takes one off."""
    old = a_node()
    found = {**old["metadata"]["labels"], **labels}
    found = {key: value for key, value in found.items() if value is not None}
    return asking("nodes", old, change(old, "metadata|labels", found), **how)


def with_conditions(*conditions: Object, **how: Any) -> Object:
    old = a_node()
    changed = change(old, "status|conditions", [*old["status"]["conditions"], *conditions])
    return asking("nodes", old, changed, subresource="status", **how)


OURS = {
    "type": READY_CONDITION,
    "status": "True",
    "reason": "AllReady",
    "message": "2 of 2 models are ready",
    "lastTransitionTime": "2026-11-21T05:00:00Z",
}
OF_THE_DISK = {**OURS, "type": DISK_CONDITION, "status": "False", "reason": "DiskReadOnly"}
CACHE = {
    "apiVersion": "modelcache.dev/v1alpha1",
    "kind": "NodeCache",
    "metadata": {"name": NODE, "ownerReferences": [{"kind": "Node", "name": NODE}]},
}


def cache(name: str = NODE, **status: Any) -> Object:
    return {**change(CACHE, "metadata|name", name), "status": status}


def about_caches(old: Object | None, new: Object | None, **how: Any) -> Object:
    group, version = "modelcache.dev", "v1alpha1"
    return asking("nodecaches", old, new, group=group, version=version, **how)


def lease(holder: str | None = NODE, name: str = "modelcache-permit-0123456789-3") -> Object:
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, "namespace": "modelcache-system"},
        "spec": {"holderIdentity": holder} if holder else {},
    }


def about_leases(old: Object | None, new: Object | None, **how: Any) -> Object:
    return asking("leases", old, new, group="coordination.k8s.io", **how)


ALLOWED = {
    "own labels set": relabelled(
        {
            f"{MODEL_LABEL}qwen": "Ready",
            f"{REVISION_LABEL}qwen": "abc",
            "modelcache.dev/compile.qwen": "def",
        }
    ),
    "own labels changed and taken off": relabelled(
        {"modelcache.dev/revision.llama": "ba9876543210", "modelcache.dev/model.llama": None}
    ),
    "the first label of a node without any": asking(
        "nodes",
        change(a_node(), "metadata|labels", None),
        change(a_node(), "metadata|labels", {"modelcache.dev/model.a": "Ready"}),
    ),
    "the last label of a node": asking(
        "nodes",
        change(a_node(), "metadata|labels", {"modelcache.dev/model.a": "Ready"}),
        change(a_node(), "metadata|labels", None),
    ),
    "a node without annotations": asking(
        "nodes",
        change(a_node(), "metadata|annotations", None),
        change(a_node(), "metadata|annotations", None),
    ),
    "its managed fields, which the server writes": asking(
        "nodes", a_node(), a_node(managedFields=[{"manager": "model-cache-agent"}])
    ),
    "own condition set": with_conditions(OURS),
    "own condition of the disk set": with_conditions(OF_THE_DISK),
    "own conditions set": with_conditions(OURS, OF_THE_DISK),
    "own condition changed": asking(
        "nodes",
        change(a_node(), "status|conditions", [*a_node()["status"]["conditions"], OURS]),
        change(
            a_node(),
            "status|conditions",
            [*a_node()["status"]["conditions"], {**OURS, "status": "False"}],
        ),
        subresource="status",
    ),
    "the first condition of a node without status": asking(
        "nodes",
        change(a_node(), "status", None),
        change(a_node(), "status", {"conditions": [OURS]}),
        subresource="status",
    ),
    "own NodeCache made": about_caches(None, cache()),
    "own NodeCache's status": about_caches(cache(), cache(root="/x"), subresource="status"),
    "own NodeCache's owner": about_caches(
        change(cache(), "metadata|ownerReferences", None), cache()
    ),
    "own NodeCache deleted": about_caches(cache(), None),
    "a permit taken": about_leases(None, lease()),
    "a permit taken over": about_leases(lease("gpu-1"), lease()),
    "a permit that nobody held": about_leases(lease(None), lease()),
    "a permit given back": about_leases(lease(), None),
    # Not by an agent
    "another user's labels": relabelled({"team": "blue"}, user="alice", extra={}),
    "kubelet's status": with_conditions(
        {"type": "PIDPressure", "status": "False"}, user=f"system:node:{NODE}", extra={}
    ),
    "an agent of another namespace": relabelled(
        {"team": "blue"}, user="system:serviceaccount:other:modelcache-agent"
    ),
    "another user's NodeCache": about_caches(None, cache("other"), user="alice", extra={}),
    "another user's Lease": about_leases(None, lease("x", "y"), user="alice", extra={}),
    # By the controller
    "a taint taken off": asking(
        "nodes",
        a_node(),
        change(a_node(), "spec|taints", a_node()["spec"]["taints"][:1]),
        user=CONTROLLER,
        extra={},
    ),
    "the last taint taken off": asking(
        "nodes", a_node(), change(a_node(), "spec|taints", None), user=CONTROLLER, extra={}
    ),
}


@pytest.mark.parametrize("request_", ALLOWED.values(), ids=ALLOWED.keys())
def test_what_is_allowed(review: Review, request_: Object) -> None:
    assert review(request_) == []


NO_NODE = "doesn't say on which node"
OTHER_NODE = "changes its own node only"
LABELS = "of a node's labels"
METADATA = "no annotation, owner or finalizer"
SPEC = "nothing of a node's spec"
STATUS = "the conditions ModelCacheReady and ModelCacheDiskHealthy only"
elsewhere = {CLAIM: ["gpu-8.example"]}
conditions = a_node()["status"]["conditions"]

REFUSED = {
    "labels of another node": (
        relabelled({"modelcache.dev/model.a": "Ready"}, extra=elsewhere),
        OTHER_NODE,
    ),
    "condition of another node": (with_conditions(OURS, extra=elsewhere), OTHER_NODE),
    "a token without the claim": (
        relabelled({"modelcache.dev/model.a": "x"}, extra={"a": ["b"]}),
        NO_NODE,
    ),
    "a token without anything": (relabelled({"modelcache.dev/model.a": "x"}, extra={}), NO_NODE),
    "an empty claim": (relabelled({"modelcache.dev/model.a": "x"}, extra={CLAIM: [""]}), NO_NODE),
    "a claim of two nodes": (
        relabelled({"modelcache.dev/model.a": "x"}, extra={CLAIM: [NODE, "gpu-8.example"]}),
        NO_NODE,
    ),
    "a foreign label set": (relabelled({"team": "blue"}), LABELS),
    "a foreign label changed": (relabelled({"kubernetes.io/hostname": "x"}), LABELS),
    "a foreign label taken off": (relabelled({"kubernetes.io/hostname": None}), LABELS),
    "a label by which people choose nodes": (relabelled({"modelcache.dev/node": "false"}), LABELS),
    "a label that only begins like ours": (relabelled({"modelcache.dev/modelx": "a"}), LABELS),
    "a label of another domain": (relabelled({"xmodelcache.dev/model.a": "a"}), LABELS),
    "a label that holds ours": (relabelled({"a/modelcache.dev-model.a": "a"}), LABELS),
    "a foreign label through the status": (
        relabelled({"team": "blue"}, subresource="status"),
        LABELS,
    ),
    "an annotation": (asking("nodes", a_node(), a_node(annotations={"a": "b"})), METADATA),
    "all annotations": (
        asking("nodes", a_node(), change(a_node(), "metadata|annotations", None)),
        METADATA,
    ),
    "an owner": (asking("nodes", a_node(), a_node(ownerReferences=[{"kind": "Pod"}])), METADATA),
    "a finalizer": (asking("nodes", a_node(), a_node(finalizers=["a/b"])), METADATA),
    "a taint set": (
        asking(
            "nodes",
            a_node(),
            change(a_node(), "spec|taints", [*a_node()["spec"]["taints"], {"key": "a"}]),
        ),
        SPEC,
    ),
    "a taint taken off": (
        asking("nodes", a_node(), change(a_node(), "spec|taints", a_node()["spec"]["taints"][:1])),
        SPEC,
    ),
    "a cordon": (asking("nodes", a_node(), change(a_node(), "spec|unschedulable", True)), SPEC),
    "the condition Ready": (
        asking(
            "nodes",
            a_node(),
            change(
                a_node(), "status|conditions", [{**conditions[0], "status": "False"}, conditions[1]]
            ),
            subresource="status",
        ),
        STATUS,
    ),
    "a condition taken off": (
        asking(
            "nodes",
            a_node(),
            change(a_node(), "status|conditions", conditions[1:]),
            subresource="status",
        ),
        STATUS,
    ),
    "a foreign condition beside ours": (
        with_conditions(OURS, {"type": "GPUReady", "status": "True"}),
        STATUS,
    ),
    "the capacity": (
        asking(
            "nodes", a_node(), change(a_node(), "status|capacity|cpu", "1"), subresource="status"
        ),
        STATUS,
    ),
    "an address": (
        asking("nodes", a_node(), change(a_node(), "status|addresses", [{}]), subresource="status"),
        STATUS,
    ),
    "images forgotten": (
        asking("nodes", a_node(), change(a_node(), "status|images", None), subresource="status"),
        STATUS,
    ),
    "the node deleted": (asking("nodes", a_node(), None), OTHER_NODE),
    "a node made": (asking("nodes", None, a_node()), OTHER_NODE),
    "another node's NodeCache made": (about_caches(None, cache("gpu-8.example")), "own node only"),
    "another node's NodeCache changed": (
        about_caches(
            cache("gpu-8.example"), cache("gpu-8.example", root="/x"), subresource="status"
        ),
        "own node only",
    ),
    "another node's NodeCache deleted": (
        about_caches(cache("gpu-8.example"), None),
        "own node only",
    ),
    "a NodeCache without a name": (
        about_caches(None, change(cache(), "metadata|name", None)),
        "own node only",
    ),
    "a NodeCache without a claim": (about_caches(None, cache(), extra={}), NO_NODE),
    "the controller's Lease": (
        about_leases(lease("a", "modelcache-controller"), lease(NODE, "modelcache-controller")),
        "permits only",
    ),
    "the controller's Lease deleted": (
        about_leases(lease(NODE, "modelcache-controller"), None),
        "permits only",
    ),
    "a permit for another": (about_leases(lease(), lease("gpu-8.example")), "its own node only"),
    "a permit for nobody": (about_leases(lease(), lease(None)), "its own node only"),
    "another's permit given back": (
        about_leases(lease("gpu-8.example"), None),
        "its own node only",
    ),
    # By the controller
    "the controller sets a taint": (
        asking(
            "nodes",
            a_node(),
            change(a_node(), "spec|taints", [*a_node()["spec"]["taints"], {"key": "a"}]),
            user=CONTROLLER,
        ),
        "sets or changes none",
    ),
    "the controller's first taint": (
        asking("nodes", change(a_node(), "spec|taints", None), a_node(), user=CONTROLLER),
        "sets or changes none",
    ),
    "the controller changes a taint": (
        asking(
            "nodes",
            a_node(),
            change(a_node(), "spec|taints", [{"key": "nvidia.com/gpu", "effect": "NoExecute"}]),
            user=CONTROLLER,
        ),
        "sets or changes none",
    ),
    "the controller cordons": (
        asking("nodes", a_node(), change(a_node(), "spec|unschedulable", True), user=CONTROLLER),
        "the taints only",
    ),
    "the controller forgets a field": (
        asking("nodes", a_node(), change(a_node(), "spec|podCIDR", None), user=CONTROLLER),
        "the taints only",
    ),
    "the controller labels": (
        relabelled({"modelcache.dev/model.a": "x"}, user=CONTROLLER),
        "no label",
    ),
    "the controller takes all labels": (
        asking("nodes", a_node(), change(a_node(), "metadata|labels", None), user=CONTROLLER),
        "no label",
    ),
    "the controller writes a status": (with_conditions(OURS, user=CONTROLLER), "nor writes"),
    "the controller deletes a node": (
        asking("nodes", a_node(), None, user=CONTROLLER),
        "nor deletes",
    ),
    "the controller makes a node": (
        asking("nodes", None, a_node(), user=CONTROLLER),
        "neither makes",
    ),
}


@pytest.mark.parametrize(("request_", "why"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_refused(review: Review, request_: Object, why: str) -> None:
    refusals = review(request_)
    assert any(why in refusal for refusal in refusals), refusals


def test_a_refusal_names_the_agents_own_node(review: Review) -> None:
    found = review(relabelled({"modelcache.dev/model.a": "Ready"}, extra=elsewhere))
    assert found == ["an agent changes its own node only, and that is 'gpu-8.example'"]


# What no evaluation shows


def test_each_policy_is_bound_and_refuses() -> None:
    assert len(POLICIES) == 3
    for policy in POLICIES:
        assert policy["spec"]["failurePolicy"] == "Fail"
        binding = one(DOCUMENTS, "ValidatingAdmissionPolicyBinding", policy["metadata"]["name"])
        assert binding["spec"] == {
            "policyName": policy["metadata"]["name"],
            "validationActions": ["Deny"],
        }


def test_the_names_in_the_expressions_are_those_of_the_base() -> None:
    accounts = {
        f"system:serviceaccount:{each['metadata']['namespace']}:{each['metadata']['name']}"
        for each in objects(FOLDER / "base")
        if each["kind"] == "ServiceAccount"
    }
    named = {
        user
        for policy in POLICIES
        for condition in policy["spec"]["matchConditions"]
        for user in re.findall(r"'(system:[^']+)'", condition["expression"])
    }
    assert named == accounts == {AGENT, CONTROLLER}


def test_the_labels_in_the_expressions_are_those_that_agents_write() -> None:
    (policy,) = (each for each in POLICIES if each["metadata"]["name"] == "modelcache-agent-nodes")
    expressions = " ".join(each["expression"] for each in policy["spec"]["validations"])
    patterns = set(re.findall(r"matches\('([^']+)'\)", expressions))
    assert patterns == {"^modelcache[.]dev/(model|revision|compile)[.]"}
    assert set(OUR_LABELS) == {
        f"modelcache.dev/{kind}." for kind in ("model", "revision", "compile")
    }
    for each in (READY_CONDITION, DISK_CONDITION):
        assert f"'{each}'" in str(policy["spec"]["variables"])


def test_messages_are_lines_and_there_are_messages() -> None:
    """The API server wants a message where an expression has line breaks."""
    for policy in POLICIES:
        for each in policy["spec"]["validations"]:
            assert "message" in each or (
                "messageExpression" in each and "\n" not in each["expression"]
            )
            assert "\n" not in each.get("message", "")
            assert each["reason"] == "Forbidden"
