"""What all objects have in common: the base class, metadata, conditions."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel
from pydantic_core import to_json

API_GROUP: Final = "modelcache.dev"
API_VERSION: Final = "modelcache.dev/v1alpha1"

NAME_MAX: Final = 54
"""`revision.` and the name make the name part of a label key, which may have 63 characters."""

NAME_PATTERN: Final = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"

SUBDOMAIN_PATTERN: Final = r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"
"""The names of most Kubernetes objects: an RFC 1123 subdomain, of at most 253 characters."""

LABEL_VALUE_PATTERN: Final = r"^([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)?$"

_LABEL_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN, min_length=1, max_length=NAME_MAX)]
"""An object's name: lower-case letters, digits and hyphens (an RFC 1123 label), at most 54."""

LabelValue = Annotated[str, StringConstraints(pattern=LABEL_VALUE_PATTERN, max_length=63)]
"""A label's value, as Kubernetes allows it."""


def check_label_key(key: str) -> str:
    """A label's key: at most 63 characters, with a DNS subdomain and a slash before them or not.
    https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set

    Returns:
        The key.

    Raises:
        ValueError: it can't be one.
    """
    prefix, slash, name = key.rpartition("/")
    good = not slash or (len(prefix) <= 253 and re.fullmatch(SUBDOMAIN_PATTERN, prefix))
    if not (good and _LABEL_NAME.fullmatch(name)):
        shown = key if len(key) <= 80 else f"{key[:80]}..."
        raise ValueError(
            f"{shown!r} can't be a label's key: at most 63 letters, digits, '-', '_' and '.', "
            "after a DNS name and a slash or without them"
        )
    return key


class ApiModel(BaseModel):
    """Base of every API class: camelCase outside, unknown fields refused, immutable.

    Python code builds instances by field name; documents are read with `from_document`, which
    takes the camelCase names only and converts no scalar into another, as the API server does.

    The text below a field describes it: in the CRD, and to who leaves it out (`schemas`).
    """

    model_config = ConfigDict(
        defer_build=True,
        alias_generator=to_camel,
        extra="forbid",
        frozen=True,
        # The query of a URL may be a signature.
        hide_input_in_errors=True,
        validate_by_name=True,
        validate_by_alias=True,
    )

    @classmethod
    def from_document(cls, document: Any) -> Self:
        """Read a document as it stands in YAML or JSON: dicts with string keys, lists, scalars.

        Raises:
            pydantic.ValidationError: with one entry for each field that is wrong.
        """
        # JSON is where strictness draws the line that the API server draws: "5" is no integer and
        # true is no string, but a list is a tuple and a string names an enum's member.
        return cls.model_validate_json(to_json(document), strict=True, by_name=False, by_alias=True)

    def to_document(self) -> dict[str, Any]:
        """The document as it stands in JSON: camelCase, without fields that are not set."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class ObjectMeta(ApiModel):
    """Kubernetes' metadata, as far as a cluster-scoped object has it."""

    name: Name
    """Lower-case letters, digits and hyphens, at most 54: it becomes part of a node label."""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}

    # Written by the API server. Accepted, so that `kubectl get -o yaml` is a valid catalog file.
    uid: str | None = None
    generation: int | None = None
    resource_version: str | None = None
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    deletion_grace_period_seconds: int | None = None
    self_link: str | None = None
    finalizers: tuple[str, ...] | None = None
    managed_fields: tuple[Any, ...] | None = None
    owner_references: tuple[dict[str, Any], ...] | None = None


class Condition(ApiModel):
    """One aspect of the present state, as in Kubernetes' `metav1.Condition`."""

    type: Annotated[str, Field(max_length=316)]
    """The aspect, in CamelCase."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Annotated[str, Field(max_length=1024)]
    """Why, as one CamelCase word."""
    message: Annotated[str, Field(max_length=32768)] = ""
    """Why, as a sentence."""
    last_transition_time: datetime
    """When the status last changed."""
    observed_generation: int | None = None
    """The generation of the object that this speaks of."""


Conditions = Annotated[
    tuple[Condition, ...],
    Field(
        max_length=16,
        json_schema_extra={
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
        },
    ),
]
"""An object's conditions, one of each type."""
