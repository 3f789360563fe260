from __future__ import annotations

from typing import Any

import pytest

from modelcache.cluster.inuse import compile_caches_in_use, keep_use, pods_using
from modelcache.planning.using import User, Uses

ROOT = "/var/lib/modelcache"


STARTED = "2026-11-22T07:00:00Z"
EPOCH = 1795330800.0
NOW = EPOCH + 5000.0


def running(started: str = STARTED) -> dict[str, Any]:
    return {"state": {"running": {"startedAt": started}}}


def pod(
    *paths: str,
    model: str | None = None,
    phase: str = "Running",
    namespace: str = "team",
    labels: dict[str, str] | None = None,
    **status: Any,
) -> dict[str, Any]:
    annotations = {"annotations": {"modelcache.dev/model": model}} if model else {}
    volumes: list[dict[str, Any]] = [{"name": p, "hostPath": {"path": p}} for p in paths]
    volumes.append({"name": "token", "projected": {}})
    return keep_use(
        {
            "metadata": {"name": "p", "namespace": namespace, "labels": labels, **annotations},
            "spec": {"volumes": volumes},
            "status": {"phase": phase, "containerStatuses": [running()], **status},
        }
    )


def use(*pods: dict[str, Any]) -> Uses:
    return Uses(pods_using(pods, ROOT, "modelcache-system", NOW))


def mounts(model: str, *snapshots: str, since: float | None = None) -> User:
    named = frozenset(snapshots) or None
    return User("pod", "team/p", model, named, since, "mounts it")


def asks(model: str, since: float = EPOCH) -> User:
    return User("pod", "team/p", model, None, since, "asks for it")


OURS = {"app.kubernetes.io/name": "modelcache", "app.kubernetes.io/component": "agent"}
ANY = User("pod", "team/p", None, how="mounts all models and may use any")


@pytest.mark.parametrize(
    "path",
    [
        f"{ROOT}/models/a",
        f"{ROOT}/models/a/current",
        f"{ROOT}/models/a/current/sub",
        f"{ROOT}/hub/a",
        f"{ROOT}/hub/a/x/y",
        f"{ROOT}/hub/a/models--o--r/snapshots",
    ],
)
def test_a_mounted_view_is_in_use_as_it_was_shown_since_the_pod_runs(path: str) -> None:
    assert use(pod(path)).users == (mounts("a", since=EPOCH),)


def test_of_a_mounted_snapshot_no_other_is_in_use() -> None:
    found = use(pod(f"{ROOT}/models/a/r1", f"{ROOT}/models/a/r2/sub"))
    assert found.users == (mounts("a", "r1"), mounts("a", "r2"))
    assert found.may_go("a", "r3")
    assert not found.may_go("a", "r1")
    assert not found.may_go("a", "r2")
    assert not found.may_go("a")


def test_of_a_mounted_commit_any_selection_may_be_in_use() -> None:
    path = f"{ROOT}/hub/a/models--o--r/snapshots/c0ffee"
    assert use(pod(path)).users == (mounts("a"),)


def test_what_a_pod_asks_for_is_in_use_also_while_it_starts() -> None:
    waits = {"state": {"waiting": {"reason": "ContainerCreating"}}}
    found = use(pod(model="a, b", phase="Pending", containerStatuses=[waits]))
    assert found.users == (asks("a", NOW), asks("b", NOW))
    assert use(pod(model="a", phase="Pending", containerStatuses=None)).users == (asks("a", NOW),)


def test_who_mounts_what_it_asks_for_uses_it_once() -> None:
    found = use(pod(f"{ROOT}/models/a/current", f"{ROOT}/hub/a", model="a"))
    assert found.users == (mounts("a", since=EPOCH),)


def test_who_mounts_a_snapshot_and_asks_for_the_model_uses_what_is_shown_too() -> None:
    found = use(pod(f"{ROOT}/models/a/r1", model="a"))
    assert found.users == (mounts("a", "r1"), asks("a"))


@pytest.mark.parametrize("path", [ROOT, f"{ROOT}/models", f"{ROOT}/hub", f"{ROOT}/blobs"])
def test_a_pod_that_mounts_all_and_says_nothing_may_use_any(path: str) -> None:
    found = use(pod(path))
    assert found.users == (ANY,)
    assert not found.may_go("whatever", "r1")


