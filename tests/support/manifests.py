"""The manifests: as they stand in daemonset/, and as kubectl renders them."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client

from tests.support.cluster.binaries import built_folder

Object = dict[str, Any]

FOLDER = Path(__file__).parents[2] / "daemonset"
COMPONENTS = sorted(path.name for path in (FOLDER / "components").iterdir())
OVERLAYS = sorted(path.name for path in (FOLDER / "overlays").iterdir())


def load(path: Path) -> list[Object]:
    """The documents of a file."""
    return copy.deepcopy(_parsed(path))


@cache
def _parsed(path: Path) -> list[Object]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def kustomizations() -> dict[Path, Object]:
    """Every kustomization by its folder."""
    found = {}
    for path in sorted(FOLDER.rglob("kustomization.yaml")):
        (found[path.parent],) = load(path)
    return found


def objects(*folders: Path) -> list[Object]:
    """The objects of our manifests, as written: of all but the CRDs, or of some folders."""
    found = []
    for folder, kustomization in kustomizations().items():
        if folder.name == "crds" or (folders and folder not in folders):
            continue
        for name in kustomization.get("resources", ()):
            if (folder / name).is_file():
                found += load(folder / name)
    return found


def settings_of(kustomization: Object) -> dict[str, str]:
    """What a kustomization says in the ConfigMap of settings."""
    literals = [
        literal
        for each in kustomization.get("configMapGenerator", ())
        if each["name"] == "modelcache-settings"
        for literal in each["literals"]
    ]
    return {name: value for name, _, value in (literal.partition("=") for literal in literals)}


def patches(kustomization: Object) -> Iterator[tuple[Object, Object]]:
    """Target and step of each JSON patch of a kustomization."""
    for patch in kustomization.get("patches", ()):
        for step in yaml.safe_load(patch["patch"]):
            yield patch["target"], step


def pods(documents: Iterable[Object]) -> dict[str, Object]:
    """The pod specs of workloads, by the workload's name."""
    return {
        document["metadata"]["name"]: document["spec"]["template"]["spec"]
        for document in documents
        if document["kind"] in ("DaemonSet", "Deployment", "Job")
    }


def containers(documents: Iterable[Object]) -> dict[str, Object]:
    """Every container, init containers too, by its name."""
    return {
        container["name"]: container
        for pod in pods(documents).values()
        for container in (*pod.get("initContainers", ()), *pod["containers"])
    }


def one(documents: Iterable[Object], kind: str, name: str, namespace: str = "") -> Object:
    """The object of a kind and a name; a generated name may go on with a hash."""
    (found,) = (
        document
        for document in documents
        if document["kind"] == kind
        and document["metadata"]["name"].removeprefix(name)[:1] in ("", "-")
        and document["metadata"]["name"].startswith(name)
        and (not namespace or document["metadata"].get("namespace") == namespace)
    )
    return found


def find_kubectl() -> str | None:
    """A current kubectl; None where there is none."""
    folders = (os.environ.get("KUBEBUILDER_ASSETS"), str(built_folder()))
    return shutil.which("kubectl", path=":".join(filter(None, folders))) or shutil.which("kubectl")


def render(folder: Path) -> list[Object]:
    """What `kubectl kustomize` makes of a folder."""
    kubectl = find_kubectl()
    assert kubectl is not None
    done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no warning, as of a deprecated field
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def check_with_current_schema(document: Object) -> None:
    """Have the classes of the `kubernetes` package, which are made from a current API server's
    schema, take an object: no field is unknown, none has the wrong type, none is missing.

    Raises:
        pydantic.ValidationError
    """
    group, _, version = document["apiVersion"].rpartition("/")
    assert (version, group.count(".modelcache.dev")) == ("v1", 0), "no kind of Kubernetes' own"
    model = getattr(client, f"V1{document['kind']}")
    found = model.model_validate(document)
    assert found.model_dump(mode="json", by_alias=True, exclude_none=True) == document
