"""Origins that lie: never a wrong byte is committed, the reason is told, and it heals by itself."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from modelcache.store import Store
from tests.support.agent import AgentProcess, write_catalog
from tests.support.hub import (
    BytesContent,
    Content,
    Fault,
    FlipBit,
    GeneratedContent,
    HubServer,
    IgnoreRange,
    Replace,
    Reset,
    ShortBody,
    Stall,
    Status,
    WrongContentRange,
    WrongLength,
)

MIB = 1024 * 1024
SIZE = 10 * MIB + 77
"""More than one range, and more than what is fetched without a journal."""
WEIGHTS = "model.safetensors"
CONFIG = b'{"model_type": "llama", "rope_theta": 500000.0}'


@dataclass(frozen=True)
class Lie:
    """What is wrong with one file of one model, and which reason the model then fails for."""

    file: str
    faults: tuple[Fault, ...]
    reason: str = ""


def forever(fault: Fault, reason: str, file: str = WEIGHTS) -> Lie:
    return Lie(file, (fault,), reason)


OTHER = GeneratedContent(SIZE, seed=99)

# Each until the origin heals.
LASTING = {
    "flipped": forever(FlipBit(9 * MIB + 5, bit=3, times=None), "ChecksumMismatch"),
    "flipped-last": forever(FlipBit(SIZE - 1, times=None), "ChecksumMismatch"),
    "flipped-small": forever(FlipBit(3, times=None), "ChecksumMismatch", "config.json"),
    "no-body": forever(ShortBody(after=0, times=None), "OriginUnavailable"),
    "no-body-small": forever(ShortBody(after=0, times=None), "OriginUnavailable", "config.json"),
    "longer": forever(WrongLength(5, times=None), "OriginUnavailable"),
    "shorter": forever(WrongLength(-5, times=None), "OriginUnavailable"),
    "longer-small": forever(WrongLength(5, times=None), "OriginUnavailable", "config.json"),
    "shorter-small": forever(WrongLength(-5, times=None), "OriginUnavailable", "config.json"),
    "other-range": forever(WrongContentRange(16, times=None), "OriginUnavailable"),
    "replaced": forever(Replace(OTHER), "OriginUnavailable"),
    "replaced-small": forever(
        Replace(BytesContent(CONFIG + b"999")), "ChecksumMismatch", "config.json"
    ),
    "gone": forever(Status(404, times=None), "NotFound"),
    "forbidden": forever(Status(403, times=None), "AuthFailed"),
}

# Over before the fetch gives up: the model gets ready without a failure.
PASSING = {
    "flipped-once": Lie(WEIGHTS, (FlipBit(SIZE // 2),)),
    "ends-early": Lie(WEIGHTS, (ShortBody(after=3 * MIB), ShortBody(after=MIB + 1))),
    "ends-early-small": Lie("config.json", (ShortBody(after=7), ShortBody(after=5))),
    "cut": Lie(WEIGHTS, (Reset(after=2 * MIB + 3), Reset(after=0))),
    "ignores-ranges": Lie(WEIGHTS, (IgnoreRange(times=None),)),
    "shifted-once": Lie(WEIGHTS, (WrongContentRange(-4),)),
    "busy": Lie(WEIGHTS, (Status(503, times=2), Status(429, retry_after=0))),
}


def contents(seed: int) -> dict[str, Content]:
    # A size and a config of its own for each: nothing is shared between models.
    return {
        WEIGHTS: GeneratedContent(SIZE, seed=seed),
        "config.json": BytesContent(CONFIG + b"%03d" % seed),
    }


def test_an_origin_that_lies_until_it_heals(tmp_path: Path) -> None:
    root = tmp_path / "root"
    lies = LASTING | PASSING
    repos = {name: contents(seed) for seed, name in enumerate(lies)}
    with HubServer() as hub:
        for name, files in repos.items():
            hub.add_repo(f"org/{name}", dict(files))
            for fault in lies[name].faults:
                hub.fault(f"org/{name}/{lies[name].file}", fault)
        catalog = write_catalog(
            tmp_path / "catalog.yaml",
            *({"name": name, "uri": f"hf://org/{name}"} for name in repos),
        )
        with AgentProcess(
            root, catalog, "--models-at-once", "64", env={"HF_ENDPOINT": hub.url}
        ) as agent:
            agent.wait_ready(*PASSING)
            for name, lie in LASTING.items():
                # While it is tried again it is downloading, with the reason of the last try.
                report = agent.wait_failed(name, 120)
                assert report["state"] in ("Failed", "Resolving", "Downloading"), report
                assert report["reason"] == lie.reason, report
                assert report["message"]
            wait_written(root, {name: lie.reason for name, lie in lies.items()})
            assert {path.name for path in (root / "models").iterdir()} == PASSING.keys()
            assert {path.name for path in (root / "manifests").iterdir()} == PASSING.keys()
            only_right_bytes(root, repos.values())
            hub.clear_faults()
            agent.wait_ready(*LASTING, timeout=120)
            assert not [
                e["model"]
                for e in agent.events
                if e["event"] == "model.failed" and e["model"] in PASSING
            ]
            assert agent.terminate() == 0
    whole(root, repos)


def test_an_object_that_changes_half_way(tmp_path: Path) -> None:
    """The URL's content is another once some of the old has come: the two never mix."""
    root = tmp_path / "root"
    names = ["same-size", "other-size", "same-size-too"]
    repos = {name: contents(seed) for seed, name in enumerate(names, start=100)}
    new = {
        "same-size": OTHER,
        "other-size": GeneratedContent(SIZE - MIB, seed=98),
        # As bad as it gets: one byte is another, in what hadn't come yet.
        "same-size-too": BytesContent(
            contents(102)[WEIGHTS].data()[:-1] + bytes([contents(102)[WEIGHTS].data()[-1] ^ 1])
        ),
    }
    with HubServer() as hub:
        go_on = threading.Event()
        for name, files in repos.items():
            hub.add_repo(f"org/{name}", dict(files))
            # Every range of it, so that its last byte has not come whichever range was asked first.
            hub.fault(f"org/{name}/{WEIGHTS}", Stall(after=MIB, until=go_on, times=None))
        catalog = write_catalog(
            tmp_path / "catalog.yaml",
            *({"name": name, "uri": f"hf://org/{name}"} for name in repos),
        )
        env = {"HF_ENDPOINT": hub.url}
        with AgentProcess(root, catalog, "--connections", "8", env=env) as agent:
            for name in names:
                pattern = f"org/{name}/{WEIGHTS}"
                assert hub.wait_until(partial(has_sent, hub, pattern), 30), agent.log
            for name in names:
                hub.fault(f"org/{name}/{WEIGHTS}", Replace(new[name]))
            hub.drop_connections()
            go_on.set()
            for name in names:
                report = agent.wait_failed(name)
                assert report["reason"] == "OriginUnavailable", report
            assert not (root / "models").exists() or not list((root / "models").iterdir())
            only_right_bytes(root, repos.values())
            # One heals by being what it was; the others by a new commit.
            after = {name: dict(repos[name]) for name in names}
            for name in names[1:]:
                after[name][WEIGHTS] = new[name]
                hub.commit(f"org/{name}", {WEIGHTS: new[name]})
            # Not before: what was asked for by the old commit would be what it was, and ready.
            agent.wait_ready(*names[1:], timeout=60)
            hub.clear_faults()
            agent.wait_ready(names[0], timeout=60)
            assert agent.terminate() == 0
    whole(root, after)


