"""What the manifests set are settings that there are, with values that they take."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic_settings import BaseSettings

import modelcache.settings
from modelcache.api import API_GROUP
from modelcache.catalog import FileCatalog, Severity
from modelcache.cluster.cleaning import PODS_OF_OURS, WORKLOADS
from modelcache.cluster.ownnode import is_ours
from modelcache.service.reporting import READY_CONDITION, is_unreadable
from modelcache.settings import STARTUP_TAINT, CleanupSettings, ControllerSettings, PrepareSettings
from tests.support.manifests import (
    FOLDER,
    Object,
    containers,
    kustomizations,
    load,
    objects,
    one,
    patches,
    pods,
    settings_of,
)

CLASSES = [
    found
    for found in vars(modelcache.settings).values()
    if isinstance(found, type) and issubclass(found, BaseSettings) and found is not BaseSettings
]
KNOWN = {f"MODELCACHE_{field.upper()}" for each in CLASSES for field in each.model_fields}
IMAGE = "modelcache/agent:dev"


def environment(container: Object) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container.get("env", ()) if "value" in each}


def added_variables(value: Any) -> Iterator[Object]:
    """The variables in what a patch adds: one, several, or a container with some."""
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, dict):
            if str(each.get("name")).startswith("MODELCACHE_"):
                yield each
            yield from each.get("env", ())


def everything_set() -> dict[str, list[tuple[str, str]]]:
    """Variable and value of all that is set, by where."""
    found = {
        str(f.relative_to(FOLDER)): [*settings_of(k).items()] for f, k in kustomizations().items()
    }
    for name, container in containers(objects()).items():
        found[name] = [*environment(container).items()]
    for folder, kustomization in kustomizations().items():
        for _, step in patches(kustomization):
            values = step["value"] if isinstance(step["value"], list) else [step["value"]]
            for value in values:
                if isinstance(value, dict):
                    more = [value] if str(value.get("name")).startswith("MODELCACHE_") else []
                    for each in (*more, *value.get("env", ())):
                        found.setdefault(folder.name, []).append(
                            (each["name"], each.get("value", ""))
                        )
    return {where: pairs for where, pairs in found.items() if pairs}


SET = everything_set()


def test_something_is_set_where_it_should_be() -> None:
    assert {"base", "agent", "cleanup", "require-mount", "overlays/gke-local-ssd"} <= SET.keys()


@pytest.mark.parametrize("where", SET)
def test_every_variable_is_a_setting_and_takes_its_value(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in SET[where]:
        if variable.startswith("MODELCACHE_"):
            assert variable in KNOWN
            monkeypatch.setenv(variable, value)
    for each in CLASSES:
        each()


def test_no_variable_is_named_in_a_comment_that_there_is_not() -> None:
    for path in FOLDER.rglob("*.yaml"):
        assert set(re.findall(r"MODELCACHE_[A-Z_]+", path.read_text())) <= KNOWN, path


def test_one_image() -> None:
    found = objects()
    assert {container["image"] for container in containers(found).values()} == {IMAGE}
    for kustomization in kustomizations().values():
        for _, step in patches(kustomization):
            if isinstance(step["value"], dict) and "image" in step["value"]:
                assert step["value"]["image"] == IMAGE
    name, _, tag = IMAGE.partition(":")
    for folder, kustomization in kustomizations().items():
        wanted = folder.parent.name == "overlays" or folder.name == "cleanup"
        assert kustomization.get("images", []) == (
            [{"name": name, "newTag": tag}] if wanted else []
        )


def test_each_container_runs_a_command_of_ours() -> None:
    from modelcache.cli.main import COMMANDS

    for container in containers(objects()).values():
        assert container["args"][0] in COMMANDS


# Names that programs and manifests share


def test_the_cleanup_stops_what_the_base_starts() -> None:
    base = objects(FOLDER / "base")
    kinds = {"daemonsets": "DaemonSet", "deployments": "Deployment"}
    stopped = {(kinds[resource.plural], name) for resource, name in WORKLOADS}
    assert stopped == {
        (each["kind"], each["metadata"]["name"])
        for each in base
        if "template" in each.get("spec", {})
    }
    labels, _, among = PODS_OF_OURS.partition(",")
    assert among == "app.kubernetes.io/component in (agent, controller)"
    key, _, value = labels.partition("=")
    for kind, name in stopped:
        found = one(base, kind, name)["spec"]["template"]["metadata"]["labels"]
        assert found[key] == value
        assert found["app.kubernetes.io/component"] in ("agent", "controller")


def test_every_startup_taint_is_tolerated_and_cleaned_up(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {
        value
        for pairs in SET.values()
        for variable, value in pairs
        if variable == "MODELCACHE_STARTUP_TAINT" and value
    }
    assert chosen, "GKE's overlay has a key of its own"
    chosen.add(STARTUP_TAINT)
    assert ControllerSettings().startup_taint == STARTUP_TAINT
    tolerated = {
        name: {each["key"] for each in pod["tolerations"]} for name, pod in pods(objects()).items()
    }
    for target, step in patches(kustomizations()[FOLDER / "components" / "startup-taint"]):
        if step["path"].endswith("/tolerations/-"):
            for name in tolerated:
                if re.fullmatch(target["name"], name):
                    tolerated[name].add(step["value"]["key"])
    assert all(chosen <= keys for keys in tolerated.values()), tolerated
    assert chosen <= {*CleanupSettings().startup_taints}
    for variable, value in SET["cleanup"]:
        monkeypatch.setenv(variable, value)
    assert chosen <= {*CleanupSettings().startup_taints}


def test_labels_that_people_set_are_none_that_agents_write() -> None:
    text = "\n".join(path.read_text() for path in FOLDER.rglob("kustomization.yaml"))
    found = set(re.findall(rf"{re.escape(API_GROUP)}(?:/|~1)([a-z.-]+)", text))
    assert {"node", "not-ready"} <= found
    assert not any(
        is_ours(f"{API_GROUP}/{name}") for name in found - {"model.", "revision.", "compile."}
    )


def test_the_rule_of_node_readiness_controller_asks_for_our_condition() -> None:
    folder = FOLDER / "components" / "node-readiness-rule"
    (rule,) = load(folder / "rule.yaml")
    assert rule["spec"]["conditions"] == [{"type": READY_CONDITION, "requiredStatus": "True"}]
    taint = rule["spec"]["taint"]["key"]
    assert taint.startswith("readiness.k8s.io/")
    ((target, step),) = patches(kustomizations()[folder])
    assert step["value"] == {"key": taint, "operator": "Exists"}
    assert all(
        re.fullmatch(target["name"], name) for name in ("modelcache-agent", "modelcache-controller")
    )


# Paths


@pytest.mark.parametrize("overlay", sorted((FOLDER / "overlays").iterdir()), ids=lambda p: p.name)
def test_an_overlay_says_where_the_root_lies(overlay: Path) -> None:
    found = settings_of(kustomizations()[overlay])
    root, mount = Path(found["MODELCACHE_ROOT"]), Path(found["MODELCACHE_REQUIRE_MOUNT"])
    assert root.is_relative_to(mount)
    assert "../../components/require-mount" in kustomizations()[overlay]["components"]
    (replacement,) = kustomizations()[overlay]["replacements"]
    assert replacement["source"]["fieldPath"] == "data.MODELCACHE_ROOT"


def test_the_programs_default_root_is_that_of_the_base() -> None:
    found = settings_of(kustomizations()[FOLDER / "base"])
    assert found["MODELCACHE_ROOT"] == str(PrepareSettings().root)


def test_the_catalog_that_comes_along_is_valid_and_empty() -> None:
    catalog = FileCatalog(FOLDER / "components" / "file-catalog" / "models.yaml").read()
    assert not catalog.documents
    assert not is_unreadable(catalog)  # which would keep the agents from being ready
    assert not [problem for problem in catalog.problems if problem.severity is Severity.ERROR]


def test_a_root_that_shares_kubelets_disk_stays_clear_of_its_limits() -> None:
    """At 85 % kubelet deletes images; only a disk for models alone may be fuller."""
    kept = {
        folder: settings["MODELCACHE_KEEP_FREE"]
        for folder, each in kustomizations().items()
        if "MODELCACHE_KEEP_FREE" in (settings := settings_of(each))
    }
    assert kept[FOLDER / "base"] == "20%"
    for folder, share in kept.items():
        if float(share.removesuffix("%")) < 20:
            text = (folder / "kustomization.yaml").read_text()
            assert "A disk for models alone" in text
            assert "components/require-mount" in text
