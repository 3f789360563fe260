"""What happened to a model lately, as this node's agent tells it."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from pydantic import Field, ValidationError

from modelcache.api.meta import ApiModel
from modelcache.api.nodecache import CompileReport
from modelcache.cli.nodes.sources import NoAnswer, ask_agent
from modelcache.errors import Reason
from modelcache.service.httpserving import host_and_port
from modelcache.service.reporting import read_node_report
from modelcache.store import Store

_MOST: Final = 8
_OF_ROOM: Final = ("EvictionBlocked", f"Model{Reason.INSUFFICIENT_DISK.value}")


class Happened(ApiModel, extra="ignore"):
    """One thing that happened, as `/v1/events` has it."""

    at: datetime
    reason: str
    about: str = ""
    message: str
    count: int = Field(1, ge=1)

    @property
    def is_of_room(self) -> bool:
        """Whether it says that a model didn't fit."""
        return self.reason in _OF_ROOM

    def plain(self) -> dict[str, Any]:
        """As documents have it."""
        return self.to_document()


@dataclass(frozen=True, slots=True)
class Lately:
    """What is known of the last hours.

    Attributes:
        events: the last ones, the newest first.
        silent: why the agent was not heard, as a sentence; empty where it was.
    """

    events: tuple[Happened, ...] = ()
    silent: str = ""


def happened(address: tuple[str, int] | None, store: Store, names: Collection[str]) -> Lately:
    """What happened lately to some models and compile caches of a root, if its agent answers."""
    if address is None:
        return Lately(silent="it was not asked what happened lately: --agent is empty")
    shown = host_and_port(address)
    try:
        node = ask_agent(address, "/v1/node")
        status = node.get("status") if isinstance(node, dict) else None
        root = status.get("root") if isinstance(status, dict) else None
        if not isinstance(root, str):
            raise NoAnswer("what it says is no NodeCache")
        if os.path.realpath(root) != os.path.realpath(store.layout.root):
            return Lately(silent=f"the one at {shown} works on {root}: it was not asked")
        return Lately(_events(ask_agent(address, "/v1/events"), names))
    except NoAnswer as error:
        return Lately(
            silent=f"none answers at {shown} ({error}): this is what one last reported, and what"
            " the root holds"
        )


def _events(document: object, names: Collection[str]) -> tuple[Happened, ...]:
    found = document.get("items") if isinstance(document, dict) else None
    events = []
    try:
        for each in found if isinstance(found, list) else ():
            event = Happened.from_document(each)
            if event.about in names:
                events.append(event)
    except ValidationError as error:
        raise NoAnswer("its events can't be read") from error
    return tuple(events[:_MOST])


def compiled_of(store: Store, name: str) -> tuple[CompileReport, ...]:
    """The compile caches of a model, as the agent last reported them."""
    report = read_node_report(store.layout)
    found = report.status.compile_caches if report is not None and report.status is not None else ()
    return tuple(each for each in found if each.model == name)
