"""The agent as a process, with a catalog and a hub."""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.error
from pathlib import Path
from typing import Any

import pytest

from tests.support.agent import AgentProcess, modelcache, write_catalog
from tests.support.cluster.waiting import eventually
from tests.support.hub import GeneratedContent, HubServer, Source, Stall

MIB = 1 << 20
FILES: dict[str, Source] = {
    "config.json": b"{}",
    "weights.safetensors": GeneratedContent(3 * MIB, seed=1),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


def catalog_of(tmp_path: Path, *models: dict[str, Any]) -> Path:
    return write_catalog(tmp_path / "catalog.yaml", *models)


def agent(root: Path, catalog: Path, hub: HubServer, *flags: str) -> AgentProcess:
    return AgentProcess(root, catalog, *flags, env={"HF_ENDPOINT": hub.url})


def written(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / "node.json").read_text())
    return found


def metric_values(exposition: str) -> dict[str, float]:
    lines = [line for line in exposition.splitlines() if not line.startswith("#")]
    return {series: float(value) for series, _, value in (line.rpartition(" ") for line in lines)}


def wait_written(running: AgentProcess, root: Path) -> dict[str, Any]:
    """What `node.json` says, once it says what the agent does."""

    def same() -> dict[str, Any]:
        found = written(root)
        assert found["status"]["models"] == running.node()["status"]["models"]
        return found

    return eventually(same, timeout=10, what="node.json")


def test_it_fills_the_cache_and_everything_says_the_same(
    root: Path, tmp_path: Path, hub: HubServer
) -> None:
    commit = hub.add_repo("org/a", FILES)
    catalog = catalog_of(tmp_path, {"name": "a", "uri": "hf://org/a", "priority": 3})
    with agent(root, catalog, hub) as running:
        running.wait_ready("a")
        assert running.get("/livez") == running.get("/readyz") == "ok\n"
        node = wait_written(running, root)
        metrics = metric_values(running.get("/metrics"))
        labels = modelcache("labels", "--root", root).stdout.split()
        assert running.terminate() == 0
    labelled = {"modelcache.dev/model.a": "Ready", "modelcache.dev/revision.a": commit[:12]}
    assert node["status"]["labels"] == labelled
    assert dict(label.split("=") for label in labels) == labelled
    assert node["status"]["conditions"][0]["status"] == "True"
    assert metrics['modelcache_model_state{model="a",state="Ready"}'] == 1
    assert metrics['modelcache_received_bytes_total{origin="hf"}'] == 3 * MIB + 2
    assert metrics['modelcache_fetches_total{origin="hf",reason=""}'] == 1
    assert metrics["modelcache_disk_used_bytes"] == 3 * MIB + 2
    assert metrics["modelcache_catalog_objects"] == 1
    assert (root / "models/a/current/config.json").read_bytes() == b"{}"


def test_a_restart_is_ready_at_once_without_a_request(
    root: Path, tmp_path: Path, hub: HubServer
) -> None:
    hub.add_repo("org/a", FILES)
    catalog = catalog_of(tmp_path, {"name": "a", "uri": "hf://org/a"})
    with agent(root, catalog, hub, "--residency-seconds", "0") as first:
        first.wait_ready("a")
        before = wait_written(first, root)
        assert first.terminate() == 0
    stopped = (root / "node.json").stat().st_ino
    hub.clear_requests()
    with agent(root, catalog, hub, "--residency-seconds", "0") as second:
        second.wait_ready("a")
        assert second.model("a") == before["status"]["models"][0]
        assert second.node()["status"]["labels"] == before["status"]["labels"]
        assert second.terminate() == 0
    after = written(root)
    assert after["status"]["labels"] == before["status"]["labels"]
    assert after["status"]["conditions"] == before["status"]["conditions"]
    assert (root / "node.json").stat().st_ino != stopped, "the agent wrote it again"
    assert hub.requests == []


def test_the_catalog_is_followed(root: Path, tmp_path: Path, hub: HubServer) -> None:
    hub.add_repo("org/a", FILES)
    second = hub.add_repo("org/b", {"config.json": b'{"b": 1}'})
    catalog = catalog_of(tmp_path, {"name": "a", "uri": "hf://org/a"})
    with agent(root, catalog, hub) as running:
        running.wait_ready("a")
        catalog_of(tmp_path, {"name": "b", "uri": "hf://org/b"})
        running.wait_ready("b")
        assert running.model("a")["wanted"] is False
        assert not any(key.endswith(".a") for key in running.node()["status"]["labels"])
        catalog_of(tmp_path, {"name": "a", "uri": "hf://org/b"}, {"name": "b", "uri": "hf://org/b"})
        running.wait_for_event("model.ready", model="a", revision=second[:12])
        assert running.model("a")["source"] == "hf://org/b"