def test_a_pod_that_mounts_all_and_says_which_uses_those() -> None:
    found = use(pod(f"{ROOT}/models", f"{ROOT}/hub", model="a"))
    assert found.users == (asks("a"),)
    assert found.may_go("b")


@pytest.mark.parametrize("path", [f"{ROOT}/compile", f"{ROOT}/compile/a"])
def test_who_mounts_compile_caches_uses_no_model(path: str) -> None:
    assert use(pod(path)) == Uses()


@pytest.mark.parametrize("path", ["/", "/var/lib", "/var/lib/modelcache-other/models/a", "/mnt"])
def test_who_looks_at_the_node_uses_no_model(path: str) -> None:
    assert use(pod(path)) == Uses()


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_pod_that_has_ended_uses_nothing(phase: str) -> None:
    assert use(pod(f"{ROOT}/models/a", model="b", phase=phase)) == Uses()


def test_our_own_pods_use_nothing() -> None:
    assert use(pod(ROOT, namespace="modelcache-system", labels=OURS)) == Uses()
    other = use(pod(ROOT, namespace="modelcache-system-of-others", labels=OURS))
    assert [user.model for user in other.users] == [None]


@pytest.mark.parametrize("labels", [None, {}, {"app.kubernetes.io/name": "vllm"}])
def test_other_pods_in_our_namespace_use_what_they_mount(labels: dict[str, str] | None) -> None:
    view = pod(f"{ROOT}/models/a", namespace="modelcache-system", labels=labels)
    assert [user.model for user in use(view).users] == ["a"]


# Since when


def since(**status: Any) -> float | None:
    (user,) = use(pod(model="a", **status)).users
    return user.since


def test_a_pod_uses_a_model_since_its_oldest_container_runs() -> None:
    new, old = running("2026-11-22T07:30:00Z"), running("2026-11-22T07:10:00Z")
    assert since(containerStatuses=[new, old]) == EPOCH + 600.0
    assert since(containerStatuses=[new], initContainerStatuses=[old]) == EPOCH + 600.0
    assert since(containerStatuses=[new], ephemeralContainerStatuses=[old]) == EPOCH + 600.0


def test_a_container_that_was_restarted_counts_from_its_restart() -> None:
    ended = {"terminated": {"startedAt": STARTED}}
    again = {**running("2026-11-22T07:30:00Z"), "lastState": ended}
    assert since(containerStatuses=[again]) == EPOCH + 1800.0
    assert since(containerStatuses=[{"state": ended}]) == NOW, "it mounts anew when it starts again"


def test_what_an_init_container_linked_is_in_use_as_long_as_the_pod_lives() -> None:
    linked = {"state": {"terminated": {"startedAt": STARTED}}}
    late = running("2026-11-22T07:30:00Z")
    assert since(containerStatuses=[late], initContainerStatuses=[linked]) == EPOCH


def test_a_start_that_can_t_be_read_was_long_ago() -> None:
    assert since(containerStatuses=[running("yesterday")]) == 0.0
    assert since(containerStatuses=[{"state": {"running": {}}}]) == 0.0


# Compile caches


def asking(
    cache: str,
    *,
    phase: str = "Running",
    namespace: str = "team",
    labels: dict[str, str] | None = None,
    **spec: Any,
) -> Any:
    return keep_use(
        {
            "metadata": {
                "name": "p",
                "namespace": namespace,
                "labels": labels,
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
    ours = asking("c", namespace="modelcache-system", labels=OURS)
    pods = [asking("a"), asking("b", phase="Succeeded"), ours]
    assert compile_caches_in_use([*pods, pod()], "modelcache-system") == {"a"}
    beside_us = asking("d", namespace="modelcache-system")
    assert compile_caches_in_use([*pods, beside_us], "modelcache-system") == {"a", "d"}


def test_the_images_of_a_pod_that_asks_for_one_are_known_by_digest() -> None:
    containers = [{"image": f"r/asked@sha256:{'1' * 64}"}, {"image": "r/tag:1"}]
    kept = asking("a", containers=containers)
    assert kept["images"] == [f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"]
    assert pod()["images"] == []


def test_a_mounted_bundle_is_no_model() -> None:
    assert use(pod(f"{ROOT}/compile", f"{ROOT}/compile/a")) == Uses()
