"""CustomResourceDefinitions from the classes: `python -m modelcache.api.crds DIRECTORY`.

The schemas are structural and say nothing that Kubernetes 1.20 does not know: no CEL rules.
https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from modelcache.api.cachedmodel import CachedModel
from modelcache.api.compilecache import CompileCache
from modelcache.api.meta import API_GROUP, API_VERSION, ApiModel
from modelcache.api.nodecache import NodeCache
from modelcache.api.schemas import described_schema

HEADER: Final = "# Generated from the classes in agent/modelcache/api by `make crds`: don't edit.\n"
"""The first line of each file."""

_TYPE_META: Final = {
    "apiVersion": "APIVersion defines the versioned schema of this representation of an object. "
    "Servers should convert recognized schemas to the latest internal value, and may reject "
    "unrecognized values. More info: "
    "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources",
    "kind": "Kind is a string value representing the REST resource this object represents. "
    "Servers may infer this from the endpoint the client submits requests to. Cannot be updated. "
    "In CamelCase. More info: "
    "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md"
    "#types-kinds",
}
_DROPPED: Final = ("title", "additionalProperties", "anyOf", "$ref", "const", "default")


@dataclass(frozen=True, slots=True)
class _Presentation:
    """How kubectl names and prints a kind. Columns: name, type, path; those after the break are
    for `-o wide`."""

    plural: str
    short_name: str
    columns: tuple[tuple[str, str, str], ...]
    wide_columns: tuple[tuple[str, str, str], ...]


_KINDS: Final[dict[type[ApiModel], _Presentation]] = {
    CachedModel: _Presentation(
        plural="cachedmodels",
        short_name="cmodel",  # `cm` is the ConfigMaps'
        columns=(
            ("Ready", "string", ".status.readyNodes"),
            ("Status", "string", '.status.conditions[?(@.type=="Ready")].reason'),
            ("Downloading", "integer", ".status.nodes.downloading"),
            ("Failed", "integer", ".status.nodes.failed"),
            ("Size", "string", ".status.size"),
        ),
        wide_columns=(
            ("Source", "string", ".spec.source.uri"),
            ("Revision", "string", ".status.revision"),
            ("Priority", "integer", ".spec.priority"),
            ("Pinned", "boolean", ".spec.pinned"),
            ("Message", "string", '.status.conditions[?(@.type=="Ready")].message'),
        ),
    ),
    CompileCache: _Presentation(
        plural="compilecaches",
        short_name="ccache",
        columns=(
            ("Model", "string", ".spec.model"),
            ("Engine", "string", ".spec.engine.name"),
            ("Ready", "string", ".status.readyNodes"),
            ("Missing", "integer", ".status.nodes.missing"),
            ("Failed", "integer", ".status.nodes.failed"),
            ("Status", "string", '.status.conditions[?(@.type=="Ready")].reason'),
        ),
        wide_columns=(
            ("Image", "string", ".spec.engine.image"),
            ("Bundles", "string", ".spec.bundles.uri"),
        ),
    ),
    NodeCache: _Presentation(
        plural="nodecaches",
        short_name="ncache",
        columns=(
            ("Ready", "string", '.status.conditions[?(@.type=="ModelCacheReady")].status'),
            ("Models", "string", ".status.readyModels"),
            ("Used", "string", ".status.disk.usedText"),
            ("Available", "string", ".status.disk.availableText"),
        ),
        wide_columns=(
            ("Capacity", "string", ".status.disk.capacityText"),
            ("Root", "string", ".status.root"),
            ("Version", "string", ".status.agentVersion"),
            ("Message", "string", '.status.conditions[?(@.type=="ModelCacheReady")].message'),
        ),
    ),
}


def crd(kind: type[ApiModel]) -> dict[str, Any]:
    """The CustomResourceDefinition of a class.

    Raises:
        KeyError: for a class that is no kind.
    """
    shown = _KINDS[kind]
    name = kind.__name__
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{shown.plural}.{API_GROUP}",
            "labels": {"app.kubernetes.io/name": "modelcache"},
        },
        "spec": {
            "group": API_GROUP,
            "names": {
                "kind": name,
                "listKind": f"{name}List",
                "plural": shown.plural,
                "singular": name.lower(),
                "shortNames": [shown.short_name],
                "categories": ["modelcache"],
            },
            "scope": "Cluster",
            "versions": [
                {
                    "name": API_VERSION.rpartition("/")[2],
                    "served": True,
                    "storage": True,
                    "additionalPrinterColumns": _columns(shown),
                    "schema": {"openAPIV3Schema": _schema(kind)},
                    "subresources": {"status": {}},
                }
            ],
        },
    }


def files() -> dict[str, str]:
    """The files of the directory: the definitions, and a kustomization that lists them."""
    written = {}
    for kind in _KINDS:
        definition = crd(kind)
        written[f"{definition['metadata']['name']}.yaml"] = _yaml(definition)
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": sorted(written),
    }
    return {**written, "kustomization.yaml": _yaml(kustomization)}


def _yaml(document: dict[str, Any]) -> str:
    # Through JSON, so that no list is the same object twice, which YAML would write as an alias.
    copy = json.loads(json.dumps(document))
    return HEADER + yaml.safe_dump(copy, sort_keys=False, width=96, allow_unicode=True)


def _columns(shown: _Presentation) -> list[dict[str, Any]]:
    columns: list[dict[str, Any]] = [
        {"name": name, "type": type_, "jsonPath": path} for name, type_, path in shown.columns
    ]
    columns += [
        {"name": name, "type": type_, "jsonPath": path, "priority": 1}
        for name, type_, path in shown.wide_columns
    ]
    return [*columns, {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}]


def _schema(kind: type[ApiModel]) -> dict[str, Any]:
    root = described_schema(kind)
    definitions = root.get("$defs", {})
    properties: dict[str, Any] = {
        field: {"type": "string", "description": about} for field, about in _TYPE_META.items()
    }
    # The API server knows metadata better: a schema may restrict its name and nothing else.
    meta = _structural(root["properties"]["metadata"], definitions, defaults=False)
    properties["metadata"] = {"type": "object", "properties": {"name": meta["properties"]["name"]}}
    for part in ("spec", "status"):
        if part in root["properties"]:
            # A default in the status would be stored as if somebody had observed it.
            properties[part] = _structural(
                root["properties"][part], definitions, defaults=part == "spec"
            )
    schema: dict[str, Any] = {"type": "object", "description": _text(root["description"])}
    if "spec" in properties:
        schema["required"] = ["spec"]
    return {**schema, "properties": properties}


def _structural(
    schema: dict[str, Any], definitions: dict[str, Any], *, defaults: bool
) -> dict[str, Any]:
    """A JSON schema of pydantic's as a structural one: without references and alternatives."""
    schema = _inlined(schema, definitions)
    result = {key: value for key, value in schema.items() if key not in _DROPPED}
    if "const" in schema:
        result["enum"] = [schema["const"]]
    # An empty text says no more than an absent one, and servers of version 1.20 that were built by
    # a newer Go than their own take it for a null (go-openapi's comparison with `reflect.Zero`).
    if defaults and schema.get("default") not in (None, ""):
        result["default"] = schema["default"]
    if "description" in result:
        result["description"] = _text(result["description"])
    if result.get("type") == "integer":
        result["format"] = "int64"
    if isinstance(schema.get("additionalProperties"), dict):
        result["additionalProperties"] = _structural(
            schema["additionalProperties"], definitions, defaults=defaults
        )
    if "items" in schema:
        result["items"] = _structural(schema["items"], definitions, defaults=defaults)
    if "properties" in schema:
        result["properties"] = {
            name: _structural(value, definitions, defaults=defaults)
            for name, value in schema["properties"].items()
        }
    first = ("type", "format", "description", "default")
    return {key: result[key] for key in (*first, *result) if key in result}


def _inlined(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema with what it refers to in its place; what it says beside that goes first.

    An optional field is one that may be absent: agents and people never write null.
    """
    beside = {key: value for key, value in schema.items() if key not in ("$ref", "anyOf")}
    if "$ref" in schema:
        target = definitions[schema["$ref"].rpartition("/")[2]]
        return {**_inlined(target, definitions), **beside}
    if "anyOf" in schema:
        (choice,) = (c for c in schema["anyOf"] if c.get("type") != "null")
        return {**_inlined(choice, definitions), **beside}
    return schema


def _text(description: str) -> str:
    """A docstring as one paragraph per paragraph."""
    return "\n\n".join(re.sub(r"\s+", " ", part).strip() for part in description.split("\n\n"))


def main(arguments: list[str]) -> int:
    """Write the files. Exit codes: 0, or 2 for a wrong command line."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m modelcache.api.crds DIRECTORY\n")
        return 2
    directory = Path(arguments[0])
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files().items():
        (directory / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
