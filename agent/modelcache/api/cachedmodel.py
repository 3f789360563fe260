"""CachedModel: a model that nodes are to hold, written by people."""

from __future__ import annotations

import hashlib
import json
import re
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from modelcache.api.meta import (
    API_VERSION,
    SUBDOMAIN_PATTERN,
    ApiModel,
    Conditions,
    LabelValue,
    ObjectMeta,
    check_label_key,
)
from modelcache.api.quantities import quantity
from modelcache.api.uri import URI_PATTERN, SourceURI, parse_uri, shown_uri
from modelcache.errors import UsageError

DURATION_PATTERN: Final = r"^([0-9]+[smhd])+$"

Glob = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
SecretName = Annotated[str, StringConstraints(pattern=SUBDOMAIN_PATTERN, max_length=253)]
Duration = Annotated[str, StringConstraints(pattern=DURATION_PATTERN, max_length=32)]
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class PageCache(StrEnum):
    """What is to be in memory as well."""

    NONE = "None"
    WARM = "Warm"


class Source(ApiModel):
    """Where a model comes from, and what of it is wanted."""

    # Not in the representation: the query of a URL may be a signature.
    uri: Annotated[
        str, Field(max_length=2048, repr=False, json_schema_extra={"pattern": URI_PATTERN})
    ]
    """hf://org/name[@revision][/path], s3://bucket/prefix, gs://bucket/prefix,
    oci://registry/repository[:tag|@digest], https://host/path/file, https://host/path/SHA256SUMS
    or file:///path."""
    include: Annotated[tuple[Glob, ...], Field(max_length=256)] = ()
    """Globs of the files that are wanted; all, when there are none. `*` matches slashes too."""
    exclude: Annotated[tuple[Glob, ...], Field(max_length=256)] = ()
    """Globs of the files that are not wanted, also where `include` names them."""
    allow_unsafe_formats: bool = False
    """Take files that can run code when loaded (pickles: *.bin, *.pt, *.ckpt, ...)."""
    secret_name: SecretName | None = None
    """The Secret with the origin's credentials, in the agent's namespace and mounted in its pods.
    The Secret itself names the hosts that it may be sent to (key `hosts`)."""

    @field_validator("uri")
    @classmethod
    def _uri_is_readable(cls, value: str) -> str:
        try:
            parse_uri(value)
        except UsageError as error:
            raise ValueError(str(error)) from error
        return value

    @property
    def parsed(self) -> SourceURI:
        """The URI in its parts."""
        return parse_uri(self.uri)

    @property
    def shown(self) -> str:
        """The URI without what may be secret in it."""
        return shown_uri(self.uri)

    def to_be_stored(self) -> Source:
        """The source without what may be secret in it; its digest is the same."""
        return self if self.shown == self.uri else self.model_copy(update={"uri": self.shown})

    def digest(self) -> str:
        """16 hex digits that differ when other content may be meant.

        Credentials don't count, and neither do fields that are left at their defaults: a field that
        a later version adds changes no digest.
        """
        meant = self.model_dump(mode="json", exclude={"secret_name"}, exclude_defaults=True)
        meant["uri"] = self.shown
        return hashlib.sha256(json.dumps(meant, sort_keys=True).encode()).hexdigest()[:16]


class SelectorRequirement(ApiModel):
    """One requirement on a node's labels or fields, as in a Pod's node affinity."""

    key: Annotated[str, StringConstraints(min_length=1, max_length=317)]
    """The label's key; for matchFields `metadata.name`."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]
    """How the label relates to the values."""
    values: Annotated[tuple[Annotated[str, Field(max_length=253)], ...], Field(max_length=256)] = ()
    """For In and NotIn at least one, for Gt and Lt one integer, else none."""

    @model_validator(mode="after")
    def _values_fit_the_operator(self) -> Self:
        if self.operator in ("Exists", "DoesNotExist") and self.values:
            raise ValueError(f"operator {self.operator} takes no values")
        if self.operator in ("In", "NotIn") and not self.values:
            raise ValueError(f"operator {self.operator} needs at least one value")
        if self.operator in ("Gt", "Lt") and not (
            len(self.values) == 1 and re.fullmatch(r"[+-]?[0-9]+", self.values[0])
        ):
            raise ValueError(f"operator {self.operator} needs one integer as its value")
        return self


class NodeSelectorTerm(ApiModel):
    """All of its requirements have to hold. A term without any holds for no node."""

    match_expressions: Annotated[tuple[SelectorRequirement, ...], Field(max_length=64)] = ()
    """Requirements on the node's labels."""
    match_fields: Annotated[tuple[SelectorRequirement, ...], Field(max_length=16)] = ()
    """Requirements on the node's fields: `metadata.name` is the only one there is."""

    @model_validator(mode="after")
    def _expressions_are_of_labels(self) -> Self:
        for requirement in self.match_expressions:
            check_label_key(requirement.key)
        return self

    @model_validator(mode="after")
    def _fields_are_names(self) -> Self:
        for number, requirement in enumerate(self.match_fields):
            at = f"matchFields[{number}]"
            if requirement.key != "metadata.name":
                raise ValueError(f"{at}.key {requirement.key!r}: only metadata.name is allowed")
            if requirement.operator not in ("In", "NotIn") or len(requirement.values) != 1:
                raise ValueError(f"{at}: only In and NotIn are allowed, each with one node's name")
        return self


