from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from modelcache.api import CachedModel, CompileCache, NodeCache
from modelcache.api.crds import crd, files, main
from modelcache.api.meta import ApiModel
from tests.unit.catalog.samples import compile_cache, model

KINDS: list[type[ApiModel]] = [CachedModel, CompileCache, NodeCache]
GENERATED = Path(__file__).parents[3] / "daemonset" / "crds"

# What a structural schema of apiextensions.k8s.io/v1 may say, in Kubernetes 1.20 and in today's.
ALLOWED = {
    *("type", "format", "description", "default", "properties", "required", "items", "enum"),
    *("additionalProperties", "pattern", "minLength", "maxLength", "minItems", "maxItems"),
    *("minProperties", "maxProperties", "minimum", "maximum"),
    *("x-kubernetes-list-type", "x-kubernetes-list-map-keys"),
}
TYPES = {"object", "array", "string", "integer", "boolean"}


def schema_of(kind: type[ApiModel]) -> dict[str, Any]:
    (version,) = crd(kind)["spec"]["versions"]
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return schema


def structural_faults(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """What the API server would say: the rules are those of
    apiextensions-apiserver/pkg/apiserver/schema/validation.go."""
    unknown = schema.keys() - ALLOWED
    if unknown:
        yield f"{path}: {sorted(unknown)} not allowed"
    if schema.get("type") not in TYPES:
        yield f"{path}: type {schema.get('type')!r}"
    if schema.get("type") == "array" and "items" not in schema:
        yield f"{path}: an array without items"
    if "properties" in schema and "additionalProperties" in schema:
        yield f"{path}: properties and additionalProperties exclude each other"
    if not isinstance(schema.get("additionalProperties", {}), dict):
        yield f"{path}: additionalProperties is no schema"
    missing = set(schema.get("required", ())) - schema.get("properties", {}).keys()
    if missing:
        yield f"{path}: {sorted(missing)} required, but no properties"
    if "default" in schema:
        for error in jsonschema.Draft4Validator(schema).iter_errors(schema["default"]):
            yield f"{path}: the default does not fit: {error.message}"
        if path.startswith((".metadata", ".status")):
            yield f"{path}: no default belongs there"
    if schema.get("x-kubernetes-list-type") == "map":
        keys = set(schema["x-kubernetes-list-map-keys"])
        if not keys <= set(schema["items"]["required"]):
            yield f"{path}: keys of the map may be absent"
    for name, part in schema.get("properties", {}).items():
        yield from structural_faults(part, f"{path}.{name}")
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), dict):
            yield from structural_faults(schema[name], f"{path}.{name}")


@pytest.mark.parametrize("kind", KINDS)
def test_the_schema_is_structural(kind: type[ApiModel]) -> None:
    assert list(structural_faults(schema_of(kind))) == []


@pytest.mark.parametrize(
    "bad",
    [
        {"description": "no type"},
        {"type": "array"},
        {"type": "string", "title": "Name"},
        {"type": "string", "$ref": "#/x"},
        {"type": "object", "additionalProperties": False},
        {"type": "object", "properties": {"a": {"type": "string", "nullable": None}}},
        {"type": "object", "properties": {}, "required": ["a"]},
        {"type": "string", "enum": ["a"], "default": "b"},
        {"type": "object", "properties": {"status": {"type": "string", "default": "x"}}},
    ],
)
def test_the_check_of_structure_can_fail(bad: dict[str, Any]) -> None:
    assert list(structural_faults(bad))


@pytest.mark.parametrize("kind", KINDS)
def test_metadata_restricts_the_name_alone(kind: type[ApiModel]) -> None:
    metadata = schema_of(kind)["properties"]["metadata"]
    assert metadata.keys() == {"type", "properties"}
    assert metadata["properties"].keys() == {"name"}
    assert metadata["properties"]["name"]["maxLength"] == (253 if kind is NodeCache else 54)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_served_as_design_says(kind: type[ApiModel]) -> None:
    definition = crd(kind)
    spec = definition["spec"]
    assert definition["metadata"]["name"] == f"{spec['names']['plural']}.modelcache.dev"
    assert spec["scope"] == "Cluster"
    (version,) = spec["versions"]
    assert (version["name"], version["served"], version["storage"]) == ("v1alpha1", True, True)
    assert version["subresources"] == {"status": {}}
    assert not {"cm", "no", "po", "cs", "cc"} & set(spec["names"]["shortNames"])


@pytest.mark.parametrize("kind", KINDS)
def test_each_column_shows_a_field(kind: type[ApiModel]) -> None:
    types = {"date": "string"}
    for column in crd(kind)["spec"]["versions"][0]["additionalPrinterColumns"]:
        if column["jsonPath"] == ".metadata.creationTimestamp":
            continue
        schema = schema_of(kind)
        for step in column["jsonPath"].partition("[")[0].strip(".").split("."):
            schema = schema["properties"][step]
        if "[" in column["jsonPath"]:
            assert schema["items"]["properties"]["status"]
        else:
            assert schema["type"] == types.get(column["type"], column["type"])


@pytest.mark.parametrize("kind", KINDS)
def test_kubectl_explain_has_something_to_say_of_each_field(kind: type[ApiModel]) -> None:
    def silent(schema: dict[str, Any], path: str) -> Iterator[str]:
        for name, part in schema.get("properties", {}).items():
            if "description" not in part and f"{path}.{name}" != ".metadata":
                yield f"{path}.{name}"
            yield from silent(part, f"{path}.{name}")
            yield from silent(part.get("items", {}), f"{path}.{name}[]")

    assert list(silent(schema_of(kind), "")) == []


@pytest.mark.parametrize(
    ("kind", "text"), [(CachedModel, model("a")), (CompileCache, compile_cache("a"))]
)
def test_what_the_classes_take_the_schema_takes(kind: type[ApiModel], text: str) -> None:
    document = kind.from_document(yaml.safe_load(text)).to_document()
    jsonschema.Draft4Validator(schema_of(kind)).validate(document)
    document["spec"] = {}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft4Validator(schema_of(kind)).validate(document)


def test_the_committed_files_are_the_generated_ones() -> None:
    committed = {path.name: path.read_text() for path in GENERATED.iterdir()}
    assert committed == files(), "run `make crds`"


def test_the_kustomization_lists_them_all(tmp_path: Path) -> None:
    assert main([str(tmp_path / "new")]) == 0
    listed = yaml.safe_load((tmp_path / "new" / "kustomization.yaml").read_text())["resources"]
    written = {path.name for path in (tmp_path / "new").iterdir()} - {"kustomization.yaml"}
    assert set(listed) == written
    assert len(written) == 3


@pytest.mark.parametrize("name", sorted(files()))
def test_the_files_say_where_they_come_from(name: str) -> None:
    text = files()[name]
    assert text.startswith("# Generated from the classes in agent/modelcache/api by `make crds`")
    assert "&id" not in text


def test_a_wrong_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage" in capsys.readouterr().err