def has_sent(hub: HubServer, pattern: str, _: object) -> bool:
    """Whether a stalled file has come as far as it will."""
    return hub.bytes_sent(pattern) >= MIB


def wait_written(root: Path, reasons: dict[str, str]) -> None:
    """Wait until `node.json`, which is written once a second, tells these reasons."""
    deadline = time.monotonic() + 10
    while True:
        models = json.loads((root / "node.json").read_text())["status"]["models"]
        found = {model["name"]: model.get("reason", "") for model in models}
        if found == reasons:
            return
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


def only_right_bytes(root: Path, repos: Iterable[dict[str, Content]]) -> None:
    """No blob but those that the origin promised, each with the bytes of its name."""
    promised = {content.sha256() for files in repos for content in files.values()}
    for blob in (root / "blobs").rglob("*"):
        if blob.is_file():
            assert blob.name in promised
            assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name


def whole(root: Path, repos: dict[str, dict[str, Content]]) -> None:
    """Every model is there, byte for byte."""
    store = Store(root)
    assert {manifest.model for manifest in store.manifests()} == repos.keys()
    for manifest in store.manifests():
        assert store.verify(manifest) == []
    for name, files in repos.items():
        for file, content in files.items():
            with (root / "models" / name / "current" / file).open("rb") as view:
                found = hashlib.file_digest(view, "sha256").hexdigest()
            assert found == content.sha256(), (name, file)
