"""modelcache gc and explain, on real roots."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from modelcache.api import DiskReport, ModelReport, ModelState, NodeCache, NodeCacheStatus
from modelcache.api.nodecache import CompileReport, CompileState, NodeMeta, StartReport
from modelcache.errors import Reason
from modelcache.store import Store
from tests.support.store import COMMIT, OTHER_COMMIT, put
from tests.unit.cli.conftest import Command
from tests.unit.cli.test_status import listener

MIB = 1 << 20
LONG_AGO = datetime.now(UTC) - timedelta(hours=3)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A cache with a wanted model in two revisions, and one that nothing wants."""
    store = Store(tmp_path / "root")
    put(store, "wanted", {"w": b"1" * MIB}, commit=COMMIT)
    put(store, "wanted", {"w": b"2" * MIB}, commit=OTHER_COMMIT)
    put(store, "gone", {"w": b"3" * 2 * MIB})
    return store


def tell(store: Store, *models: ModelReport) -> None:
    """What the agent last reported."""
    report = NodeCache(
        metadata=NodeMeta(name="n"),
        status=NodeCacheStatus(
            agent_version="1",
            root=str(store.layout.root),
            models=models,
            disk=DiskReport(capacity=0, available=0, used=0, reserved=0),
        ),
    )
    store.layout.node_report.write_text(json.dumps(report.to_document()))


def ready(name: str, **more: object) -> ModelReport:
    return ModelReport(name=name, state=ModelState.READY, **more)  # type: ignore[arg-type]


def tell_of_compile_caches(store: Store, *caches: CompileReport) -> None:
    """As `tell`, beside the models that it told of."""
    report = NodeCache.model_validate_json(store.layout.node_report.read_bytes())
    assert report.status is not None
    status = report.status.model_copy(update={"compile_caches": caches})
    report = report.model_copy(update={"status": status})
    store.layout.node_report.write_text(json.dumps(report.to_document()))


def held(store: Store) -> set[tuple[str, str]]:
    return {(manifest.model, manifest.snapshot) for manifest in store.manifests()}


UNWANTED = ready("gone", wanted=False, unwanted_since=LONG_AGO)
EVERYTHING = {("wanted", COMMIT), ("wanted", OTHER_COMMIT), ("gone", COMMIT)}


def test_a_dry_run_tells_and_removes_nothing(command: Command, store: Store) -> None:
    tell(store, ready("wanted"), UNWANTED)
    root = store.layout.root
    document = command("gc", "--dry-run", "--root", root, "-o", "json").document
    assert document["kind"] == "CollectResult"
    assert document["dryRun"] is True
    going = {(g["model"], *g["snapshots"]): (g["rule"], g["bytes"]) for g in document["going"]}
    assert going == {
        ("gone", COMMIT): ("Unwanted", 2 * MIB),
        ("wanted", COMMIT): ("OldRevision", MIB),
    }
    (stays,) = document["staying"]
    assert (stays["model"], stays["snapshot"]) == ("wanted", OTHER_COMMIT)
    assert stays["hold"] == "Wanted"
    assert document["frees"] == 3 * MIB
    assert document["disk"]["taken"] > 4 * MIB, "what the root takes, as a NodeCache has it"
    assert "used" not in document["disk"], "of a NodeCache that is the models' content alone"
    assert held(store) == EVERYTHING


def test_it_removes_what_the_dry_run_told(command: Command, store: Store) -> None:
    tell(store, ready("wanted"), UNWANTED)
    said = command("gc", "--root", store.layout.root)
    assert said.code == 0
    assert "3.0 MiB freed." in said.out
    assert held(store) == {("wanted", OTHER_COMMIT)}
    assert not store.layout.model("gone").exists()


def test_without_an_agents_word_all_models_are_wanted(command: Command, store: Store) -> None:
    command("gc", "--root", store.layout.root)
    assert held(store) == EVERYTHING - {("wanted", COMMIT)}


