"""The rights of our programs, pinned: whoever widens one has to say so here."""

from __future__ import annotations

import pytest

from tests.support.manifests import COMPONENTS, FOLDER, kustomizations, objects, patches
from tests.support.rbac import ADDED, BASE, CLEANUP, OURS, Grant, Role, granted, roles

EVERY = [
    *BASE.items(),
    *CLEANUP.items(),
    *(role for each in ADDED.values() for role in each.items()),
]


def test_the_base_has_these_rights_and_no_others() -> None:
    assert roles(objects(FOLDER / "base")) == BASE


def test_the_cleanup_has_these_rights_and_no_others() -> None:
    assert roles(objects(FOLDER / "cleanup")) == CLEANUP


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_component_adds_these_rights_and_no_others(component: str) -> None:
    folder = FOLDER / "components" / component
    added = dict(roles(objects(folder)))
    for target, step in patches(kustomizations()[folder]):
        if "Role" in target.get("kind", ""):
            assert (step["op"], step["path"]) == ("add", "/rules/-")
            role = target["name"], target.get("namespace", "")
            added[role] = added.get(role, frozenset()) | granted([step["value"]])
    assert added == ADDED.get(component, {})


def test_no_overlay_adds_any() -> None:
    for folder, kustomization in kustomizations().items():
        if folder.parent.name == "overlays":
            assert not any("Role" in target.get("kind", "") for target, _ in patches(kustomization))
            assert not roles(objects(folder))


# What holds for every rule, also for those to come


@pytest.mark.parametrize(("role", "rights"), EVERY)
def test_nothing_is_a_wildcard(role: Role, rights: frozenset[Grant]) -> None:
    assert not any("*" in part for right in rights for part in right), role


@pytest.mark.parametrize(("role", "rights"), EVERY)
def test_secrets_are_read_by_name_in_our_namespace_or_not_at_all(
    role: Role, rights: frozenset[Grant]
) -> None:
    for _, resource, _ in rights:
        if resource.partition("=")[0] == "secrets":
            assert role[1] == OURS
            assert "=" in resource


@pytest.mark.parametrize(("role", "rights"), EVERY)
def test_pods_and_what_people_write_are_read_only(role: Role, rights: frozenset[Grant]) -> None:
    for _, resource, verb in rights:
        if resource in ("pods", "cachedmodels", "compilecaches", "namespaces", "configmaps"):
            assert verb in ("get", "list", "watch"), role


@pytest.mark.parametrize(("role", "rights"), EVERY)
def test_nobody_can_give_himself_more(role: Role, rights: frozenset[Grant]) -> None:
    for group, resource, verb in rights:
        assert group != "rbac.authorization.k8s.io", role
        assert verb not in ("bind", "escalate", "impersonate"), role
        assert not resource.startswith(("serviceaccounts", "pods/", "nodes/proxy")), role


@pytest.mark.parametrize(("role", "rights"), EVERY)
def test_nodes_are_patched_and_neither_made_nor_deleted(
    role: Role, rights: frozenset[Grant]
) -> None:
    for _, resource, verb in rights:
        if resource.startswith("nodes"):
            assert verb in ("get", "list", "watch", "patch"), role


def test_every_role_is_bound_to_its_own_service_account() -> None:
    found = objects()
    accounts = {
        (each["metadata"]["name"], each["metadata"]["namespace"])
        for each in found
        if each["kind"] == "ServiceAccount"
    }
    bound = {}
    for binding in found:
        if binding["kind"] in ("RoleBinding", "ClusterRoleBinding"):
            metadata, ref = binding["metadata"], binding["roleRef"]
            assert ref["kind"] == binding["kind"].removesuffix("Binding")
            (subject,) = binding["subjects"]
            account = subject["name"], subject["namespace"]
            assert subject["kind"] == "ServiceAccount"
            assert account in accounts
            bound[ref["name"], metadata.get("namespace", "")] = account
    assert bound.keys() == roles(found).keys()
    assert all(account == (role[0], OURS) for role, account in bound.items())
