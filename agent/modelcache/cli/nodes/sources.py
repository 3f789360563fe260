"""Who is asked what nodes hold: this node's agent, the root that it works on, the API server."""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

from modelcache.api import DiskReport, ModelReport, ModelState, NodeCacheStatus
from modelcache.cli.nodes.views import AgentState, Look, NodeView, Teller
from modelcache.cli.output import age
from modelcache.cluster.reading import read_status
from modelcache.errors import StoreDamaged, UsageError
from modelcache.service.httpserving import host_and_port
from modelcache.service.looking import model_reports
from modelcache.service.opening import store_of
from modelcache.service.reporting import read_node_report
from modelcache.settings import StatusSettings
from modelcache.store import Store

OWN_LIMITS: Final = ", by this command's own limits: no agent told its own"
"""Where no agent tells of the disk."""

_ANSWER_SECONDS: Final = 3.0
_MOST_BYTES: Final = 64 << 20
"""A report of 200 models is a tenth of a mebibyte."""


class Source(Protocol):
    """Who can be asked again and again."""

    def look(self) -> Look:
        """What is known at this moment.

        Raises:
            ModelCacheError: nothing is known, nor was before.
        """

    def close(self) -> None:
        """End what goes on for it."""


class NoAnswer(Exception):
    """The agent does not answer, or not as one does; the message is why, in some words."""


def ask_agent(address: tuple[str, int], path: str) -> object:
    """One document of an agent's endpoints.

    Raises:
        NoAnswer
    """
    host, port = address
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - asked, not listened on
    url = f"http://{host_and_port((host, port))}{path}"
    # No proxy: this is the same machine, whatever the environment says of the rest of the world.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=_ANSWER_SECONDS) as answer:
            return json.loads(answer.read(_MOST_BYTES))
    except urllib.error.HTTPError as error:
        said = ""
        with error, suppress(OSError, http.client.HTTPException):
            said = error.read(200).decode(errors="replace").strip()
        raise NoAnswer(said or f"it answers {error.code}") from error
    except urllib.error.URLError as error:
        raise NoAnswer(_why(error.reason)) from error
    except OSError as error:
        raise NoAnswer(_why(error)) from error
    except http.client.HTTPException as error:
        # Neither urllib's nor an OSError: no HTTP, or an answer that ends in the middle.
        raise NoAnswer("what it says is no whole answer of HTTP") from error
    except (ValueError, RecursionError) as error:
        raise NoAnswer("what it says is no JSON") from error


def _why(error: object) -> str:
    told = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return told.lower() or "it closed the connection"


def agents_disk(address: tuple[str, int] | None, root: Path) -> DiskReport | None:
    """The disk as the agent that works on a root reports it: its own limits, which may have come by
    flags, are in it. None where none answers, or one that works on another root."""
    if address is None:
        return None
    try:
        status = _status(ask_agent(address, "/v1/node"))
    except NoAnswer:
        return None
    if status is None or os.path.realpath(status.root) != os.path.realpath(root):
        return None
    return status.disk


def _status(found: object) -> NodeCacheStatus | None:
    if not isinstance(found, dict):
        return None
    try:
        return read_status(found)
    except UsageError:
        return None


class ThisNode:
    """The node that this runs on: its agent is asked, and where none answers, the root."""

    def __init__(self, settings: StatusSettings, *, root_given: bool) -> None:
        """`root_given`: somebody has named the root, so that an agent that works on another one is
        not whom they mean."""
        self._settings = settings
        self._root_given = root_given

    def look(self) -> Look:
        """What is known at this moment.

        Raises:
            UsageError: neither an agent answers nor is there a cache.
            StoreDamaged
        """
        address = self._settings.address
        if address is None:
            return self._from_root("--agent is empty: none was asked", AgentState.UNKNOWN)
        shown = host_and_port(address)
        try:
            found = ask_agent(address, "/v1/node")
            view = self._view(found)
        except NoAnswer as error:
            return self._from_root(f"no agent answers at {shown} ({error})", AgentState.DOWN)
        if view.status and self._root_given and not self._is_ours(view.status):
            told = f"the agent at {shown} works on {view.status.root}"
            return self._from_root(told, AgentState.UNKNOWN)
        return Look((view,), shown)

    def close(self) -> None:
        """Nothing goes on for it."""

    def _view(self, found: object) -> NodeView:
        try:
            assert isinstance(found, dict)
            name, status = str(found["metadata"]["name"]), read_status(found)
        except (AssertionError, KeyError, TypeError, UsageError) as error:
            told = str(error) if isinstance(error, UsageError) else "no NodeCache"
            raise NoAnswer(f"what it says can't be read: {told}") from error
        return NodeView(name, status, Teller.AGENT, AgentState.UP)

    def _is_ours(self, status: NodeCacheStatus) -> bool:
        return os.path.realpath(status.root) == os.path.realpath(self._settings.root)

    def _from_root(self, why: str, agent: AgentState) -> Look:
        """What the store holds, and what an agent last wrote of it."""
        root = self._settings.root
        try:
            if not (root / "layout.json").exists():
                raise UsageError(
                    f"{why}, and {root} is not a model cache: give --agent or --root, or start one"
                    " with modelcache agent; --cluster asks the API server"
                )
            store = store_of(self._settings)
            told = read_node_report(store.layout)
            models = model_reports(store)
            disk = _disk(store, models)
        except OSError as error:
            raise StoreDamaged(
                f"{root} can't be read: {error.strerror or error}; run it as the user that the"
                " agent runs as"
            ) from error
        if told is not None and told.status is not None:
            written = datetime.fromtimestamp(store.layout.node_report.stat().st_mtime, UTC)
            status = told.status.model_copy(update={"models": models, "disk": disk})
            note = f"{why}; one last wrote to this root {age(written)} ago"
            return _one(NodeView(told.metadata.name, status, Teller.ROOT, agent, note))
        status = NodeCacheStatus(agent_version="", root=str(root), models=models, disk=disk)
        note = f"{why}, and none has written to this root"
        return _one(NodeView(self._settings.node_name, status, Teller.ROOT, agent, note))


def _one(view: NodeView) -> Look:
    assert view.status is not None
    return Look((view,), view.status.root)


def _disk(store: Store, models: Iterable[ModelReport]) -> DiskReport:
    space = store.space.measure()
    return DiskReport(
        capacity=space.capacity,
        available=space.available,
        used=sum(each.bytes_done for each in models if each.state is ModelState.READY),
        reserved=space.reserved,
        taken=space.used,
        budget=space.budget,
        kept_free=space.kept_free,
    )
