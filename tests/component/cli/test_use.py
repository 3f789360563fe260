"""evict, show and ls of what is in use; leases, from the command line."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from modelcache.api import DiskReport, ModelReport, ModelState, NodeCache, NodeCacheStatus
from modelcache.api.nodecache import NodeMeta
from modelcache.host.openfiles import NotToldWhether
from modelcache.store import Store
from tests.support.agent import AgentProcess
from tests.support.cluster.waiting import eventually
from tests.support.store import COMMIT, OTHER_COMMIT, put
from tests.support.strangers import Stranger
from tests.unit.cli.conftest import Command, command

__all__ = ["command"]

FILES = {"config.json": b"{}", "weights.safetensors": b"w" * 10_000}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "root")
    put(store, "tiny", FILES)
    return store


@pytest.fixture
def root(store: Store) -> Path:
    return store.layout.root


def held(root: Path) -> set[str]:
    return {manifest.model for manifest in Store(root).manifests()}


# In use


def test_evict_refuses_what_a_process_has_open_and_names_it(command: Command, root: Path) -> None:
    with Stranger(root / "models/tiny/current/weights.safetensors", kind="mapped") as stranger:
        ended = command("evict", "tiny", "--root", root)
        assert ended.code == 8
        assert f"tiny is in use: process {stranger.pid} (python" in ended.mistake
        assert "has 1 of its files open" in ended.mistake
        assert "--force" in ended.mistake
        assert held(root) == {"tiny"}
        document = json.loads(command("evict", "tiny", "--root", root, "-o", "json").out)
        assert (document["kind"], document["reason"]) == ("Error", "InUse")
        assert command("evict", "tiny", "--force", "--root", root).code == 0
        assert held(root) == set()


def test_evict_removes_what_is_used_no_more(command: Command, root: Path) -> None:
    with Stranger(root / "models/tiny/current/config.json"):
        assert command("evict", "tiny", "--root", root).code == 8
    assert command("evict", "tiny", "--root", root).code == 0
    assert held(root) == set()


def test_evict_refuses_where_it_can_t_be_told(
    command: Command, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hidden(path: Path) -> bool:
        raise NotToldWhether(str(path))

    monkeypatch.setattr("modelcache.service.using.is_open", hidden)
    monkeypatch.setattr("modelcache.host.openfiles._hidden", lambda _: "there is more")
    ended = command("evict", "tiny", "--root", root)
    assert ended.code == 8
    assert "tiny may be in use: it can't be told who has files open: there is more" in ended.mistake
    assert held(root) == {"tiny"}
    assert command("evict", "tiny", "--force", "--root", root).code == 0


def test_show_says_who_uses_it(command: Command, root: Path) -> None:
    assert "Used by" not in command("show", "tiny", "--root", root).out
    with Stranger(root / "models/tiny/current/config.json") as stranger:
        out = command("show", "tiny", "--root", root).out
        document = command("show", "tiny", "--root", root, "-o", "json").document
    assert f"Used by:      process {stranger.pid} (python" in out
    (user,) = [u for u in document["use"]["users"] if str(stranger.pid) in u["name"]]
    assert user["kind"] == "process"
    assert document["use"]["unknown"] is None


# What an agent knows


def reported(root: Path, **fields: object) -> None:
    """An agent's last report."""
    model = ModelReport(name="tiny", state=ModelState.READY, **fields)  # type: ignore[arg-type]
    status = NodeCacheStatus(
        agent_version="1",
        root=str(root),
        models=(model,),
        disk=DiskReport(capacity=1, available=1, used=1, reserved=0),
    )
    document = NodeCache(metadata=NodeMeta(name="n"), status=status).to_document()
    (root / "node.json").write_text(json.dumps(document))


def test_evict_heeds_the_pods_that_an_agent_knows_of(command: Command, root: Path) -> None:
    reported(root, used_by=2)
    ended = command("evict", "tiny", "--root", root)
    assert ended.code == 8
    assert "tiny is in use by 2, as the agent last reported" in ended.mistake
    shown = command("show", "tiny", "--root", root).out
    assert "Used by:      2, as the agent last reported" in shown
    reported(root, last_used_at=datetime.now(UTC))
    assert command("evict", "tiny", "--root", root).code == 0


