"""pydantic's errors in the words of the person who wrote the YAML."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from modelcache.api.cachedmodel import DURATION_PATTERN
from modelcache.api.compilecache import (
    BUNDLES_PATTERN,
    DIGEST_PATTERN,
    DIRECTORY_PATTERN,
    ENV_NAME_PATTERN,
    IMAGE_PATTERN,
    KEY_PATTERN,
)
from modelcache.api.meta import LABEL_VALUE_PATTERN, NAME_PATTERN, SUBDOMAIN_PATTERN, ApiModel
from modelcache.api.schemas import described_schema
from modelcache.catalog.composing import Node, Scalar
from modelcache.catalog.constructing import Path, locate
from modelcache.catalog.problems import shorten

RULES: Final = {
    NAME_PATTERN: "lower-case letters, digits and hyphens, the first and the last no hyphen",
    SUBDOMAIN_PATTERN: "lower-case letters, digits, hyphens and dots, "
    "the first and the last a letter or digit",
    LABEL_VALUE_PATTERN: "letters, digits, hyphens, underscores and dots, "
    "the first and the last a letter or digit",
    DURATION_PATTERN: "a number and s, m, h or d: 90s, 15m, 1h30m",
    DIGEST_PATTERN: "sha256: and 64 hex digits",
    ENV_NAME_PATTERN: "letters, digits and underscores, the first no digit",
    DIRECTORY_PATTERN: "an absolute path of letters, digits, '.', '_' and '-', without '..'",
    KEY_PATTERN: "64 hex digits",
    IMAGE_PATTERN: "an image by digest: registry/name@sha256:<64 hex digits>",
    BUNDLES_PATTERN: "oci://registry/repository, s3://bucket/prefix, gs://bucket/prefix "
    "or file:///path, without spaces",
}
"""What each pattern of the classes asks for."""

_WANTED: Final = {
    "string_type": "a string",
    "int_type": "an integer",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping of fields",
}


def explain(
    error: ValidationError, model: type[ApiModel], node: Node
) -> list[tuple[Path, int, str]]:
    """Path, line and text for each thing that is wrong."""
    details = error.errors(include_url=False)
    broken = {d["loc"][:i] for d in details for i in range(len(d["loc"]))}
    explained = []
    for detail in details:
        path = detail["loc"]
        if detail["type"] == "too_short" and path in broken:
            continue  # pydantic counts only the items that are right
        line, found = locate(node, path)
        explained.append((path, line, _message(detail, model, found)))
    return sorted(explained, key=lambda entry: entry[1])


def dotted(path: Path) -> str:
    """`spec.source.include[0]`; a key that is no field's name in brackets, as Kubernetes has it."""
    text = ""
    for step in path:
        if isinstance(step, int) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", step):
            text += f"[{step if isinstance(step, int) else shorten(step)}]"
        else:
            text += f".{shorten(step)}" if text else shorten(step)
    return text


def quoted(value: Any) -> str:
    """A value for a message: as JSON has it, cut where it is long."""
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    if isinstance(value, str):
        # json.dumps of all of it would take a while for a scalar of megabytes.
        return json.dumps(shorten(value), ensure_ascii=False)
    return shorten(json.dumps(value))


def nearest(name: str, allowed: Iterable[str]) -> str:
    """`; did you mean uri?`, or nothing where no name is near."""
    by_case = {candidate.lower(): candidate for candidate in allowed}
    near = difflib.get_close_matches(name[:64].lower(), by_case, n=1, cutoff=0.6)
    return f"; did you mean {by_case[near[0]]}?" if near else ""