def test_a_broken_document_keeps_its_object_also_over_a_restart(
    root: Path, tmp_path: Path, hub: HubServer
) -> None:
    hub.add_repo("org/a", FILES)
    catalog = catalog_of(tmp_path, {"name": "a", "uri": "hf://org/a", "priority": 7})
    with agent(root, catalog, hub) as running:
        running.wait_ready("a")
        labels = wait_written(running, root)["status"]["labels"]
        catalog.write_text("kind: [")
        running.wait_for_event("catalog.problem")
        assert running.model("a")["wanted"] is True
        assert running.node()["status"]["catalog"]["problemCount"] == 1
        running.terminate()
    with agent(root, catalog, hub) as running:
        running.wait_ready("a")
        again = running.model("a")
        assert (again["state"], again["wanted"], again["priority"]) == ("Ready", True, 7)
        assert running.node()["status"]["labels"] == labels
        with pytest.raises(urllib.error.HTTPError, match="503"):
            running.get("/readyz")
        assert running.get("/livez") == "ok\n"
        running.terminate()


def test_bad_models_hold_up_no_good_one(root: Path, tmp_path: Path, hub: HubServer) -> None:
    for name in ("good", "stalls", *(f"hangs{n}" for n in range(5))):
        hub.add_repo(f"org/{name}", FILES)
    hub.add_repo("org/gated", FILES, gated=True, token="hf_other")
    hub.fault_api(Stall(times=None), "*hangs*")
    hub.fault("org/stalls/*", Stall(after=0, times=None))
    bad = ["gated", "missing", "stalls", *(f"hangs{n}" for n in range(5))]
    catalog = catalog_of(
        tmp_path,
        *({"name": name, "uri": f"hf://org/{name}", "priority": 9} for name in bad),
        {"name": "good", "uri": "hf://org/good"},
    )
    with agent(root, catalog, hub) as running:
        running.wait_ready("good", timeout=40)

        def failed(name: str, reason: str) -> dict[str, Any]:
            # Not at every moment: it may be to fail yet, or be tried again.
            return eventually(
                lambda: running.model(name),
                lambda found: (found["state"], found.get("reason")) == ("Failed", reason),
                what=f"the failure of {name}",
            )

        missing, gated = failed("missing", "NotFound"), failed("gated", "AuthFailed")
        assert missing["message"]
        assert missing["retryAt"]
        assert "is gated" in gated["message"]
        eventually(
            lambda: running.node()["status"]["conditions"][0],
            lambda seen: (seen["status"], seen["reason"]) == ("False", "ModelsFailing"),
            what="the condition",
        )
        began = time.monotonic()
        assert running.terminate() == 0
        assert time.monotonic() - began < 5


def test_priority_goes_first(root: Path, tmp_path: Path, hub: HubServer) -> None:
    names = ["low", "middle", "high"]
    for name in names:
        hub.add_repo(f"org/{name}", {"f.json": name.encode()})
    catalog = catalog_of(
        tmp_path,
        *(
            {"name": name, "uri": f"hf://org/{name}", "priority": priority}
            for priority, name in enumerate(names)
        ),
    )
    # One at a time: while it waits for the first, the others are resolved.
    resolved = threading.Event()
    hub.fault("org/*", Stall(after=0, until=resolved))
    with agent(root, catalog, hub, "--models-at-once", "1") as running:
        eventually(
            lambda: [running.model(name).get("revision") for name in names], all, what="revisions"
        )
        resolved.set()
        running.wait_ready(*names)
        begun = [e["model"] for e in running.events if e["event"] == "fetch.started"]
    # Whichever was resolved first has begun before there was a choice.
    assert begun[1:] == sorted(begun[1:], key=names.index, reverse=True)