def test_what_was_wanted_until_lately_has_its_time(command: Command, store: Store) -> None:
    # By the clock of now: this module may have been imported half an hour ago.
    since = datetime.now(UTC) - timedelta(seconds=30)
    lately = UNWANTED.model_copy(update={"unwanted_since": since})
    tell(store, ready("wanted"), lately)
    root = store.layout.root
    said = command("gc", "--root", root)
    assert "that is kept until" in said.out
    assert ("gone", COMMIT) in held(store)
    command("gc", "--root", root, "--delete-unwanted-after", "10s")
    assert held(store) == {("wanted", OTHER_COMMIT)}


def test_what_somebody_has_open_stays(command: Command, store: Store) -> None:
    tell(store, ready("wanted"), UNWANTED)
    # Not by this process: what it has open itself counts where nobody else tells who uses what.
    with (store.layout.view("gone", COMMIT) / "w").open("rb") as file:
        os.set_inheritable(file.fileno(), True)
        document = command("gc", "--root", store.layout.root, "-o", "json").document
    (stays,) = (each for each in document["staying"] if each["model"] == "gone")
    assert stays["hold"] in ("InUse", "UseUnknown")
    assert ("gone", COMMIT) in held(store)


def test_what_the_agent_knows_to_be_in_use_stays(command: Command, store: Store) -> None:
    tell(store, ready("wanted"), UNWANTED.model_copy(update={"used_by": 2}))
    said = command("gc", "--root", store.layout.root)
    assert "pod of this node uses it, as its agent last reported" in said.out
    assert ("gone", COMMIT) in held(store)


