"""Pods for the tests of injection, and how a patch is applied."""

from __future__ import annotations

import copy
from typing import Any

from modelcache.api.compilecache import CompileCacheSpec
from modelcache.cluster.injection import Config
from modelcache.cluster.jsonpatches import parts

CONFIG = Config(root="/data", image="image:1")
KNOWN = {"a": "hf", "b": "hf", "bucket": "s3", "odd": ""}

Object = dict[str, Any]

DIGEST = f"sha256:{'a' * 64}"


def cache_spec(**engine: Any) -> CompileCacheSpec:
    """What a CompileCache wants, with other words about its engine."""
    return CompileCacheSpec.from_document(
        {
            "model": "a",
            "engine": {
                "name": "vllm",
                "image": f"registry.example/vllm@{DIGEST}",
                "args": ["--model", "org/model", "--max-model-len", "8192"],
                "cacheDir": "/cache",
            }
            | engine,
            "parallel": {"tensor": 2},
            "bundles": {"uri": "oci://registry.example/caches"},
            "publishers": [{"namespace": "team", "serviceAccount": "compiler"}],
        }
    )


CACHES = {"llama": cache_spec(), "any": cache_spec(name="other", args=[]), "unreadable": None}


def compiling(name: str | None = "llama", /, **fields: Any) -> Object:
    """A pod that asks for a compile cache, for nothing else, and says who it runs as.

    Fields whose names begin with a capital letter are annotations: User is
    modelcache.dev/compile-user.
    """
    annotations = {"modelcache.dev/compile-cache": name} if name is not None else {}
    for field in [each for each in fields if each[0].isupper()]:
        annotations[f"modelcache.dev/compile-{field.lower()}"] = fields.pop(field)
    found = pod(None)
    found["metadata"]["annotations"] = annotations
    engine = {
        "name": "engine",
        "image": f"mirror.example/vllm@{DIGEST}",
        "args": ["--model", "org/model", "--max-model-len", "8192"],
    }
    found["spec"] = {
        "serviceAccountName": "compiler",
        "securityContext": {"runAsUser": 1000},
        "containers": [engine | fields.pop("engine", {})],
    } | fields
    return found


def pod(models: str | None = "a", wish: str | None = None, /, **spec: Any) -> Object:
    annotations = {"modelcache.dev/model": models, "modelcache.dev/affinity": wish}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "engine",
            "annotations": {
                name: value for name, value in annotations.items() if value is not None
            },
        },
        "spec": {"containers": [{"name": "engine", "image": "engine:1"}]} | spec,
    }


def applied(document: Any, patch: list[Object]) -> Any:
    """A document after a JSON patch, as RFC 6902 has it."""
    document = copy.deepcopy(document)
    for step in patch:
        *parents, last = parts(step["path"])
        place = document
        for part in parents:
            place = place[int(part)] if isinstance(place, list) else place[part]
        if isinstance(place, list):
            number = int(last)
            if step["op"] == "add":
                assert 0 <= number <= len(place)
                place.insert(number, copy.deepcopy(step["value"]))
            elif step["op"] == "remove":
                place.pop(number)
            else:
                place[number] = copy.deepcopy(step["value"])
        elif step["op"] == "remove":
            del place[last]
        else:
            assert step["op"] == "add" or last in place
            place[last] = copy.deepcopy(step["value"])
    return document


def hosts(pod: Object) -> dict[str, str]:
    """Host paths of a pod by the place where the first container has them."""
    volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", ())}
    return {
        mount["mountPath"]: volumes[mount["name"]]["hostPath"]["path"]
        for mount in pod["spec"]["containers"][0].get("volumeMounts", ())
        if "hostPath" in volumes.get(mount["name"], {})
    }


def variables(container: Object) -> dict[str, Any]:
    return {each["name"]: each.get("value") for each in container.get("env", ())}
