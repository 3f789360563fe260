from __future__ import annotations

from typing import Any

import pytest

from modelcache.cluster.inuse import Use, compile_caches_in_use, in_use, keep_use

ROOT = "/var/lib/modelcache"


def pod(
    *paths: str, model: str | None = None, phase: str = "Running", namespace: str = "team"
) -> dict[str, Any]:
    annotations = {"annotations": {"modelcache.dev/model": model}} if model else {}
    volumes: list[dict[str, Any]] = [{"name": p, "hostPath": {"path": p}} for p in paths]
    volumes.append({"name": "token", "projected": {}})
    return keep_use(
        {
            "metadata": {"name": "p", "namespace": namespace, **annotations},
            "spec": {"volumes": volumes},
            "status": {"phase": phase},
        }
    )


def use(*pods: dict[str, Any]) -> Use:
    return in_use(pods, ROOT, "modelcache-system")


@pytest.mark.parametrize(
    "path", [f"{ROOT}/models/a", f"{ROOT}/models/a/current", f"{ROOT}/hub/a", f"{ROOT}/hub/a/x/y"]
)
def test_a_mounted_view_is_in_use(path: str) -> None:
    assert use(pod(path)) == Use(frozenset({"a"}))


def test_what_a_pod_asks_for_is_in_use_also_while_it_starts() -> None:
    assert use(pod(model="a, b", phase="Pending")) == Use(frozenset({"a", "b"}))


@pytest.mark.parametrize("path", [ROOT, f"{ROOT}/models", f"{ROOT}/hub", f"{ROOT}/blobs"])
def test_a_pod_that_mounts_all_and_says_nothing_may_use_any(path: str) -> None:
    found = use(pod(path))
    assert found.everything
    assert "whatever" in found


def test_a_pod_that_mounts_all_and_says_which_uses_those() -> None:
    found = use(pod(f"{ROOT}/models", f"{ROOT}/hub", model="a"))
    assert found == Use(frozenset({"a"}))
    assert "b" not in found


@pytest.mark.parametrize("path", [f"{ROOT}/compile", f"{ROOT}/compile/a"])
def test_who_mounts_compile_caches_uses_no_model(path: str) -> None:
    assert use(pod(path)) == Use()


@pytest.mark.parametrize("path", ["/", "/var/lib", "/var/lib/modelcache-other/models/a", "/mnt"])
def test_who_looks_at_the_node_uses_no_model(path: str) -> None:
    assert use(pod(path)) == Use()


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_pod_that_has_ended_uses_nothing(phase: str) -> None:
    assert use(pod(f"{ROOT}/models/a", model="b", phase=phase)) == Use()


def test_our_own_pods_use_nothing() -> None:
    assert use(pod(ROOT, namespace="modelcache-system")) == Use()
    assert use(pod(ROOT, namespace="modelcache-system-of-others")).everything


# Compile caches


def asking(cache: str, *, phase: str = "Running", namespace: str = "team", **spec: Any) -> Any:
    return keep_use(
        {
            "metadata": {
                "name": "p",
                "namespace": namespace,
                "uid": "u",
                "annotations": {"modelcache.dev/compile-cache": cache},
            },
            "spec": spec,
            "status": {
                "phase": phase,
                "containerStatuses": [{"imageID": f"docker.io/r/pulled@sha256:{'2' * 64}"}],
            },
        }
    )


def test_compile_caches_that_pods_ask_for_until_they_have_ended() -> None:
    pods = [asking("a"), asking("b", phase="Succeeded"), asking("c", namespace="modelcache-system")]
    assert compile_caches_in_use([*pods, pod()], "modelcache-system") == {"a"}


def test_the_images_of_a_pod_that_asks_for_one_are_known_by_digest() -> None:
    containers = [{"image": f"r/asked@sha256:{'1' * 64}"}, {"image": "r/tag:1"}]
    kept = asking("a", containers=containers)
    assert kept["images"] == [f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"]
    assert pod()["images"] == []


def test_a_mounted_bundle_is_no_model() -> None:
    assert use(pod(f"{ROOT}/compile", f"{ROOT}/compile/a")) == Use()
