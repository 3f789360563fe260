"""modelcache status and explain beside a real agent, and after its end."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelcache.store import Store
from tests.support.agent import AgentProcess, modelcache, write_catalog
from tests.support.hub import GeneratedContent, HubServer

MIB = 1 << 20


@pytest.fixture
def agent(hub: HubServer, tmp_path: Path) -> Iterator[AgentProcess]:
    """One model that is ready, one that moves, slowly, and one that there isn't."""
    hub.add_repo("org/small", {"config.json": b"{}", "model.safetensors": b"x" * MIB})
    hub.add_repo("org/large", {"model.safetensors": GeneratedContent(512 * MIB, seed=1)})
    hub.set_rate(4 * MIB)
    catalog = write_catalog(
        tmp_path / "catalog.yaml",
        {"name": "small", "uri": "hf://org/small", "priority": 9},
        {"name": "large", "uri": "hf://org/large"},
        {"name": "gone", "uri": "hf://org/gone"},
    )
    with AgentProcess(tmp_path / "root", catalog, env={"HF_ENDPOINT": hub.url}) as agent:
        agent.wait_ready("small")
        agent.wait_failed("gone")
        yield agent


def address(agent: AgentProcess) -> str:
    return agent.url.removeprefix("http://")


def asked(*arguments: str | Path) -> dict[str, Any]:
    ended = modelcache("status", "-o", "json", *arguments)
    assert ended.returncode == 0, ended.stdout
    assert ended.stderr == ""
    found: dict[str, Any] = json.loads(ended.stdout)
    assert found["kind"] == "Status"
    return found


def test_the_agent_is_asked_and_where_none_answers_the_root(
    agent: AgentProcess, tmp_path: Path
) -> None:
    ended = modelcache("status", "--agent", address(agent))
    assert ended.returncode == 0
    lines = ended.stdout.splitlines()
    assert lines[1].endswith(f"agent 0.1.0 at {address(agent)}")
    assert "1 of 3 models ready, 1 failing, 1 on the way" in ended.stdout
    table = ended.stdout.partition("MODEL")[2].splitlines()[1:4]
    assert [line.split()[:2] for line in table] == [
        ["gone", "Failed"],
        ["large", "Downloading"],
        ["small", "Ready"],
    ]
    assert "gone: NotFound" in ended.stdout
    assert "there is no org/gone" in ended.stdout

    found = asked("--agent", address(agent))
    (node,) = found["nodes"]
    assert (node["toldBy"], node["agent"]) == ("Agent", "Up")
    expected = {
        "wanted": 3, "failing": 1, "updateFailing": 0, "onTheWay": 1, "waiting": 0, "ready": 1,
        "unwanted": 0,
    }  # fmt: skip
    assert found["summary"] == node["summary"] == expected
    assert {model["name"] for model in node["status"]["models"]} == {"gone", "large", "small"}

    agent.terminate(10)
    found = asked("--agent", address(agent), "--root", agent.root)
    (node,) = found["nodes"]
    assert (node["toldBy"], node["agent"]) == ("Root", "Down")
    assert node["message"].startswith(f"no agent answers at {address(agent)} (connection refused)")
    assert "last wrote to this root" in node["message"]
    models = {model["name"]: model["state"] for model in node["status"]["models"]}
    assert models["small"] == "Ready"
    assert models["gone"] == "Failed"
    assert node["status"]["disk"]["used"] == MIB + 2


def test_another_root_than_the_agents_is_looked_at_itself(
    agent: AgentProcess, tmp_path: Path
) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"1" * 1000)
    assert modelcache("prefetch", f"file://{folder}", "--root", tmp_path / "other").returncode == 0
    (node,) = asked("--agent", address(agent), "--root", tmp_path / "other")["nodes"]
    assert (node["toldBy"], node["agent"]) == ("Root", "Unknown")
    assert f"works on {agent.root}" in node["message"]
    assert "none has written to this root" in node["message"]
    assert [model["name"] for model in node["status"]["models"]] == ["tiny"]
    # Where nobody has said which root is meant, it is the agent's.
    (node,) = asked("--agent", address(agent))["nodes"]
    assert node["toldBy"] == "Agent"


def test_an_explanation_says_what_happened_and_when_it_is_tried_again(agent: AgentProcess) -> None:
    here = ("--root", agent.root, "--agent", address(agent))
    told = modelcache("explain", "gone", *here).stdout
    assert told.startswith("gone is not here: it could not be fetched.\n")
    facts = dict(line.split(":", 1) for line in told.splitlines()[2:] if line[:1].strip())
    assert "Failed (NotFound): there is no org/gone" in facts["state"]
    assert re.search(r"; [0-9]+ tr(y|ies) failed", facts["state"])
    assert facts["lately"].endswith("NotFound: as in state")
    assert told.count("there is no org/gone") == 1
    assert "ago" in facts["lately"]
    assert "NotFound: " in facts["lately"]
    assert "large" not in facts["lately"]
    found = json.loads(modelcache("explain", "small", *here, "-o", "json").stdout)
    assert "agent" not in found
    assert "ModelReady" in [event["reason"] for event in found["events"]]
    assert {event["about"] for event in found["events"]} == {"small"}

    told = modelcache("explain", "small", "--root", agent.root, "--agent", "127.0.0.1:1").stdout
    assert "agent:    none answers at 127.0.0.1:1 (connection refused): this is what" in told
    assert "lately:" not in told


def test_room_is_told_by_the_limits_that_the_agent_has(hub: HubServer, tmp_path: Path) -> None:
    """They came by flags, which a command beside it doesn't know."""
    hub.add_repo("org/small", {"model.safetensors": b"x" * MIB})
    hub.add_repo("org/huge", {"model.safetensors": GeneratedContent(9 * MIB, seed=1)})
    catalog = write_catalog(
        tmp_path / "catalog.yaml",
        {"name": "small", "uri": "hf://org/small"},
        {"name": "huge", "uri": "hf://org/huge"},
    )
    root, limit = tmp_path / "root", ("--capacity", "8Mi")
    with AgentProcess(root, catalog, *limit, env={"HF_ENDPOINT": hub.url}) as agent:
        agent.wait_ready("small")
        agent.wait_failed("huge")
        here = ("--root", root, "--agent", address(agent))
        assert "of 8.0 MiB taken" in modelcache("status", *here).stdout
        told = modelcache("explain", "huge", *here).stdout
        assert "of the 8.0 MiB that it may" in told
        assert "it needs 9.0 MiB at most, more than the cache may take in all" in told
        assert "there is room now" not in told
        assert "to do:    let the cache take 1.0 MiB more at least" in told
        assert "free " not in told.partition("to do:")[2].partition("lately:")[0]
        assert told.count("are missing, even if all goes that may") == 1
        assert "own limits" not in told
        assert "of the 8.0 MiB that it may" in modelcache("gc", "--dry-run", *here).stdout
        disk = json.loads(modelcache("gc", "--dry-run", *here, "-o", "json").stdout)["disk"]
        assert (disk["toldBy"], disk["budget"]) == ("Agent", 8 * MIB)
        fits = modelcache("gc", "--dry-run", "--room", "8Mi", *here).stdout
        assert "It would not fit" in fits
        Store(tmp_path / "another")
        another = ("--root", tmp_path / "another", "--agent", address(agent))
        told = modelcache("gc", "--dry-run", *another).stdout
        assert "8.0 MiB" not in told
        assert told.count("by this command's own limits") == 1
        disk = json.loads(modelcache("gc", "--dry-run", *another, "-o", "json").stdout)["disk"]
        assert disk["toldBy"] == "Root"