def test_room_for_a_new_model(
    command: Command, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELCACHE_CAPACITY", "5Mi")
    tell(store, ready("wanted", priority=3), UNWANTED)
    root = store.layout.root
    said = command("gc", "--dry-run", "--room", "2Mi", "--root", root)
    assert "unwanted since" in said.out
    said = command("gc", "--dry-run", "--room", "4Mi", "--priority", "4", "--root", root)
    assert "priority 3, lower than 4" in said.out
    said = command("gc", "--dry-run", "--room", "4Mi", "--priority", "3", "--root", root)
    assert "It would not fit" in said.out
    assert "its priority 3 is not lower than 3" in said.out


@pytest.mark.parametrize("flags", [("--room", "1Gi"), ("--dry-run", "--room", "lots")])
def test_mistakes(command: Command, store: Store, flags: tuple[str, ...]) -> None:
    assert command("gc", *flags, "--root", store.layout.root).code == 2


def test_why_a_model_is_here(command: Command, store: Store) -> None:
    tell(store, ready("wanted", priority=3), UNWANTED)
    said = command("explain", "wanted", "--root", store.layout.root).out
    assert said.startswith("wanted is here, and shown.\n")
    assert "yes, with priority 3" in said
    assert "unless something of a priority above 3 needs its room" in said
    said = command("explain", "gone", "--root", store.layout.root).out
    assert "no: nothing that the agent read asks for it on this node since" in said


def test_why_a_model_is_not_here(
    command: Command, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELCACHE_CAPACITY", "5Mi")
    missing = ModelReport(
        name="new",
        state=ModelState.FAILED,
        priority=3,
        reason=Reason.INSUFFICIENT_DISK,
        message="new needs 4.5 MiB",
        attempts=2,
        bytes_total=9 * MIB // 2,
    )
    tell(store, ready("wanted", priority=3, pinned=True), UNWANTED, missing)
    document = command("explain", "new", "--root", store.layout.root, "-o", "json").document
    assert document["kind"] == "Explanation"
    assert document["verdict"] == "new is not here: there is not enough room for it."
    (holder,) = document["holders"]
    assert (holder["model"], holder["hold"]) == ("wanted", "Pinned")
    assert document["remedies"][0] == "unpin a model"
    assert document["remedies"][-1].startswith("free ")
    facts = {fact["about"]: fact["message"] for fact in document["facts"]}
    assert facts["state"].startswith("Failed (InsufficientDisk): new needs 4.5 MiB; 2 tries failed")
    assert facts["room"].endswith("left, by this command's own limits: no agent told its own")
    assert document["disk"]["toldBy"] == "Root"
    # Larger than all that the cache may take: nothing that others let go helps.
    larger = missing.model_copy(update={"bytes_total": 9 * MIB})
    tell(store, ready("wanted", priority=3, pinned=True), UNWANTED, larger)
    document = command("explain", "new", "--root", store.layout.root, "-o", "json").document
    limits = "--capacity, --keep-free, less of others on its disk"
    assert document["remedies"] == [
        f"let the cache take 4.0 MiB more at least ({limits})",
        "select fewer of its files (include, exclude), or nodes that have more room",
    ]


def test_by_whose_limits_is_said_once(command: Command, store: Store) -> None:
    root = ("--root", store.layout.root, "--agent", "")
    tell(store, ready("wanted"), ModelReport(name="new", state=ModelState.PENDING, bytes_total=9))
    for asked in (("status",), ("gc", "--dry-run"), ("explain", "new")):
        assert command(*asked, *root).out.count("by this command's own limits") == 1, asked
    disk = command("gc", "--dry-run", *root, "-o", "json").document["disk"]
    assert disk["toldBy"] == "Root"
    assert disk["keptFree"] > 0


def test_an_agents_disk_and_what_happened_are_told_beside_what_is_so_now(
    command: Command, store: Store
) -> None:
    def refused(missing: str) -> str:
        return f"new needs 9.0 MiB: {missing} are missing, even if all goes that may; a has 1 MiB"

    new = ModelReport(
        name="new", state=ModelState.FAILED, reason=Reason.INSUFFICIENT_DISK,
        message=refused("4.0 MiB"), bytes_total=9 * MIB,
    )  # fmt: skip
    tell(store, ready("wanted", pinned=True), new)
    before = [
        ("EvictionBlocked", refused("3.9 MiB")),
        ("ModelInsufficientDisk", refused("3.8 MiB")),
    ]
    events = [
        {"at": "2026-11-22T09:10:00Z", "reason": reason, "about": "new", "message": message}
        for reason, message in (*before, ("FetchStarted", "a fetch of 9.0 MiB begins"))
    ]
    disk = {"capacity": 90 * MIB, "available": 0, "used": 0, "reserved": 0, "taken": 1 << 60}
    status = {
        "agentVersion": "1", "root": str(store.layout.root), "items": [],
        "disk": {**disk, "budget": 9 * MIB, "keptFree": 7 * MIB},
    }  # fmt: skip
    body = json.dumps({"metadata": {"name": "n"}, "status": status, "items": events}).encode()
    root = ("--root", store.layout.root)
    with listener(200, body) as where:
        told = command("explain", "new", *root, "--agent", where).out
        found = command("gc", "--dry-run", *root, "--agent", where, "-o", "json").document["disk"]
    lately = told.partition("lately:")[2].splitlines()
    assert [line.partition("ago: ")[2] for line in lately] == [
        "EvictionBlocked: as in state",
        "ModelInsufficientDisk: as in state",
        "FetchStarted: a fetch of 9.0 MiB begins",
    ]
    assert told.count("are missing, even if all goes that may") == 1
    assert "own limits" not in told
    assert (found["toldBy"], found["keptFree"], found["budget"]) == ("Agent", 7 * MIB, 9 * MIB)
    assert (found["taken"], found["others"]) == (1 << 60, 0), "nothing is left for others to take"


def test_what_nobody_knows_is_said_to_be_so(command: Command, store: Store) -> None:
    ended = command("explain", "nothing", "--root", store.layout.root)
    assert ended.code == 4
    assert "nothing wants it here" in ended.mistake


CATALOG = """
apiVersion: modelcache.dev/v1alpha1
kind: CachedModel
metadata: {name: wanted}
spec: {source: {uri: "hf://org/wanted"}, nodeSelector: {gpu: a100}}
"""


def test_whether_the_catalog_places_it_here(command: Command, store: Store, tmp_path: Path) -> None:
    path = tmp_path / "catalog.yaml"
    path.write_text(CATALOG)

    def placed(*flags: str, name: str = "wanted") -> str:
        ended = command("explain", name, "--root", store.layout.root, "--catalog", path, *flags)
        return ended.out + ended.err

    assert "every object is for it" in placed()
    assert "select n1" in placed("--node-name", "n1", "--node-labels", "gpu=a100")
    assert "does not select n1" in placed("--node-name", "n1", "--node-labels", "gpu=h100")
    assert "has no CachedModel other" in placed(name="other")
    assert "is not there" in placed("--catalog", str(tmp_path / "missing"))


def test_an_explanation_tells_of_the_models_compile_caches(command: Command, store: Store) -> None:
    tell(store, ready("wanted"))
    at = datetime(2026, 11, 22, 9, 10, tzinfo=UTC)
    miss = StartReport(result="Miss", at=at, reason="OtherDriver", message="the driver is another")
    tell_of_compile_caches(
        store,
        CompileReport(name="fast", model="wanted", state=CompileState.READY),
        CompileReport(
            name="cold",
            model="wanted",
            state=CompileState.MISSING,
            message="nothing was published for this node's key",
            last_start=miss,
        ),
        CompileReport(name="strange", model="other", state=CompileState.READY),
    )
    ended = command("explain", "wanted", "--root", store.layout.root, "--agent", "")
    lines = [line for line in ended.out.splitlines() if line.startswith("compiled:")]
    assert lines == [
        "compiled: fast: Ready: the next pod here starts from it",
        (
            "compiled: cold: Missing: nothing was published for this node's key; the last start,"
            " 2026-11-22 09:10 UTC: Miss (the driver is another)"
        ),
    ]
    assert "agent:    it was not asked what happened lately: --agent is empty" in ended.out


def leave(store: Store, model: str, key: str = "sha256-left", age: float = 3600.0) -> Path:
    """A partial file of a fetch that ended some time ago."""
    partial = store.ingest.claim(key, MIB, owner=model)
    partial.write(memoryview(b"x" * MIB), 0)
    partial.close()
    folder = store.layout.partials / key
    for path in folder.iterdir():
        os.utime(path, (time.time() - age,) * 2)
    return folder


def test_what_fetches_left_is_told_and_goes_first(command: Command, store: Store) -> None:
    tell(store, ready("wanted"), UNWANTED)
    folder = leave(store, "dropped")
    root = store.layout.root
    document = command("gc", "--dry-run", "--root", root, "-o", "json").document
    first = document["going"][0]
    assert (first["model"], first["rule"]) == ("dropped", "Leftover")
    assert first["snapshots"] == ["partial/sha256-left"]
    assert first["bytes"] >= MIB
    said = command("gc", "--dry-run", "--root", root).out
    assert "(partial)" in said
    assert "left of a fetch that nothing wants, since" in said
    assert folder.exists()
    command("gc", "--root", root)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("model", "age", "why"),
    [
        ("wanted", 3600.0, "its next fetch may go on with it"),
        ("dropped", 60.0, "who fetched it may come back for it until"),
        ("", 3600.0, "it is not known for what it was fetched"),
    ],
)
def test_what_may_be_of_use_stays(
    command: Command, store: Store, model: str, age: float, why: str
) -> None:
    tell(store, ready("wanted"), UNWANTED)
    folder = leave(store, model, age=age)
    assert why in command("gc", "--root", store.layout.root).out
    assert folder.exists()


def test_without_an_agents_word_nothing_is_left_over(command: Command, store: Store) -> None:
    folder = leave(store, "dropped")
    assert "no agent has said here what is wanted" in command("gc", "--root", store.layout.root).out
    assert folder.exists()
