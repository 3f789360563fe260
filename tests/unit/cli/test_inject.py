"""modelcache inject: manifests in, manifests out."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.cli.conftest import Command

TEMPLATE = {
    "metadata": {"annotations": {"modelcache.dev/model": "a"}},
    "spec": {"containers": [{"name": "engine", "image": "x"}]},
}
CATALOG = """
apiVersion: modelcache.dev/v1alpha1
kind: CachedModel
metadata: {name: a}
spec: {source: {uri: s3://bucket/a}}
"""


def workload(kind: str, group: str = "apps/v1") -> dict[str, Any]:
    spec: dict[str, Any] = {"template": TEMPLATE}
    if kind == "CronJob":
        spec = {"schedule": "@daily", "jobTemplate": {"spec": spec}}
    return {"apiVersion": group, "kind": kind, "metadata": {"name": "w"}, "spec": spec}


POD = {"apiVersion": "v1", "kind": "Pod", **TEMPLATE}
WORKLOADS = [
    POD,
    *(workload(kind) for kind in ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet")),
    workload("Job", "batch/v1"),
    workload("CronJob", "batch/v1"),
    workload("CronJob", "batch/v1beta1"),
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "manifest.yaml"


def template(document: Any) -> Any:
    if document["kind"] == "Pod":
        return document
    spec = document["spec"]
    return (spec["jobTemplate"]["spec"] if "jobTemplate" in spec else spec)["template"]


@pytest.mark.parametrize("document", WORKLOADS, ids=lambda d: f"{d['apiVersion']}-{d['kind']}")
def test_every_kind_with_pods_is_injected(
    command: Command, file: Path, document: dict[str, Any]
) -> None:
    file.write_text(yaml.safe_dump(document))
    ended = command("inject", "-f", file, "--image", "image:1")
    assert (ended.code, ended.err) == (0, "")
    found = yaml.safe_load(ended.out)
    spec = template(found)["spec"]
    assert "affinity" in spec
    assert spec["initContainers"][0]["image"] == "image:1"
    # A second time changes nothing.
    file.write_text(ended.out)
    assert command("inject", "-f", file, "--image", "image:1").out == ended.out


def test_several_documents_and_lists_keep_their_order(command: Command, file: Path) -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}}
    items = {"apiVersion": "v1", "kind": "List", "items": [service, POD]}
    file.write_text(yaml.safe_dump_all([service, items, None, workload("Deployment")]))
    first, second, third = yaml.safe_load_all(command("inject", "-f", file).out)
    assert first == service
    assert second["items"][0] == service
    assert "affinity" in second["items"][1]["spec"]
    assert "affinity" in template(third)["spec"]


def test_json_is_one_list(command: Command, file: Path) -> None:
    file.write_text(json.dumps(POD))
    found = json.loads(command("inject", "-f", file, "-o", "json").out)
    assert (found["apiVersion"], found["kind"], len(found["items"])) == ("v1", "List", 1)
    assert "affinity" in found["items"][0]["spec"]


def test_stdin(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(yaml.safe_dump(POD).encode()))
    monkeypatch.setattr("sys.stdin", stdin)
    assert "affinity" in yaml.safe_load(command("inject", "-f", "-").out)["spec"]


def test_a_root_of_its_own(command: Command, file: Path) -> None:
    file.write_text(yaml.safe_dump(POD))
    out = command("inject", "-f", file, "--image", "x", "--root", "/mnt/nvme/cache").out
    assert "/mnt/nvme/cache/models" in out
    assert "/var/lib/modelcache" not in out


def test_a_catalog_says_what_models_there_are(command: Command, file: Path) -> None:
    catalog = file.with_name("models.yaml")
    catalog.write_text(CATALOG)
    pod = {**POD, "metadata": {"annotations": {"modelcache.dev/model": "a,b"}}}
    file.write_text(yaml.safe_dump(pod))
    ended = command("inject", "-f", file, "--image", "x", "--models", catalog)
    (line,) = ended.err.splitlines()
    assert line.startswith("modelcache: warning: Pod: ")
    assert "CachedModel b" in line
    file.write_text(yaml.safe_dump(POD))
    ended = command("inject", "-f", file, "--image", "x", "--models", catalog)
    assert ended.err == ""
    assert "HF_HUB_CACHE" not in ended.out


def test_a_strict_namespace(command: Command, file: Path) -> None:
    file.write_text(yaml.safe_dump(POD))
    ended = command("inject", "-f", file, "--image", "x", "--pod-security", "restricted")
    assert "restricted" in ended.err
    assert "hostPath" not in ended.out
    assert "affinity" in ended.out


def test_an_annotation_in_the_wrong_place_is_told(command: Command, file: Path) -> None:
    document = workload("Deployment")
    document["metadata"]["annotations"] = TEMPLATE["metadata"]["annotations"]  # type: ignore[index]
    document["spec"]["template"] = {**TEMPLATE, "metadata": {}}
    file.write_text(yaml.safe_dump(document))
    ended = command("inject", "-f", file)
    assert yaml.safe_load(ended.out) == document
    assert "Deployment w: the annotation is to be in spec.template.metadata" in ended.err


def test_a_kind_that_isnt_known_is_left_as_it_is(command: Command, file: Path) -> None:
    document = {**workload("Rollout", "argoproj.io/v1alpha1")}
    file.write_text(yaml.safe_dump(document))
    ended = command("inject", "-f", file)
    assert yaml.safe_load(ended.out) == document
    assert "Rollout w is left as it is" in ended.err


def test_who_asks_for_nothing_gets_nothing(command: Command, file: Path) -> None:
    document = {"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": "c"}]}}
    file.write_text(yaml.safe_dump(document))
    ended = command("inject", "-f", file)
    assert ended.err == ""
    assert yaml.safe_load(ended.out) == document


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("y", True),
        ("'y'", "y"),
        ("off", False),
        ("1e3", 1000.0),
        ("'1e3'", "1e3"),
        ("22:30", "22:30"),
        ("0o644", 420),
        ("'0o644'", "0o644"),
        ("2024-01-01", "2024-01-01"),
        ("~", None),
        ("''", ""),
        ("'1_000'", "1_000"),
        ("=", "="),
        ("'a\n\n  b'", "a\nb"),
        ('"a\\nb"', "a\nb"),
        ("é", "é"),
    ],
)
def test_values_are_read_and_written_as_kubectl_does(
    command: Command, file: Path, written: str, meant: Any
) -> None:
    file.write_text(f"kind: X\nvalue: {written}\n")
    ended = command("inject", "-f", file, "-o", "json")
    assert json.loads(ended.out)["items"][0]["value"] == meant
    file.write_text(command("inject", "-f", file).out)
    assert json.loads(command("inject", "-f", file, "-o", "json").out) == json.loads(ended.out)


@pytest.mark.parametrize(
    "text",
    [
        "a: [",
        "a: .nan",
        "a: &x [*x]",
        "a: !!python/object:os.system x",
        "\x00",
        "? [a]\n: b",
        "apiVersion: v1\nkind: Pod\nmetadata: []",
    ],
)
def test_what_is_no_manifest_is_told(command: Command, file: Path, text: str) -> None:
    file.write_text(text)
    ended = command("inject", "-f", file)
    assert ended.code == 2
    assert ended.mistake


@pytest.mark.parametrize(
    "arguments",
    [
        ["-f", "/nonexistent"],
        ["-f", "/"],
        [],
        ["-f", "/dev/null", "--pod-security", "strict"],
        ["-f", "/dev/null", "--root", "relative"],
        ["-f", "/dev/null", "--models", "/nonexistent"],
    ],
)
def test_a_wrong_command_line_is_told(command: Command, arguments: list[str]) -> None:
    ended = command("inject", *arguments)
    assert ended.code == 2
    assert ended.mistake


CACHE_DIGEST = f"sha256:{'a' * 64}"
CACHES = f"""
apiVersion: modelcache.dev/v1alpha1
kind: CompileCache
metadata: {{name: llama}}
spec:
  model: a
  engine: {{name: vllm, image: "registry.example/vllm@{CACHE_DIGEST}", cacheDir: /cache}}
  bundles: {{uri: "oci://registry.example/caches"}}
  publishers: [{{namespace: team, serviceAccount: default}}]
"""


def compiling(namespace: str) -> dict[str, Any]:
    annotations = {"modelcache.dev/compile-cache": "llama", "modelcache.dev/compile-user": "1"}
    engine = {"name": "engine", "image": f"mirror.example/vllm@{CACHE_DIGEST}"}
    return {
        **workload("Deployment"),
        "metadata": {"name": "w", "namespace": namespace},
        "spec": {
            "template": {
                "metadata": {"annotations": annotations},
                "spec": {"containers": [engine]},
            }
        },
    }


def test_a_compile_cache(command: Command, file: Path) -> None:
    catalog = file.with_name("caches.yaml")
    catalog.write_text(CACHES)
    file.write_text(yaml.safe_dump_all([compiling("team"), compiling("other")]))
    ended = command("inject", "-f", file, "--image", "x", "--models", catalog)
    assert (ended.code, ended.err) == (0, "")
    publish = []
    for document in yaml.safe_load_all(ended.out):
        seed, capture = template(document)["spec"]["initContainers"]
        assert seed["args"] == ["compile", "seed"]
        env = {each["name"]: each.get("value") for each in capture["env"]}
        publish.append(env["MODELCACHE_COMPILE_PUBLISH"])
    assert publish == ["true", "false"]
    file.write_text(ended.out)
    again = command("inject", "-f", file, "--image", "x", "--models", catalog)
    assert again.out == ended.out


def test_without_a_catalog_there_is_no_compile_cache(command: Command, file: Path) -> None:
    file.write_text(yaml.safe_dump(compiling("team")))
    ended = command("inject", "-f", file, "--image", "x")
    assert "which CompileCaches there are isn't known" in ended.err
    assert yaml.safe_load(ended.out) == compiling("team")


def test_an_ordinary_sidecar_at_another_port(command: Command, file: Path) -> None:
    catalog = file.with_name("caches.yaml")
    catalog.write_text(CACHES)
    file.write_text(yaml.safe_dump(compiling("team")))
    flags = ["--models", catalog, "--sidecars", "ordinary", "--compile-port", "9999"]
    ended = command("inject", "-f", file, "--image", "x", *flags)
    _, capture = template(yaml.safe_load(ended.out))["spec"]["containers"]
    assert {"name": "MODELCACHE_COMPILE_PORT", "value": "9999"} in capture["env"]
