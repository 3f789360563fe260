"""An object of the API server as our class, or what is wrong with it in one line.

The schema refuses most mistakes when they are made; what only the classes can see (a URI that names
no repository, an operator without values) is in the cluster all the same.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from modelcache.api import API_VERSION, CachedModel, CompileCache, NodeCache, NodeCacheStatus
from modelcache.api.crds import crd
from modelcache.api.meta import ApiModel
from modelcache.catalog.composing import Collection, Node, Scalar
from modelcache.catalog.wording import dotted, explain
from modelcache.cluster.resources import Object
from modelcache.errors import UsageError

_SAID: Final = 3
_Kind = TypeVar("_Kind", bound=ApiModel)


def read_model(thing: Object) -> CachedModel:
    """Name and spec of a CachedModel; its status is not read. See `read_cache`."""
    return _read(thing, CachedModel)


def read_cache(thing: Object) -> CompileCache:
    """Name and spec of a CompileCache; its status is not read.

    Fields that our class does not know are left out, as a server with our CRD would do: a newer
    CRD fills its defaults into every object, and none of them is wrong for that.

    Raises:
        UsageError: the fields that are wrong, each with its path, in one line.
    """
    return _read(thing, CompileCache)


def read_status(thing: Object) -> NodeCacheStatus | None:
    """What a NodeCache says; None where nothing was said yet. Its metadata is not read.

    Raises:
        UsageError: it can't be read, as when a much newer agent has written it.
    """
    status = _pruned(thing.get("status"), _schema(NodeCache, "status"))
    try:
        return None if status is None else NodeCacheStatus.from_document(status)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(f"status.{where}: {first['msg']}") from error


def _read(thing: Object, kind: type[_Kind]) -> _Kind:
    metadata = thing["metadata"]
    kept = ("name", "uid", "generation")
    document = {
        "apiVersion": API_VERSION,
        "kind": kind.__name__,
        "metadata": {key: metadata[key] for key in kept if key in metadata},
        "spec": _pruned(thing.get("spec"), _schema(kind, "spec")),
    }
    try:
        return kind.from_document(document)
    except ValidationError as error:
        explained = explain(error, kind, _node(document))
        wrong = [f"{dotted(path)}: {text}" for path, _, text in explained]
    more = [f"and {len(wrong) - _SAID} more"] if len(wrong) > _SAID else []
    raise UsageError("; ".join([*wrong[:_SAID], *more]))


@cache
def _schema(kind: type[ApiModel], part: str) -> dict[str, Any]:
    (version,) = crd(kind)["spec"]["versions"]
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]["properties"][part]
    return schema


def _pruned(value: Any, schema: dict[str, Any]) -> Any:
    if isinstance(value, list):
        return [_pruned(item, schema.get("items", {})) for item in value]
    if not isinstance(value, dict) or "properties" not in schema:
        return value
    known = schema["properties"]
    return {name: _pruned(part, known[name]) for name, part in value.items() if name in known}


def _node(value: Any) -> Node:
    """The value as the catalog's reader has one, for its words."""
    if isinstance(value, dict):
        pairs = [(Scalar(0, "", name), _node(part)) for name, part in value.items()]
        return Collection(0, is_mapping=True, nodes=[node for pair in pairs for node in pair])
    if isinstance(value, list):
        return Collection(0, is_mapping=False, nodes=[_node(item) for item in value])
    return Scalar(0, "", json.dumps(value))