def test_a_stop_in_a_stalled_download_loses_nothing(
    root: Path, tmp_path: Path, hub: HubServer
) -> None:
    size = 64 * MIB
    hub.add_repo("org/big", {"model.safetensors": GeneratedContent(size, seed=3)})
    hub.set_rate(40 * MIB)
    catalog = catalog_of(tmp_path, {"name": "big", "uri": "hf://org/big"})
    with agent(root, catalog, hub) as running:
        assert hub.wait_until(lambda _: hub.bytes_sent() > size // 2, 30)
        hub.set_rate(1.0)
        began = time.monotonic()
        assert running.terminate() == 0
        assert time.monotonic() - began < 5
        assert "Traceback" not in running.log
    stopped = written(root)["status"]["models"][0]
    assert stopped["state"] != "Ready"
    hub.set_rate(None)
    with agent(root, catalog, hub) as running:
        running.wait_ready("big")
        resumed = running.wait_for_event("fetch.ended")["received_bytes"]
    assert resumed < size - size // 4
    assert hub.bytes_sent() < 1.3 * size


def test_two_agents_on_one_root(root: Path, tmp_path: Path, hub: HubServer) -> None:
    hub.add_repo("org/a", FILES)
    hub.add_repo("org/b", {"weights.safetensors": GeneratedContent(20 * MIB, seed=9)})
    hub.set_rate(10 * MIB)
    catalog = catalog_of(
        tmp_path, {"name": "a", "uri": "hf://org/a"}, {"name": "b", "uri": "hf://org/b"}
    )
    with agent(root, catalog, hub) as old, agent(root, catalog, hub) as new:
        old.wait_ready("a", "b")
        new.wait_ready("a", "b")
        assert old.terminate() == 0
        assert new.model("b")["state"] == "Ready"
        assert new.terminate() == 0
    assert hub.bytes_sent() < 1.3 * (23 * MIB + 2)
    assert modelcache("verify", "--root", root).returncode == 0


def test_two_agents_that_want_different_things_take_nothing_from_each_other(
    root: Path, tmp_path: Path, hub: HubServer
) -> None:
    """What the other was told to fetch isn't known. When it ends, however, the one goes on."""
    catalogs = []
    for name in ("first", "second"):
        hub.add_repo(f"org/{name}", {"weights.safetensors": name.encode() * MIB})
        model = {"name": name, "uri": f"hf://org/{name}"}
        catalogs.append(write_catalog(tmp_path / f"{name}.yaml", model))
    flags = ("--capacity", "10Mi", "--delete-unwanted-after", "0s")
    with agent(root, catalogs[0], hub, *flags) as first:
        first.wait_ready("first")
        with agent(root, catalogs[1], hub, *flags) as second:
            others = second.wait_for_event("agents.several")["others"]
            assert others == [f"process {first.process.pid} of {socket.gethostname()}"]

            refused = second.wait_failed("second")
            assert refused["reason"] == "InsufficientDisk"
            assert "it may be in use: another agent is at work" in refused["message"]
            assert first.model("first")["state"] == "Ready"
            first.kill()
            second.wait_ready("second")
            assert second.terminate() == 0
    assert hub.bytes_sent() < 1.3 * 12 * MIB


def test_no_secret_is_printed(root: Path, tmp_path: Path, hub: HubServer) -> None:
    token = "hf_" + "S3CR3T" * 4
    hub.add_repo("org/mine", FILES, token=token)
    hub.add_repo("org/gated", FILES, gated=True, token="hf_other")
    hub.fault("org/mine/*", Stall(after=10, until=0.1))
    secrets = tmp_path / "secrets"
    (secrets / "mine").mkdir(parents=True)
    (secrets / "mine/token").write_text(token)
    (secrets / "mine/hosts").write_text("127.0.0.1")
    catalog = catalog_of(
        tmp_path,
        {"name": "mine", "uri": "hf://org/mine", "secretName": "mine"},
        {"name": "gated", "uri": "hf://org/gated", "secretName": "mine"},
        {"name": "none", "uri": "hf://org/mine", "secretName": "absent"},
    )
    with agent(
        root, catalog, hub, "--secrets-dir", str(secrets), "--log-level", "debug"
    ) as running:
        running.wait_ready("mine")
        running.wait_for_event("model.failed", model="gated")
        running.wait_for_event("model.failed", model="none")
        said = running.log + running.get("/metrics") + json.dumps(running.node())
        running.terminate()
    assert token not in said + (root / "node.json").read_text()
    assert "Signature=" not in said
    assert all("authorization" not in line.lower() for line in said.splitlines())


def test_the_port_that_is_taken_ends_it(root: Path, tmp_path: Path, hub: HubServer) -> None:
    taken = hub.url.removeprefix("http://")
    catalog = catalog_of(tmp_path, {"name": "a", "uri": "hf://org/a"})
    ended = modelcache("agent", "--root", root, "--catalog", catalog, "--listen", taken)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith(f"modelcache: can't listen on {taken}")
    assert "Traceback" not in ended.stderr
