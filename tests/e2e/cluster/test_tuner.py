"""The tuner on a real node: what it may there, what it does, and how it is taken off again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from modelcache.host.backing import Host
from tests.e2e.cluster.nodes import condition
from tests.e2e.cluster.realnodes import World, agent_pod, processes, world, write_overlay
from tests.support.cluster.fixtures import NAMESPACE
from tests.support.cluster.kubelet import RealKubelet
from tests.support.cluster.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.heavy, pytest.mark.timeout(900)]

KIB = 2048
SETTINGS = {"MODELCACHE_READ_AHEAD": f"root={KIB}", "MODELCACHE_TUNE_INTERVAL": "2s"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(
        tmp_path_factory.mktemp("overlay"), components=["tuner"], settings=SETTINGS
    ) as found:
        yield found


@pytest.fixture(scope="module")
def node(cluster: World) -> Iterator[RealKubelet]:
    with cluster.node("tuned") as found:
        attribute(found).write_text("128")
        cluster.plane.label_node("tuned", {"modelcache.dev/node": "true"})
        yield found


def attribute(node: RealKubelet) -> Path:
    """The read-ahead of the node's disk, as the machine has it."""
    host = Host(mountinfo=node.mountinfo)
    return host.bdi / host.backing_of_path(Path("/mnt/nvme")).bdi / "read_ahead_kb"


def kib(node: RealKubelet) -> int:
    return int(attribute(node).read_text())


def test_it_sets_what_it_may_and_has_no_capability(cluster: World, node: RealKubelet) -> None:
    eventually(lambda: kib(node), lambda found: found == KIB, timeout=120, what="the value")
    (tuner,) = processes(node, "modelcache tune --daemon --listen 0.0.0.0:8082")
    assert tuner["Uid"].split() == ["0"] * 4
    assert int(tuner["CapEff"], 16) == int(tuner["CapBnd"], 16) == 0
    assert (tuner["NoNewPrivs"], tuner["Seccomp"]) == ("1", "2")

    def is_ready() -> bool:
        return condition(agent_pod(cluster.plane, node.name), "Ready").get("status") == "True"

    eventually(is_ready, timeout=60, what="the pod's readiness")
    state = node.disk / "modelcache/tuner"
    assert {path.name for path in state.iterdir()} == {"former.json", "former.lock"}
    assert state.stat().st_uid == 0


def test_an_external_reset_is_put_right(node: RealKubelet) -> None:
    attribute(node).write_text("64")
    eventually(lambda: kib(node), lambda found: found == KIB, timeout=30, what="the value")
    said = node.logs(NAMESPACE, "modelcache-agent-*", "tuner")
    assert "somebody else had changed it" in said


def test_taking_it_off_puts_the_former_value_back(cluster: World, node: RealKubelet) -> None:
    write_overlay(cluster.overlay, {"HF_ENDPOINT": cluster.hub.url}, ["tuner-restore"])
    cluster.plane.kubectl("apply", "-k", cluster.overlay)
    eventually(lambda: kib(node), lambda found: found == 128, timeout=120, what="the value")
    eventually(
        lambda: processes(node, "modelcache tune --daemon --listen 0.0.0.0:8082"),
        lambda found: found == [],
        what="the tuner's end",
    )
