"""What containers find mounted, and what leaves them as they are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from modelcache.cluster.injection import Level, Malformed, inject
from tests.unit.cluster.injection.samples import CONFIG, KNOWN, Object, hosts, pod, variables


def injected(given: Object, **config: Any) -> Object:
    return inject(given, KNOWN, replace(CONFIG, **config)).pod


def engine(found: Object) -> Object:
    (container,) = found["spec"]["containers"]
    return dict(container)


def with_container(**fields: Any) -> Object:
    return pod(containers=[{"name": "engine", "image": "engine:1", **fields}])


def test_preferred_mounts_what_need_not_be_there() -> None:
    found = injected(pod("a"))
    assert set(hosts(found).values()) == {"/data/models", "/data/hub"}
    kinds = {v["hostPath"]["type"] for v in found["spec"]["volumes"] if "hostPath" in v}
    assert kinds == {"DirectoryOrCreate"}
    assert "HF_HUB_OFFLINE" not in variables(engine(found))
    (link,) = found["spec"]["initContainers"]
    assert link["image"] == "image:1"
    assert link["args"][0] == "link"
    assert link["args"][-1] == "a"
    # The engine's cache is the one that is filled, and can be written.
    cache = variables(engine(found))["HF_HUB_CACHE"]
    for container in (link, engine(found)):
        (mount,) = [m for m in container["volumeMounts"] if m["mountPath"] == cache]
        assert "readOnly" not in mount


def test_no_container_can_write_to_the_node() -> None:
    for affinity in ("preferred", "required"):
        found = injected(pod("a,b,bucket", affinity))
        host = {v["name"] for v in found["spec"]["volumes"] if "hostPath" in v}
        for container in [*found["spec"]["containers"], *found["spec"]["initContainers"]]:
            for mount in container["volumeMounts"]:
                assert mount.get("readOnly") is True or mount["name"] not in host


def test_required_mounts_the_models_own_views_and_no_others() -> None:
    found = injected(pod("a", "required"))
    paths = hosts(found)
    assert paths["/mnt/models/a"] == "/data/models/a/current"
    assert set(paths.values()) == {"/data/models/a/current", "/data/hub/a"}
    kinds = {volume["hostPath"]["type"] for volume in found["spec"]["volumes"]}
    assert kinds == {"Directory"}
    assert not found["spec"].get("initContainers")
    given = variables(engine(found))
    assert given["HF_HUB_OFFLINE"] == "1"
    assert paths[given["HF_HUB_CACHE"]] == "/data/hub/a"


def test_several_required_are_linked_together() -> None:
    found = injected(pod("a,b", "required"))
    paths = set(hosts(found).values())
    assert paths == {
        "/data/models/a/current",
        "/data/models/b/current",
        "/data/hub/a",
        "/data/hub/b",
    }
    (link,) = found["spec"]["initContainers"]
    assert link["args"][-2:] == ["a", "b"]
    assert "--offline" in link["args"]
    assert variables(engine(found))["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize("affinity", ["preferred", "required"])
def test_a_model_of_a_bucket_has_no_hub_view(affinity: str) -> None:
    found = injected(pod("bucket", affinity))
    assert not [path for path in hosts(found).values() if "hub" in path]
    assert variables(engine(found)) == {}


@pytest.mark.parametrize("name", ["odd", "nowhere"])
def test_a_view_that_may_be_missing_holds_no_pod_up(name: str) -> None:
    assert f"/data/hub/{name}" not in hosts(injected(pod(name, "required"))).values()


def test_every_container_gets_them_but_the_link_is_first() -> None:
    found = injected(pod("a", initContainers=[{"name": "setup", "image": "x"}]))
    first, second = found["spec"]["initContainers"]
    assert first["args"][0] == "link"
    assert second["name"] == "setup"
    assert second["volumeMounts"] == engine(found)["volumeMounts"]
    assert variables(second) == variables(engine(found))


def test_an_own_cache_is_kept_with_a_warning() -> None:
    given = with_container(env=[{"name": "HF_HUB_CACHE", "value": "/own"}])
    found = inject(given, KNOWN, CONFIG)
    assert engine(found.pod)["env"] == [{"name": "HF_HUB_CACHE", "value": "/own"}]
    assert any("HF_HUB_CACHE" in warning for warning in found.warnings)


def test_an_own_cache_is_not_taken_offline() -> None:
    given = pod(
        "a",
        "required",
        containers=[{"name": "engine", "env": [{"name": "HF_HUB_CACHE", "value": "/own"}]}],
    )
    assert "HF_HUB_OFFLINE" not in variables(engine(injected(given)))


@pytest.mark.parametrize("path", ["/mnt/models", "/mnt", "/mnt/models/a/", "/"])
def test_a_mount_in_the_way_is_kept_with_a_warning(path: str) -> None:
    given = with_container(volumeMounts=[{"name": "own", "mountPath": path}])
    found = inject(given, KNOWN, CONFIG)
    assert found.warnings
    mounts = engine(found.pod)["volumeMounts"]
    assert mounts[0] == {"name": "own", "mountPath": path}
    assert not any(m["mountPath"].startswith("/mnt/models") for m in mounts[1:])


def test_other_mounts_and_variables_come_first_and_stay() -> None:
    given = with_container(
        volumeMounts=[{"name": "shm", "mountPath": "/dev/shm"}],
        env=[{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}],
    )
    found = engine(injected(given))
    assert found["volumeMounts"][0] == {"name": "shm", "mountPath": "/dev/shm"}
    assert found["env"][0] == {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}


def test_names_that_are_taken_are_not_taken_again() -> None:
    plain = injected(pod("a"))
    names = [volume["name"] for volume in plain["spec"]["volumes"]]
    own = [{"name": name, "configMap": {"name": "own"}} for name in names]
    link = plain["spec"]["initContainers"][0]["name"]
    given = pod(
        "a",
        volumes=own,
        containers=[{"name": link, "volumeMounts": [{"name": names[0], "mountPath": "/own"}]}],
    )
    found = injected(given)
    assert found["spec"]["volumes"][: len(own)] == own
    volumes = [volume["name"] for volume in found["spec"]["volumes"]]
    assert len(set(volumes)) == len(volumes) == 2 * len(own)
    assert found["spec"]["initContainers"][0]["name"] != link
    assert found["spec"]["containers"][0]["volumeMounts"][0]["name"] == names[0]
    assert hosts(found)


@pytest.mark.parametrize("level", [Level.BASELINE, Level.RESTRICTED])
@pytest.mark.parametrize("affinity", ["preferred", "required"])
def test_a_strict_namespace_gets_affinity_only(level: Level, affinity: str) -> None:
    given = pod("a", affinity)
    found = inject(given, KNOWN, replace(CONFIG, level=level))
    assert any(str(level) in warning for warning in found.warnings)
    assert found.pod["spec"].pop("affinity")
    assert found.pod == given


def test_without_an_image_nothing_is_linked() -> None:
    found = inject(pod("a"), KNOWN, replace(CONFIG, image=""))
    assert found.warnings
    assert "initContainers" not in found.pod["spec"]
    assert "HF_HUB_CACHE" not in variables(engine(found.pod))
    # One that is required needs none.
    assert hosts(inject(pod("a", "required"), KNOWN, replace(CONFIG, image="")).pod)


def test_a_pod_for_windows_gets_affinity_only() -> None:
    found = inject(pod("a", os={"name": "windows"}), KNOWN, CONFIG)
    assert "volumes" not in found.pod["spec"]
    assert found.warnings


def test_the_init_container_is_what_restricted_wants() -> None:
    security = injected(pod("a"))["spec"]["initContainers"][0]["securityContext"]
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] > 0
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}


def test_a_guaranteed_pod_stays_guaranteed() -> None:
    resources = injected(pod("a"))["spec"]["initContainers"][0]["resources"]
    assert resources["limits"] == resources["requests"]
    assert set(resources["limits"]) == {"cpu", "memory"}


@pytest.mark.parametrize(
    "spec",
    [
        {"containers": {}},
        {"containers": ["x"]},
        {"volumes": "x"},
        {"affinity": []},
        {"initContainers": 1},
        {"containers": [{"name": "a", "env": {}}]},
        {"containers": [{"name": "a", "volumeMounts": "x"}]},
    ],
)
def test_what_is_no_pod_is_told(spec: Object) -> None:
    with pytest.raises(Malformed, match=r"is no (list|mapping)"):
        inject(pod("a", **spec), KNOWN, CONFIG)
