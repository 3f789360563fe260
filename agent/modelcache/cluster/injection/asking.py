"""What a Pod asks for, by its annotations."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from modelcache.api import API_GROUP
from modelcache.api.meta import NAME_MAX, NAME_PATTERN
from modelcache.cluster.inuse import MODEL_ANNOTATION
from modelcache.errors import UsageError

INJECT_LABEL: Final = f"{API_GROUP}/inject"
"""On a pod, `true`: what the webhook is called for. (It can't be selected by an annotation.)"""

AFFINITY_ANNOTATION: Final = f"{API_GROUP}/affinity"
"""On a pod: `preferred`, the default, or `required`."""

Known: TypeAlias = Mapping[str, str]
"""The CachedModels that there are, by name: the scheme of each one's source, empty where that can't
be read."""


class Malformed(UsageError):
    """A document that is no Pod: a field of it has another type than a Pod's."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a Pod asks for.

    Attributes:
        names: the models.
        required: whether it is to run nowhere else.
        warnings: what is wrong with the annotations.
    """

    names: tuple[str, ...]
    required: bool = False
    warnings: tuple[str, ...] = ()


def asked(metadata: Mapping[str, Any], *, cache: bool = False) -> Asked:
    """What a Pod's metadata ask for. With `cache` they ask for a compile cache too, and need not
    name a model."""
    annotations = mapping(metadata.get("annotations"), "metadata.annotations")
    text = annotations.get(MODEL_ANNOTATION)
    warnings = []
    names: dict[str, None] = {}
    for name in map(str.strip, text.split(",") if isinstance(text, str) else ()):
        if len(name) <= NAME_MAX and re.fullmatch(NAME_PATTERN, name):
            names[name] = None
        elif name:
            warnings.append(f"{name[:60]!r} can't be a CachedModel's name and is left out")
    if not names and not warnings and (MODEL_ANNOTATION in annotations or not cache):
        warnings.append(f"no model is named: set the annotation {MODEL_ANNOTATION}")
    affinity = annotations.get(AFFINITY_ANNOTATION, "preferred")
    if affinity not in ("preferred", "required"):
        said = str(affinity)[:60]
        warnings.append(
            f"{AFFINITY_ANNOTATION} is {said!r}: preferred is assumed; preferred and required are"
            " allowed"
        )
    return Asked(tuple(names), affinity == "required", tuple(warnings))


def mapping(value: Any, where: str) -> dict[str, Any]:
    """A mapping as it stands in a document; empty where there is none.

    Raises:
        Malformed: it is something else.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Malformed(f"{where} is no mapping")
    return value


def sequence(value: Any, where: str) -> list[dict[str, Any]]:
    """A list of mappings as it stands in a document; empty where there is none.

    Raises:
        Malformed: it is something else.
    """
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise Malformed(f"{where} is no list of mappings")
    return value
