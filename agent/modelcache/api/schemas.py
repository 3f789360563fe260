"""What the classes say of their documents, in JSON Schema.

pydantic can read the texts below fields by itself (`use_attribute_docstrings`), at the price of
40 ms for each start of each command; here it is done when somebody asks.
"""

from __future__ import annotations

import ast
import inspect
from itertools import pairwise
from typing import Any

from pydantic.alias_generators import to_camel

from modelcache.api.meta import ApiModel


def described_schema(kind: type[ApiModel]) -> dict[str, Any]:
    """The JSON schema of a document, with the text below each field as its description."""
    root = kind.model_json_schema(by_alias=True)
    schemas = {**root.get("$defs", {}), kind.__name__: root}
    classes: list[type[ApiModel]] = [ApiModel]
    for each in classes:
        classes += each.__subclasses__()
        properties = schemas.get(each.__name__, {}).get("properties", {})
        for field, text in _texts(each).items():
            if field in properties:
                properties[field].setdefault("description", text)
    return root


def _texts(kind: type[ApiModel]) -> dict[str, str]:
    """What stands below each field, by its name in documents; its own, else its parents'."""
    texts: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        if not issubclass(each, ApiModel):
            continue
        (found,) = ast.parse(inspect.getsource(each)).body
        assert isinstance(found, ast.ClassDef)
        for field, text in pairwise(found.body):
            match field, text:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(said))),
                ):
                    texts[to_camel(name)] = inspect.cleandoc(said)
    return texts
