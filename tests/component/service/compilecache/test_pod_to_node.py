"""A pod's two containers and its node's agent: what one pod compiles, the next one starts from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from modelcache.api import CompileCache
from modelcache.compilecache.engines.table import table
from modelcache.compilecache.pods.posting import Agent
from modelcache.compilecache.pods.seeding import Seeding
from modelcache.compilecache.pods.serving import Serving
from modelcache.compilecache.pods.sidecar import Sidecar
from modelcache.compilecache.starts.capturing import Patience
from modelcache.transfer import Cancel
from tests.component.service.compilecache.node import Node
from tests.component.service.compilecache.place import compile_cache
from tests.support.podcaches import Pod, pod
from tests.support.trees import content

NAME = "tiny"
GRAPHS = {"graphs/one.py": b"one" * 1000, "graphs/two.so": b"two" * 1000}


@pytest.fixture
def first(tmp_path: Path) -> Iterator[Pod]:
    with pod(tmp_path / "first") as found:
        yield found


@pytest.fixture
def second(tmp_path: Path) -> Iterator[Pod]:
    with pod(tmp_path / "second") as found:
        yield found


def wants(node: Node, given: Pod) -> None:
    """The object says that its caches lie where the pod has them."""
    document = compile_cache(
        "file:///nowhere", publishers=[{"namespace": "default", "serviceAccount": "engine"}]
    )
    document["spec"]["engine"]["cacheDir"] = str(given.cache_dir)
    cache = CompileCache.from_document(document)
    node.asked[NAME] = replace(node.asked[NAME], cache=cache)


def seeded(node: Node, given: Pod) -> str:
    return Seeding(NAME, node.root / "compile", given.cache_dir, given.work).run().how


def sidecar(node: Node, given: Pod, tmp_path: Path) -> Sidecar:
    token = tmp_path / "token"
    token.write_text("token")
    host, port = node.listener.address
    return Sidecar(
        name=NAME,
        pod="default/p",
        engine=table(None)["other"],
        cache_dir=given.cache_dir,
        work=given.work,
        agent=Agent(host, port, token),
        serving=Serving.of(given.engine.health),
        patience=Patience(quiet=0.2, look=0.02, ready=20.0, settle=5.0),
        deliver_seconds=20.0,
    )


def shown(node: Node) -> str:
    """Show what is there, as the agent does; its digest."""
    (held,) = node.holding.of(NAME)
    node.holding.show(NAME, held.key, held.digest)
    return f"sha256:{held.digest}"


def test_what_one_pod_compiles_the_next_one_starts_from(
    node: Node, first: Pod, second: Pod, tmp_path: Path
) -> None:
    wants(node, first)
    assert seeded(node, first) == "nothing"
    first.engine.compiles(GRAPHS)
    first.engine.serves()
    report = sidecar(node, first, tmp_path).run(Cancel())
    digest = shown(node)
    assert (report.outcome, report.digest) == ("delivered", digest)
    last, miss = node.starts.last(NAME)
    assert last == miss
    assert last is not None
    assert (last.result, last.reason) == ("Miss", "NothingSeeded")

    assert seeded(node, second) == "unpacked"
    found = content(second.cache_dir)
    assert {path: data for path, data in found.items() if path in GRAPHS} == GRAPHS
    second.engine.loads()
    second.engine.serves()
    wants(node, second)
    assert sidecar(node, second, tmp_path).run(Cancel()).outcome == "nothing"
    last, _ = node.starts.last(NAME)
    assert last is not None
    assert last.result == "Hit"
    assert node.starts.verified(NAME) == {digest}


def test_the_second_of_two_that_compile_at_once_is_told_that_it_is_known(
    node: Node, first: Pod, second: Pod, tmp_path: Path
) -> None:
    for each, graphs in ((first, GRAPHS), (second, {"other": b"o"})):
        wants(node, each)
        each.engine.compiles(graphs)
        each.engine.serves()
        report = sidecar(node, each, tmp_path).run(Cancel())
        assert (report.outcome, report.digest) == ("delivered", shown(node))


def test_a_pod_that_may_not_publish_is_told_so(node: Node, first: Pod, tmp_path: Path) -> None:
    first.engine.compiles(GRAPHS)
    first.engine.serves()
    # The object says another directory.
    report = sidecar(node, first, tmp_path).run(Cancel())
    assert report.outcome == "refused"
    assert "OtherDirectory" in report.why
    assert not node.holding.of(NAME)