class NodeSelector(ApiModel):
    """One of its terms has to hold."""

    node_selector_terms: Annotated[tuple[NodeSelectorTerm, ...], Field(min_length=1, max_length=64)]
    """The terms; they are ORed."""


class NodeAffinity(ApiModel):
    """Which nodes, as in a Pod. A preference has no meaning here: a node holds a model or not."""

    required_during_scheduling_ignored_during_execution: NodeSelector | None = None
    """The nodes that are to hold the model."""


class Refresh(ApiModel):
    """Whether to look for a newer revision once the model is there."""

    policy: Literal["Never", "Poll"] = "Never"
    """Never: what was resolved first stays. Poll: the origin is asked again every interval, and
    what is there stays in use until what is new is whole."""
    interval: Duration = "1h"
    """With Poll, the time between two questions: 90s, 15m, 1h30m, 1d. At least a minute."""

    @field_validator("interval")
    @classmethod
    def _in_range(cls, value: str) -> str:
        if not 60 <= duration_seconds(value) <= 366 * 86400:
            raise ValueError(f"{value} is out of range: at least 60s, at most 366d")
        return value

    @property
    def seconds(self) -> int:
        """The interval in seconds."""
        return duration_seconds(self.interval)


class CachedModelSpec(ApiModel):
    """What is wanted."""

    source: Source
    """Where the model comes from."""
    node_selector: dict[str, LabelValue] = Field(default={}, max_length=64)
    """Labels that a node must have to hold the model; empty: every node."""
    node_affinity: NodeAffinity | None = None
    """Node affinity, as in a Pod; it has to hold beside nodeSelector."""
    priority: Annotated[int, Field(ge=-1_000_000_000, le=1_000_000_000)] = 0
    """Higher is fetched first and kept longer."""
    pinned: bool = False
    """Never evicted. Not acted on yet: nothing is evicted for space."""
    page_cache: PageCache = PageCache.NONE
    """Warm: kept in memory as well, by a warmer (components/warmer). None: a fetch leaves nothing
    in the page cache."""
    refresh: Refresh = Refresh()
    """Whether, and how often, to look for a newer revision."""

    @field_validator("node_selector")
    @classmethod
    def _keys_are_labels(cls, value: dict[str, str]) -> dict[str, str]:
        for key in value:
            check_label_key(key)
        return value


class NodeCounts(ApiModel):
    """How many nodes there are in each state."""

    desired: Annotated[int, Field(ge=0)] = 0
    """Nodes that the object selects and that have an agent."""
    ready: Annotated[int, Field(ge=0)] = 0
    """Nodes that hold it, whole and verified."""
    downloading: Annotated[int, Field(ge=0)] = 0
    """Nodes that are fetching it."""
    failed: Annotated[int, Field(ge=0)] = 0
    """Nodes whose last try failed."""


def _size(status: dict[str, Any]) -> str | None:
    size = status.get("bytes")
    return None if size is None else quantity(size)


def _ready_nodes(status: dict[str, Any]) -> str:
    nodes = status["nodes"]
    return f"{nodes.ready}/{nodes.desired}"


class CachedModelStatus(ApiModel):
    """What is, summed up over all nodes by the controller."""

    observed_generation: int | None = None
    """The generation of the object that this speaks of."""
    revision: str | None = None
    """The revision that most of the ready nodes hold (an HF commit, or a digest over what is
    there); while none is ready, the one that most are fetching."""
    bytes: Annotated[int, Field(ge=0)] | None = None
    """The size of what one node holds, in bytes."""
    size: str | None = Field(default_factory=_size)
    """The same for people: 14.9Gi."""
    nodes: NodeCounts = NodeCounts()
    """How far the nodes are."""
    ready_nodes: str = Field(default_factory=_ready_nodes)
    """Ready and desired nodes for people: 3/5."""
    conditions: Conditions = ()
    """Ready: true when every selected node holds the model. Its reason says why not: Progressing,
    NoNodesSelected, InvalidSpec, or why most of the failing nodes fail."""


class CachedModel(ApiModel):
    """A model that nodes hold on their local disk before a pod asks for it."""

    api_version: Literal["modelcache.dev/v1alpha1"] = API_VERSION
    kind: Literal["CachedModel"] = "CachedModel"
    metadata: ObjectMeta
    spec: CachedModelSpec
    status: CachedModelStatus | None = None

    @property
    def name(self) -> str:
        """The object's name."""
        return self.metadata.name


def duration_seconds(text: str) -> int:
    """`1h30m` as 5400. The text has the form of `Duration`."""
    return sum(int(n) * _SECONDS[unit] for n, unit in re.findall(r"([0-9]+)([smhd])", text))
