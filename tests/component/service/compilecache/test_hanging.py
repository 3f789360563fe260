"""Places that give no answer, or are away: they hold up nobody but themselves."""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from modelcache.api import CompileCache
from modelcache.api.nodecache import CompileState
from modelcache.compilecache.bundles.local import LocalBundle
from modelcache.compilecache.starts.holding import Holding
from modelcache.service.agent import Agent
from modelcache.service.compilecache.outbox import Outbox
from modelcache.settings import AgentSettings
from modelcache.store import Store
from modelcache.store.durable import Durable
from tests.component.service.compilecache.place import Bench, catalog, compile_cache, run
from tests.support.bundles import a_bundle
from tests.support.cluster.waiting import eventually


@pytest.fixture
def silent() -> Iterator[str]:
    """A registry that takes every connection and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        taken: list[socket.socket] = []

        def take() -> None:
            while True:
                try:
                    taken.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=take, daemon=True).start()
        yield f"oci://127.0.0.1:{server.getsockname()[1]}/bundles"
        server.shutdown(socket.SHUT_RDWR)
        for each in taken:
            each.close()


@contextmanager
def running(bench: Bench, *documents: dict[str, Any]) -> Iterator[Agent]:
    """An agent that runs until the block ends."""
    path = catalog(bench.folder / "catalog.yaml", bench.cached_model(), *documents)
    settings = AgentSettings(
        root=bench.root,
        catalog=path,
        node_name="n1",
        listen="127.0.0.1:0",
        file_roots=(bench.folder,),
        keep_free="0",
        trusted_keys=bench.trusted,
        signing_key=bench.private,
    )
    agent = Agent(settings)
    thread = threading.Thread(target=agent.run)
    thread.start()
    try:
        yield agent
    finally:
        agent.stop()
        thread.join(20)
        assert not thread.is_alive()


def ask(agent: Agent, path: str) -> str:
    assert agent.address is not None
    host, port = agent.address
    with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=5) as answer:
        return str(answer.read().decode())


def states(agent: Agent) -> dict[str, str]:
    status = json.loads(ask(agent, "/v1/node"))["status"]
    return {each["name"]: each["state"] for each in status.get("compileCaches", ())}


def test_places_that_hang_hold_up_no_other_object_and_the_probe_says_ok(
    bench: Bench, silent: str
) -> None:
    good = compile_cache(bench.uri, "zz-last")
    for name in ("zz-last", "hung-0"):
        bench.publish(bench.key(good), name=name)
    hung = [compile_cache(f"{silent}-{number}", f"hung-{number}") for number in range(12)]
    with running(bench, *hung, good) as agent:
        eventually(
            lambda: states(agent),
            lambda found: found.get("zz-last") == "Ready",
            timeout=60,
            what="the good one",
        )
        assert {v for k, v in states(agent).items() if k != "zz-last"} <= {"Pending", "Failed"}
        assert ask(agent, "/livez").strip() == "ok"
        # Who is given another place leaves what hangs behind.
        mended = compile_cache(bench.uri, "hung-0")
        catalog(bench.folder / "catalog.yaml", bench.cached_model(), mended, *hung[1:], good)
        eventually(
            lambda: states(agent),
            lambda found: found.get("hung-0") == "Ready",
            timeout=60,
            what="the mended one",
        )


def outgoing(bench: Bench, cache: dict[str, Any]) -> LocalBundle:
    """A bundle as the listener leaves it, with its agent killed right after."""
    store = Store(bench.root)
    durable = Durable(store.layout.scratch)
    bundle = a_bundle(
        bench.folder / "made",
        key=bench.key(cache),
        signed_by=bench.signing,
        created=datetime(2026, 2, 1, tzinfo=UTC),
    )
    name = CompileCache.from_document(cache).name
    holding = Holding(store.layout, durable)
    with holding.staging() as staging:
        for path in bundle.directory.iterdir():
            shutil.copy(path, staging)
        Outbox(store.layout, durable).put(name, bundle.digest)
        holding.add(staging, name, bundle.statement.key.digest, bundle.digest)
    return bundle


def test_what_was_made_here_is_published_after_a_kill(bench: Bench) -> None:
    cache = compile_cache(bench.uri)
    bundle = outgoing(bench, cache)
    report = run(bench, cache)["tiny"]
    assert (report.state, report.digest) == (CompileState.READY, bundle.digest)
    assert not report.outgoing
    (placed,) = bench.place.rglob("bundle.json")
    assert LocalBundle.open(placed.parent).digest == bundle.digest
    assert not list((bench.root / "ingest" / "outbox").rglob("*.json"))


def test_while_its_place_is_away_it_is_kept_shown_and_told_as_not_published(
    bench: Bench,
) -> None:
    cache = compile_cache(bench.uri)
    bundle = outgoing(bench, cache)
    bench.place.rename(bench.folder / "away")
    report = run(bench, cache)["tiny"]
    assert (report.state, report.digest) == (CompileState.READY, bundle.digest)
    assert report.outgoing
    assert report.attempts == 1
    (bench.folder / "away").rename(bench.place)
    assert not run(bench, cache)["tiny"].outgoing
    assert list(bench.place.rglob("bundle.json"))


def test_a_note_whose_bundle_never_came_goes_after_an_hour_and_no_other(bench: Bench) -> None:
    store = Store(bench.root)
    outbox = Outbox(store.layout, Durable(store.layout.scratch))
    never, fresh, held = (f"sha256:{digit * 64}" for digit in "567")
    for digest in (never, fresh, held):
        outbox.put("tiny", digest)
    folder = bench.root / "ingest" / "outbox" / "tiny"
    for digest in (never, held):
        os.utime(folder / f"{digest[7:]}.json", (1, 1))
    outbox.sweep({("tiny", held)})
    assert outbox.of("tiny") == {fresh, held}