def test_ls_and_show_tell_the_last_use(command: Command, root: Path) -> None:
    reported(root, used_by=1)
    header, row = command("ls", "--root", root).out.splitlines()
    column = header.index("USED")
    assert row[column:].split()[0] == "now"
    last = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=5, seconds=3)
    reported(root, last_used_at=last)
    row = command("ls", "--root", root).out.splitlines()[1]
    assert row[column:].split()[0] == "5h"
    assert f"Last used:    {last.isoformat()}" in command("show", "tiny", "--root", root).out


def test_an_agent_reports_and_notes_what_is_in_use(root: Path, tmp_path: Path) -> None:
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text("")
    with (
        Stranger(root / "models/tiny/current/weights.safetensors"),
        AgentProcess(root, catalog) as agent,
    ):
        eventually(lambda: agent.model("tiny")["usedBy"] == 1)
    (manifest,) = Store(root).manifests()
    assert Store(root).last_use.of("tiny", manifest.snapshot) is not None


# Leases


def test_a_lease_keeps_a_model_until_it_is_released(command: Command, root: Path) -> None:
    flags = ("--for", "2h", "--holder", "the nightly bench", "--root", root)
    lease = command("lease", "tiny", *flags).out.strip()
    ended = command("evict", "tiny", "--root", root)
    assert ended.code == 8
    assert f"lease {lease} holds it until" in ended.mistake
    header, row = command("leases", "--root", root).out.splitlines()
    assert header.split() == ["ID", "NAME", "REVISION", "HOLDER", "EXPIRES"]
    assert row.split()[:3] == [lease, "tiny", "any"]
    assert "the nightly bench" in row
    assert command("release", lease, "--root", root).out == f"{lease}: released\n"
    assert command("leases", "--root", root).out == "There are no leases.\n"
    assert command("release", lease, "--root", root).code == 4
    assert command("evict", "tiny", "--root", root).code == 0


def test_a_lease_of_one_revision(command: Command, store: Store, root: Path) -> None:
    old = put(store, "two", FILES, commit=COMMIT)
    put(store, "two", {"w": b"n"}, commit=OTHER_COMMIT)
    flags = ("--for", "30d", "--root", root, "-o", "json")
    document = command("lease", "two", "--revision", COMMIT[:7], *flags).document
    assert (document["kind"], document["snapshot"]) == ("Lease", old.snapshot)
    (listed,) = command("leases", "--root", root, "-o", "json").document["items"]
    assert listed == {key: document[key] for key in listed}
    until = datetime.fromisoformat(document["expiresAt"]) - datetime.now(UTC)
    assert timedelta(days=29, hours=23) < until <= timedelta(days=30)
    assert command("release", document["id"], "--root", root, "-o", "json").document["id"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["lease", "tiny", "--for", "soon"], 2, "90s, 10m, 1h30m or 2d"),
        (["lease", "tiny", "--for", "31d"], 2, "up to 30 days"),
        (["lease", "tiny", "--for", "0s"], 2, "up to 30 days"),
        (["lease", "tiny"], 2, "--for"),
        (["lease", "unheard-of", "--for", "1h"], 4, "there is tiny"),
        (["lease", "tiny", "--for", "1h", "--revision", "nothing"], 4, "has no revision"),
        (["release", "../layout"], 4, "modelcache leases lists them"),
    ],
)
def test_mistakes(command: Command, root: Path, arguments: list[str], code: int, said: str) -> None:
    ended = command(*arguments, "--root", root)
    assert ended.code == code
    assert said in ended.mistake
    assert not (root / "leases").exists() or not list((root / "leases").iterdir())


def test_a_lease_that_can_t_be_read_is_listed_and_can_be_released(
    command: Command, root: Path
) -> None:
    (root / "leases").mkdir()
    (root / "leases" / "torn.json").write_text("{")
    assert "can't be read: it may hold any" in command("leases", "--root", root).out
    assert "lease torn can't be read" in command("evict", "tiny", "--root", root).mistake
    assert command("release", "torn", "--root", root).code == 0
    assert command("evict", "tiny", "--root", root).code == 0
