"""What a pod is given for its compile cache, and what keeps it from that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelcache.cluster.injection import Level, inject
from modelcache.compilecache.engines.table import table
from tests.unit.cluster.injection.samples import (
    CACHES,
    CONFIG,
    DIGEST,
    KNOWN,
    Object,
    cache_spec,
    compiling,
    variables,
)

HERE = replace(CONFIG, namespace="team")
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def warned(given: Object, **config: Any) -> str:
    """The one warning; nothing else happens."""
    found = inject(given, KNOWN, replace(HERE, **config), CACHES)
    assert found.pod == given
    (warning,) = found.warnings
    return warning


def injected(given: Object, **config: Any) -> Object:
    """The pod, without a warning."""
    found = inject(given, KNOWN, replace(HERE, **config), CACHES)
    assert found.warnings == ()
    spec: Object = found.pod["spec"]
    return spec


def container(spec: Object, name: str) -> Object:
    everyone = [*spec.get("initContainers", ()), *spec["containers"]]
    (found,) = [each for each in everyone if each["name"] == f"modelcache-compile-{name}"]
    return dict(found)


SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
RESOURCES = {
    "requests": {"cpu": "10m", "memory": "64Mi"},
    "limits": {"cpu": "2", "memory": "256Mi"},
}


def field(name: str, path: str) -> Object:
    return {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}


def test_the_whole_of_it() -> None:
    spec = injected(compiling())
    assert spec["volumes"] == [
        {"name": "modelcache-compile", "emptyDir": {}},
        {
            "name": "modelcache-compile-bundles",
            "hostPath": {"path": "/data/compile", "type": "DirectoryOrCreate"},
        },
        {"name": "modelcache-compile-work", "emptyDir": {}},
        {
            "name": "modelcache-compile-token",
            "projected": {
                "sources": [
                    {
                        "serviceAccountToken": {
                            "audience": "modelcache.dev",
                            "expirationSeconds": 3600,
                            "path": "token",
                        }
                    }
                ],
                "defaultMode": 420,
            },
        },
    ]
    (engine,) = spec["containers"]
    assert engine["volumeMounts"] == [{"name": "modelcache-compile", "mountPath": "/cache"}]
    assert variables(engine) == table(None)["vllm"].environment(Path("/cache"))
    seed, capture = spec["initContainers"]
    assert seed == {
        "name": "modelcache-compile-seed",
        "image": "image:1",
        "imagePullPolicy": "IfNotPresent",
        "command": ["modelcache"],
        "args": ["compile", "seed"],
        "securityContext": SECURITY,
        "env": [
            {"name": "MODELCACHE_COMPILE_NAME", "value": "llama"},
            {"name": "MODELCACHE_COMPILE_CACHE_DIR", "value": "/cache"},
            {"name": "MODELCACHE_COMPILE_WORK", "value": "/modelcache/work"},
            {"name": "MODELCACHE_COMPILE_BUNDLES", "value": "/modelcache/compile"},
        ],
        "resources": RESOURCES,
        "volumeMounts": [
            {"name": "modelcache-compile", "mountPath": "/cache"},
            {
                "name": "modelcache-compile-bundles",
                "mountPath": "/modelcache/compile",
                "readOnly": True,
            },
            {"name": "modelcache-compile-work", "mountPath": "/modelcache/work"},
        ],
    }
    assert capture == {
        "name": "modelcache-compile-capture",
        "image": "image:1",
        "imagePullPolicy": "IfNotPresent",
        "command": ["modelcache"],
        "args": ["compile", "capture"],
        "restartPolicy": "Always",
        "securityContext": SECURITY,
        "env": [
            {"name": "MODELCACHE_COMPILE_NAME", "value": "llama"},
            {"name": "MODELCACHE_COMPILE_CACHE_DIR", "value": "/cache"},
            {"name": "MODELCACHE_COMPILE_WORK", "value": "/modelcache/work"},
            {"name": "MODELCACHE_COMPILE_ENGINE", "value": "vllm"},
            {"name": "MODELCACHE_COMPILE_RANKS", "value": "2"},
            {"name": "MODELCACHE_COMPILE_HEALTH", "value": "http://:8000/health"},
            {"name": "MODELCACHE_COMPILE_PUBLISH", "value": "true"},
            {"name": "MODELCACHE_COMPILE_STAY", "value": "true"},
            {"name": "MODELCACHE_COMPILE_PORT", "value": "8084"},
            {"name": "MODELCACHE_COMPILE_TOKEN_FILE", "value": "/modelcache/token/token"},
            field("MODELCACHE_HOST_IP", "status.hostIP"),
            field("MODELCACHE_POD_IP", "status.podIP"),
            field("POD_NAME", "metadata.name"),
            field("POD_NAMESPACE", "metadata.namespace"),
        ],
        "resources": RESOURCES,
        "volumeMounts": [
            {"name": "modelcache-compile", "mountPath": "/cache", "readOnly": True},
            {"name": "modelcache-compile-work", "mountPath": "/modelcache/work"},
            {
                "name": "modelcache-compile-token",
                "mountPath": "/modelcache/token",
                "readOnly": True,
            },
        ],
    }
    label = {"key": "modelcache.dev/compile.llama", "operator": "Exists"}
    assert spec["affinity"] == {
        "nodeAffinity": {
            PREFERRED: [{"weight": 50, "preference": {"matchExpressions": [label]}}],
        }
    }


def test_the_engine_sees_neither_bundles_nor_token() -> None:
    (engine,) = injected(compiling())["containers"]
    assert {mount["name"] for mount in engine["volumeMounts"]} == {"modelcache-compile"}


def test_together_with_a_model() -> None:
    given = compiling()
    given["metadata"]["annotations"]["modelcache.dev/model"] = "a"
    spec = injected(given)
    names = [each["name"] for each in spec["initContainers"]]
    assert names == ["modelcache-compile-seed", "modelcache-compile-capture", "modelcache-link"]
    assert len(spec["affinity"]["nodeAffinity"][PREFERRED]) == 2
    # Ours get no models.
    for name in ("seed", "capture"):
        mounts = container(spec, name)["volumeMounts"]
        assert not [mount for mount in mounts if mount["mountPath"].startswith("/mnt")]
    # Not even where the objects aren't known the second time.
    for caches in (CACHES, None):
        assert inject({**given, "spec": spec}, KNOWN, HERE, caches).pod["spec"] == spec


def test_what_others_put_before_them_stays_there() -> None:
    once = inject(compiling(), KNOWN, HERE, CACHES).pod
    once["spec"]["initContainers"].insert(0, {"name": "first", "image": "x"})
    once["spec"]["initContainers"].append({"name": "last", "image": "x"})
    assert inject(once, KNOWN, HERE, CACHES).pod == once


def test_an_old_server_has_an_ordinary_container() -> None:
    spec = injected(compiling(), native_sidecars=False)
    assert [each["name"] for each in spec["initContainers"]] == ["modelcache-compile-seed"]
    engine, capture = spec["containers"]
    assert engine["name"] == "engine"
    assert "restartPolicy" not in capture
    assert variables(capture)["MODELCACHE_COMPILE_STAY"] == "true"
    # Injected again by a newer one, it moves.
    again = inject({**compiling(), "spec": spec}, KNOWN, HERE, CACHES).pod["spec"]
    assert [each["name"] for each in again["containers"]] == ["engine"]
    assert container(again, "capture")["restartPolicy"] == "Always"


@pytest.mark.parametrize("policy", ["Never", "OnFailure"])
def test_in_a_job_an_ordinary_container_ends(policy: str) -> None:
    spec = injected(compiling(restartPolicy=policy), native_sidecars=False)
    assert variables(container(spec, "capture"))["MODELCACHE_COMPILE_STAY"] == "false"
    spec = injected(compiling(restartPolicy=policy))
    assert variables(container(spec, "capture"))["MODELCACHE_COMPILE_STAY"] == "true"


def test_no_agent_listens_no_sidecar() -> None:
    spec = injected(compiling(), compile_port=0)
    assert [each["name"] for each in spec["initContainers"]] == ["modelcache-compile-seed"]
    assert "modelcache-compile-token" not in [each["name"] for each in spec["volumes"]]


@pytest.mark.parametrize(
    ("namespace", "account", "publishes"),
    [
        ("team", "compiler", "true"),
        ("", "compiler", "true"),  # of a manifest it is not known
        ("other", "compiler", "false"),
        ("team", "default", "false"),
        ("team", None, "false"),
    ],
)
def test_only_publishers_publish(namespace: str, account: str | None, publishes: str) -> None:
    given = compiling(serviceAccountName=account)
    spec = injected(given, namespace=namespace)
    assert variables(container(spec, "capture"))["MODELCACHE_COMPILE_PUBLISH"] == publishes


# Who it runs as


@pytest.mark.parametrize(
    ("pods", "own", "annotation", "user"),
    [
        ({}, {"runAsUser": 7, "runAsGroup": 8}, None, (7, 8)),
        ({"runAsUser": 5, "runAsGroup": 6}, {"runAsUser": 7}, None, (7, 6)),
        ({"runAsUser": 5}, {}, "9", (5, None)),
        ({}, {}, "9", (9, None)),
        ({"runAsGroup": 3}, {}, "9", (9, 3)),
        ({"runAsGroup": 3}, {}, "9:4", (9, 4)),
        ({}, {}, "0", (0, None)),
        ({"runAsUser": 0}, {}, None, (0, None)),
    ],
)
def test_the_engines_user(
    pods: Object, own: Object, annotation: str | None, user: tuple[int, int | None]
) -> None:
    more = {"User": annotation} if annotation else {}
    spec = injected(compiling(securityContext=pods, engine={"securityContext": own}, **more))
    for name in ("seed", "capture"):
        security = container(spec, name)["securityContext"]
        assert (security["runAsUser"], security.get("runAsGroup")) == user
        assert security["runAsNonRoot"] is (user[0] != 0)


@pytest.mark.parametrize("annotation", [None, "root", "-1", "1:2:3", "99999999999", "2147483648"])
def test_no_user_no_cache(annotation: str | None) -> None:
    more = {"User": annotation} if annotation else {}
    given = compiling(securityContext={}, **more)
    found = inject(given, KNOWN, HERE, CACHES)
    assert found.pod == given
    assert "modelcache.dev/compile-user" in found.warnings[-1]
    assert len(found.warnings) == (2 if annotation else 1)


def test_root_is_not_forced_on_who_refuses_it() -> None:
    security = {"runAsNonRoot": True}
    assert "root" in warned(compiling(securityContext=security, User="0"))
    strict = compiling(securityContext={}, User="0", volumes=[CLAIM])
    assert "root" in warned(strict, level=Level.RESTRICTED)


def test_a_label_of_selinux_is_shared() -> None:
    label = {"level": "s0:c1,c2"}
    spec = injected(compiling(engine={"securityContext": {"seLinuxOptions": label}}))
    assert container(spec, "seed")["securityContext"]["seLinuxOptions"] == label


# What the user has chosen

CLAIM = {"name": "modelcache-compile-bundles", "persistentVolumeClaim": {"claimName": "c"}}


@pytest.mark.parametrize("level", [Level.BASELINE, Level.RESTRICTED])
def test_a_strict_namespace_is_captured_from_only(level: Level) -> None:
    found = inject(compiling(), KNOWN, replace(HERE, level=level), CACHES)
    (warning,) = found.warnings
    assert str(level) in warning
    spec = found.pod["spec"]
    assert [each["name"] for each in spec["initContainers"]] == ["modelcache-compile-capture"]
    assert not [volume for volume in spec["volumes"] if "hostPath" in volume]
    assert "affinity" not in spec
    assert "refuses hostPath" in warned(compiling(), level=level, compile_port=0)


@pytest.mark.parametrize("level", list(Level))
def test_a_claim_in_the_place_of_the_nodes_bundles(level: Level) -> None:
    spec = injected(compiling(volumes=[CLAIM]), level=level)
    assert spec["volumes"][0] == CLAIM
    assert not [volume for volume in spec["volumes"] if "hostPath" in volume]
    assert container(spec, "seed")["volumeMounts"][1]["name"] == CLAIM["name"]


@pytest.mark.parametrize(
    "volume",
    [
        {"name": "modelcache-compile", "emptyDir": {"medium": "Memory"}},
        {"name": "modelcache-compile", "ephemeral": {"x": 1}},
        {"name": "modelcache-compile-work", "emptyDir": {"sizeLimit": "1Gi"}},
    ],
)
def test_own_directories_are_kept(volume: Object) -> None:
    assert injected(compiling(volumes=[volume]))["volumes"][0] == volume


def test_a_limit_of_the_cache() -> None:
    given = compiling(Size="20Gi")
    spec = injected(given)
    assert spec["volumes"][0] == {"name": "modelcache-compile", "emptyDir": {"sizeLimit": "20Gi"}}
    assert variables(container(spec, "seed"))["MODELCACHE_COMPILE_SIZE"] == "20Gi"
    # Another one later is the one that counts.
    spec = injected({**compiling(Size="30Gi"), "spec": spec})
    assert spec["volumes"][0]["emptyDir"] == {"sizeLimit": "30Gi"}


@pytest.mark.parametrize("size", ["much", "0", "1e3", "-1Gi", "1Gi\n2", "20 Gi"])
def test_what_is_no_size_is_left_out(size: str) -> None:
    found = inject(compiling(Size=size), KNOWN, HERE, CACHES)
    assert found.pod["spec"]["volumes"][0]["emptyDir"] == {}
    (warning,) = found.warnings
    assert "compile-size" in warning


def test_how_long_nothing_may_change() -> None:
    spec = injected(compiling(Quiet="10m"))
    assert variables(container(spec, "capture"))["MODELCACHE_COMPILE_QUIET"] == "10m"
    assert "MODELCACHE_COMPILE_QUIET" not in variables(container(injected(compiling()), "capture"))


@pytest.mark.parametrize("time", ["soon", "0s", "90", "-1s", "1s\n2", "1 m"])
def test_what_is_no_time_is_left_out(time: str) -> None:
    found = inject(compiling(Quiet=time), KNOWN, HERE, CACHES)
    sidecar = container(found.pod["spec"], "capture")
    assert "MODELCACHE_COMPILE_QUIET" not in variables(sidecar)
    (warning,) = found.warnings
    assert "compile-quiet" in warning


def test_own_variables_win() -> None:
    env = [
        {"name": "VLLM_CACHE_ROOT", "value": "/own"},
        {"name": "TRITON_CACHE_DIR", "value": "/cache/triton"},
    ]
    found = inject(compiling(engine={"env": env}), KNOWN, HERE, CACHES)
    (warning,) = found.warnings
    assert "VLLM_CACHE_ROOT" in warning
    assert found.pod["spec"]["containers"][0]["env"][:2] == env
    again = inject(found.pod, KNOWN, HERE, CACHES)
    assert again == found


def test_a_secret_variable_is_neither_read_nor_told() -> None:
    secret = {"name": "VLLM_CACHE_ROOT", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
    found = inject(compiling(engine={"env": [secret]}), KNOWN, HERE, CACHES)
    assert found.pod["spec"]["containers"][0]["env"][0] == secret
    assert "VLLM_CACHE_ROOT" in found.warnings[0]


@pytest.mark.parametrize("path", ["/cache", "/", "/cache/vllm", "/cache/"])
def test_a_mount_in_the_way(path: str) -> None:
    mounts = [{"name": "own", "mountPath": path}]
    assert "mount of its own" in warned(compiling(engine={"volumeMounts": mounts}))


@pytest.mark.parametrize("name", ["modelcache-compile-seed", "modelcache-compile-capture"])
def test_a_container_of_the_same_name(name: str) -> None:
    own = {"name": name, "image": "x", "args": ["other"]}
    assert name in warned(compiling(initContainers=[own]))


# Which container


def test_the_engine_is_the_first_or_the_one_that_is_named() -> None:
    other = {**compiling()["spec"]["containers"][0], "name": "other"}
    given = compiling()
    given["spec"]["containers"].append(other)
    first, second = injected(given)["containers"]
    assert "volumeMounts" in first
    assert second == other
    given["metadata"]["annotations"]["modelcache.dev/compile-container"] = "other"
    first, second = injected(given)["containers"]
    assert "volumeMounts" not in first
    assert "volumeMounts" in second
    assert "no container 'none'" in warned(compiling(Container="none"))


def test_a_container_that_another_webhook_puts_first_is_not_the_engine() -> None:
    once = inject(compiling(), KNOWN, HERE, CACHES).pod
    once["spec"]["containers"].insert(0, {"name": "proxy", "image": "proxy"})
    assert inject(once, KNOWN, HERE, CACHES).pod == once


# Which engine


def test_an_image_of_another_digest_gets_nothing() -> None:
    other = f"registry.example/vllm@sha256:{'b' * 64}"
    warning = warned(compiling(engine={"image": other}))
    assert "b" * 64 in warning
    assert DIGEST in warning


def test_an_image_without_a_digest_is_told() -> None:
    found = inject(compiling(engine={"image": "vllm/vllm-openai:v1"}), KNOWN, HERE, CACHES)
    (warning,) = found.warnings
    assert "v1" in warning
    assert container(found.pod["spec"], "seed")


def started(args: list[str], env: Object | None = None, /, **engine: Any) -> tuple[str, str]:
    """Whether a container that is started so publishes, and the warning."""
    variables_given = [{"name": name, "value": value} for name, value in (env or {}).items()]
    caches = {"llama": cache_spec(**engine)}
    given = compiling(engine={"args": args, "env": variables_given})
    found = inject(given, KNOWN, HERE, caches)
    publishes = variables(container(found.pod["spec"], "capture"))["MODELCACHE_COMPILE_PUBLISH"]
    assert inject(found.pod, KNOWN, HERE, caches) == found
    return publishes, "".join(found.warnings)


SAME = ["--model", "org/model", "--max-model-len", "8192"]


@pytest.mark.parametrize(
    ("args", "env"),
    [
        (["--max-model-len=8192", "--model=org/model"], {}),
        ([*SAME, "--port", "9000", "--api-key", "s3cr3t"], {}),
        ([*SAME, "--tensor-parallel-size", "2"], {}),
        (SAME, {"VLLM_API_KEY": "s3cr3t", "PATH": "/bin", "VLLM_HOST_IP": "10.0.0.1"}),
    ],
)
def test_what_doesnt_matter_is_not_compared(args: list[str], env: Object) -> None:
    assert started(args, env) == ("true", "")


@pytest.mark.parametrize(
    ("args", "env", "said"),
    [
        (["--model", "other", "--max-model-len", "8192"], {}, "the model"),
        (["--model", "org/model", "--max-model-len", "4096"], {}, "--max-model-len"),
        ([*SAME, "--enforce-eager"], {}, "--enforce-eager"),
        ([*SAME, "--hf-overrides", '{"s3cr3t": 1}'], {}, "--hf-overrides"),
        ([*SAME, "-tp", "4"], {}, "tensor parallel size"),
        (["-c", "a && vllm serve s3cr3t"], {}, "--max-model-len"),
        (SAME, {"VLLM_USE_V1": "s3cr3t"}, "VLLM_USE_V1"),
        (SAME, {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE"),
    ],
)
def test_what_is_started_otherwise_is_not_published(
    args: list[str], env: Object, said: str
) -> None:
    publishes, warning = started(args, env)
    assert publishes == "false"
    assert said in warning
    assert "s3cr3t" not in warning


def test_sizes_among_the_objects_arguments_are_to_be_there() -> None:
    args = [*SAME, "--tensor-parallel-size=2"]
    assert started(args, args=args) == ("true", "")
    publishes, warning = started(SAME, args=args)
    assert (publishes, "tensor" in warning) == ("false", True)


def test_variables_of_the_object_are_to_be_there() -> None:
    env = {"VLLM_ATTENTION_BACKEND": "FLASH_ATTN"}
    wanted = [{"name": name, "value": value} for name, value in env.items()]
    assert started(SAME, env, env=wanted) == ("true", "")
    assert "VLLM_ATTENTION_BACKEND" in started(SAME, env=wanted)[1]


def test_a_variable_out_of_a_secret_is_not_compared() -> None:
    hidden = {"name": "VLLM_X", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
    given = compiling(engine={"env": [hidden]})
    injected(given)
    # Not even where the object says what it is to be.
    caches = {"llama": cache_spec(env=[{"name": "VLLM_X", "value": "1"}])}
    assert inject(given, KNOWN, HERE, caches).warnings == ()


@pytest.mark.parametrize(
    ("engine", "url"),
    [
        ({}, "http://:8000/health"),
        ({"args": ["--port", "9000"]}, "http://:9000/health"),
        ({"args": ["--port=9000"]}, "http://:9000/health"),
        ({"args": ["--port=1", "--port=2"]}, "http://:2/health"),
        ({"args": ["--port", "$(PORT)"]}, ""),
        ({"args": ["--port"]}, "http://:8000/health"),
        ({"args": ["--ssl-certfile", "x"]}, "https://:8000/health"),
        ({"readinessProbe": {"httpGet": {"path": "/ready", "port": 80}}}, "http://:80/ready"),
        ({"readinessProbe": {"httpGet": {"port": 80, "scheme": "HTTPS"}}}, "https://:80/"),
        ({"startupProbe": {"httpGet": {"path": "up", "port": "81"}}}, "http://:81/up"),
        (
            {
                "ports": [{"name": "http", "containerPort": 82}],
                "livenessProbe": {"httpGet": {"path": "/l", "port": "http"}},
            },
            "http://:82/l",
        ),
        ({"readinessProbe": {"httpGet": {"port": "nowhere"}}}, "http://:8000/health"),
        ({"readinessProbe": {"httpGet": {"port": 1, "host": "e.example"}}}, "http://:8000/health"),
        ({"readinessProbe": {"exec": {"command": ["x"]}}}, "http://:8000/health"),
    ],
)
def test_by_which_the_engine_says_that_it_serves(engine: Object, url: str) -> None:
    found = inject(compiling(engine=engine), KNOWN, HERE, CACHES).pod["spec"]
    assert variables(container(found, "capture"))["MODELCACHE_COMPILE_HEALTH"] == url


def test_any_other_engine_says_it_by_its_probe_alone() -> None:
    spec = injected(compiling("any", engine={"args": []}))
    assert variables(container(spec, "capture"))["MODELCACHE_COMPILE_HEALTH"] == ""
    assert "env" not in spec["containers"][0]


# Resources

LIMITS = {"cpu": "8", "memory": "64Gi", "nvidia.com/gpu": "1"}


def test_a_guaranteed_pod_stays_so() -> None:
    spec = injected(compiling(engine={"resources": {"limits": LIMITS}}))
    for name, cpu in (("seed", "8"), ("capture", "250m")):
        resources = container(spec, name)["resources"]
        assert resources["limits"] == resources["requests"] == {"cpu": cpu, "memory": "256Mi"}


@pytest.mark.parametrize(
    "resources",
    [
        {"limits": LIMITS, "requests": {"cpu": "1"}},
        {"limits": {"cpu": "8"}},
        {"requests": LIMITS},
    ],
)
def test_of_any_other_little_is_asked(resources: Object) -> None:
    spec = injected(compiling(engine={"resources": resources}))
    assert container(spec, "seed")["resources"] == RESOURCES


def test_a_limit_of_storage_is_raised_by_what_a_capture_takes() -> None:
    limits = {"limits": {"ephemeral-storage": "10Gi"}}
    spec = injected(compiling(engine={"resources": limits}))
    found = container(spec, "capture")["resources"]
    assert found["limits"]["ephemeral-storage"] == "64Gi"
    assert found["requests"]["ephemeral-storage"] == "64Mi"


def test_resources_of_the_pod_as_a_whole_are_not_exceeded() -> None:
    spec = injected(compiling(resources={"limits": {"cpu": "1"}}))
    assert container(spec, "capture")["resources"] == {}


# What can't be had


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("nowhere", "no CompileCache nowhere"),
        ("unreadable", "can't be read"),
        ("A,b", "names one CompileCache"),
        ("", "names one CompileCache"),
        ("x" * 55, "names one CompileCache"),
    ],
)
def test_no_such_cache(name: str, word: str) -> None:
    assert word in warned(compiling(name))


def test_nothing_is_known_of_caches() -> None:
    given = compiling()
    found = inject(given, KNOWN, HERE, None)
    assert found.pod == given
    assert "isn't known" in found.warnings[0]


def test_without_an_image_or_on_windows() -> None:
    assert "image" in warned(compiling(), image="")
    assert "Windows" in warned(compiling(os={"name": "windows"}))