def _message(detail: ErrorDetails, model: type[ApiModel], node: Node | None) -> str:
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    match kind:
        case "missing":
            about = _schema_at(model, detail["loc"]).get("description", "")
            return "is missing and required" + (f": {_one_line(about)}" if about else "")
        case "extra_forbidden":
            return _unknown_field(detail["loc"], model)
        case "literal_error" | "enum":
            return _not_allowed(value, _schema_at(model, detail["loc"]))
        case "string_pattern_mismatch":
            return f"{quoted(value)} is not allowed: {RULES[context['pattern']]}"
        case "string_too_long":
            return f"has {len(value)} characters: at most {context['max_length']} are allowed"
        case "string_too_short":
            return "is empty: at least one character is needed"
        case "too_long":
            return f"has {len(value)} entries: at most {context['max_length']} are allowed"
        case "too_short":
            return f"has {len(value)} entries: at least {context['min_length']} are needed"
        case "greater_than_equal":
            return f"{quoted(value)} is too small: at least {context['ge']} is allowed"
        case "less_than_equal":
            return f"{quoted(value)} is too large: at most {context['le']} is allowed"
        case "value_error":
            return _one_line(str(context["error"]))
        case _ if kind in _WANTED:
            return _wrong_type(_WANTED[kind], value, node)
        case _:
            return f"{quoted(value)}: {detail['msg']}"


def _wrong_type(wanted: str, value: Any, node: Node | None) -> str:
    if value is None:
        return f"is empty: {wanted} is wanted (leave the line out for the default)"
    if wanted == "a string" and isinstance(value, bool | int | float):
        text = node.text if isinstance(node, Scalar) else json.dumps(value)
        what = f"the boolean {quoted(value)}" if isinstance(value, bool) else "a number"
        return f'a string is wanted, but YAML reads {shorten(text)} as {what}: write "{text[:64]}"'
    if isinstance(value, str) and (
        (wanted == "an integer" and re.fullmatch(r"[+-]?[0-9]{1,18}", value))
        or (wanted == "true or false" and value in ("true", "false"))
    ):
        return f"{wanted} is wanted, not a string: write {value} without quotes"
    if wanted == "a list" and not isinstance(value, dict):
        return f"a list is wanted, not {quoted(value)}: write [{quoted(value)}]"
    return f"{wanted} is wanted, not {quoted(value)}"


def _not_allowed(value: Any, schema: dict[str, Any]) -> str:
    allowed = schema.get("enum") or [schema.get("const")]
    hint = nearest(value, allowed) if isinstance(value, str) else ""
    return f"{quoted(value)} is not allowed{hint or ':'} {_listed(allowed)}"


def _unknown_field(path: Path, model: type[ApiModel]) -> str:
    if path == ("metadata", "namespace"):
        return "the object is cluster-scoped: remove namespace"
    allowed = sorted(_schema_at(model, path[:-1]).get("properties", ()))
    return f"unknown field{nearest(str(path[-1]), allowed) or ';'} allowed are {_listed(allowed)}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().removesuffix(".")


@cache
def _schema(model: type[ApiModel]) -> dict[str, Any]:
    return described_schema(model)


def _schema_at(model: type[ApiModel], path: Path) -> dict[str, Any]:
    """The part of the class's JSON schema that speaks of a field; empty where there is none."""
    root = _schema(model)
    schema = root
    for step in path:
        if isinstance(step, int):
            schema = schema.get("items", {})
        else:
            # A mapping whose keys have a pattern has its values' schema under that.
            extra = next(iter(schema.get("patternProperties", {}).values()), None)
            extra = extra or schema.get("additionalProperties")
            schema = schema.get("properties", {}).get(step) or extra or {}
        schema = _resolved(schema, root)
    return schema


def _resolved(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    choices = [c for c in schema.get("anyOf", ()) if c.get("type") != "null"]
    if len(choices) == 1:
        schema = {**choices[0], **{k: v for k, v in schema.items() if k != "anyOf"}}
    if "$ref" in schema:
        target = root["$defs"][schema["$ref"].rpartition("/")[2]]
        schema = {**target, **{k: v for k, v in schema.items() if k != "$ref"}}
    return schema
