"""What of a repository is wanted: include lists, formats that run code, names that lead astray."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import snapshot_download
from safetensors.numpy import save

from tests.support.agent import AgentProcess, modelcache, told_failure, write_catalog
from tests.support.consumers import Question, digests, read
from tests.support.hub import HubServer, Source

REPO = "org/tiny"
URI = f"hf://{REPO}"
WEIGHTS = "model.safetensors"
FILES: dict[str, bytes] = {
    WEIGHTS: save({"w": np.arange(1_500_000, dtype=np.float32)}),
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b'{"version": "1.0"}',
    "original/params.json": b'{"dim": 64}',
    "README.md": b"# Tiny\n",
}
MISSING = {"error": "LocalEntryNotFoundError"}


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


def add(hub: HubServer, files: dict[str, bytes], repo: str = REPO) -> str:
    contents: dict[str, Source] = dict(files)
    return hub.add_repo(repo, contents)


def chosen(*globs: str) -> dict[str, bytes]:
    """The files that an include list selects."""
    return {
        name: content
        for name, content in FILES.items()
        if any(fnmatch.fnmatchcase(name, glob) for glob in globs)
    }


@pytest.mark.parametrize("at_once", [1, 8], ids=["in-turn", "side-by-side"])
def test_two_models_of_one_repository(tmp_path: Path, hub: HubServer, at_once: int) -> None:
    commit = add(hub, FILES)
    root = tmp_path / "root"
    lists = {
        "text": ["config.json", "tokenizer*"],
        "weights": ["*.safetensors", "config.json"],
        "nested": ["original/*", "*.safetensors"],
    }
    catalog = write_catalog(
        tmp_path / "catalog.yaml",
        *({"name": name, "uri": URI, "include": globs} for name, globs in lists.items()),
    )
    with AgentProcess(
        root, catalog, "--models-at-once", str(at_once), env={"HF_ENDPOINT": hub.url}
    ) as agent:
        agent.wait_ready(*lists)
        assert agent.terminate() == 0
    for name, content in FILES.items():
        wanted = sum(name in chosen(*globs) for globs in lists.values())
        assert hub.bytes_sent(name) == min(wanted, 1) * len(content), name
    hub.clear_requests()
    for model, globs in lists.items():
        own = chosen(*globs)
        others = sorted(FILES.keys() - own.keys())
        assert offline(root, model, hub, ("snapshot", {"repo_id": REPO})) == [digests(own)]
        assert offline(
            root, model, hub, *(("file", {"repo_id": REPO, "filename": name}) for name in others)
        ) == [MISSING] * len(others)
        assert viewed(root, model) == own
    assert hub.requests == []
    # What two of them share is one file on the disk, in all of their views.
    for name, models in (("config.json", ("text", "weights")), (WEIGHTS, ("weights", "nested"))):
        places = [
            place
            for model in models
            for place in (
                root / "models" / model / "current" / name,
                root / "hub" / model / "models--org--tiny" / "snapshots" / commit / name,
            )
        ]
        assert len({(place.stat().st_dev, place.stat().st_ino) for place in places}) == 1, name


def test_patterns_for_what_a_view_lacks_go_as_with_a_cache_of_huggingface_hub(
    tmp_path: Path, hub: HubServer
) -> None:
    """It lists the commit's whole tree, and so knows what is missing; a view lists what it has."""
    add(hub, FILES)
    root = tmp_path / "root"
    done = prefetch(root, hub, URI, "--name", "small", "--include", "config.json")
    assert done == 0
    own = tmp_path / "own"
    snapshot_download(
        REPO, allow_patterns=["config.json"], cache_dir=own, endpoint=hub.url, token=False
    )
    hub.clear_requests()
    questions: list[Question] = [
        ("snapshot", {"repo_id": REPO, "allow_patterns": ["config.json"]}),
        ("snapshot", {"repo_id": REPO, "allow_patterns": ["*.msgpack"]}),
        ("file", {"repo_id": REPO, "filename": "config.json"}),
        ("file", {"repo_id": REPO, "filename": WEIGHTS}),
        ("snapshot", {"repo_id": REPO, "allow_patterns": [WEIGHTS]}),
    ]
    ours = read(root / "hub" / "small", *questions, hub_url=hub.url)
    theirs = read(own, *questions, hub_url=hub.url)
    assert hub.requests == []
    config = digests(chosen("config.json"))
    assert ours[:4] == theirs[:4] == [config, config, config["config.json"], MISSING]
    # Here only do the two differ. Neither gives out what isn't there.
    assert theirs[4] == {"error": "IncompleteSnapshotError"}
    assert ours[4] == config


def test_another_include_list_on_the_same_object(tmp_path: Path, hub: HubServer) -> None:
    add(hub, FILES)
    root = tmp_path / "root"
    path = tmp_path / "catalog.yaml"
    steps: list[list[str]] = [
        ["config.json", "tokenizer*"],
        ["config.json", "*.safetensors"],
        ["tokenizer*"],
    ]
    write_catalog(path, {"name": "tiny", "uri": URI, "include": steps[0]})
    with AgentProcess(root, path, env={"HF_ENDPOINT": hub.url}) as agent:
        agent.wait_ready("tiny")
        assert offline(root, "tiny", hub, ("snapshot", {"repo_id": REPO})) == [
            digests(chosen(*steps[0]))
        ]
        for number, globs in enumerate(steps[1:], start=2):
            write_catalog(path, {"name": "tiny", "uri": URI, "include": globs})
            agent.wait_for(lambda e: e.get("event") == "fetch.ended", count=number)
            own = chosen(*globs)
            assert (
                offline(
                    root,
                    "tiny",
                    hub,
                    ("snapshot", {"repo_id": REPO}),
                    ("files", {"given": str(root / "models" / "tiny" / "current")}),
                    ("scan", {"path": str(root / "hub" / "tiny")}),
                )[:2]
                == [digests(own)] * 2
            )
        assert agent.terminate() == 0
    assert all(hub.bytes_sent(name) in (0, len(content)) for name, content in FILES.items())


def test_pickles_are_left_out_beside_safetensors(tmp_path: Path, hub: HubServer) -> None:
    unsafe = {
        "pytorch_model.bin": b"\x80\x04pickle",
        "optimizer.pt": b"\x80\x04pickle too",
        "old/model.CKPT": b"\x80\x04pickle three",
    }
    add(hub, {**FILES, **unsafe})
    root = tmp_path / "root"
    assert prefetch(root, hub, URI, "--name", "safe") == 0
    assert offline(root, "safe", hub, ("snapshot", {"repo_id": REPO})) == [digests(FILES)]
    assert sum(map(hub.bytes_sent, unsafe)) == 0
    assert prefetch(root, hub, URI, "--name", "all", "--allow-unsafe-formats") == 0
    assert offline(root, "all", hub, ("snapshot", {"repo_id": REPO})) == [
        digests({**FILES, **unsafe})
    ]


def test_pickles_alone_are_refused_unless_the_object_allows_them(
    tmp_path: Path, hub: HubServer
) -> None:
    files = {"config.json": b"{}", "pytorch_model.bin": b"\x80\x04pickle"}
    add(hub, files)
    root = tmp_path / "root"
    catalog = write_catalog(
        tmp_path / "catalog.yaml",
        {"name": "refused", "uri": URI},
        {"name": "allowed", "uri": URI, "allowUnsafeFormats": True},
        {"name": "without", "uri": URI, "exclude": ["*.bin"]},
    )
    with AgentProcess(root, catalog, env={"HF_ENDPOINT": hub.url}) as agent:
        report = agent.wait_failed("refused")
        agent.wait_ready("allowed", "without")
        assert (report["state"], report["reason"]) == ("Failed", "UnsafeFormat")
        assert "allowUnsafeFormats: true" in report["message"]
        assert "pytorch_model.bin" in report["message"]
        assert agent.terminate() == 0
    assert not (root / "models" / "refused").exists()
    assert not (root / "hub" / "refused").exists()
    assert offline(root, "allowed", hub, ("snapshot", {"repo_id": REPO})) == [digests(files)]
    hub.clear_requests()
    assert failing_prefetch(tmp_path / "other", hub, URI) == "UnsafeFormat"
    assert hub.bytes_sent() == 0


@pytest.mark.parametrize(
    "names",
    [
        ["../x"],
        ["a/../../x"],
        ["/etc/x"],
        ["a\\b"],
        ["C:/x"],
        ["nul\0byte"],
        ["line\nbreak"],
        ["aux.json"],
        ["dot."],
        ["a//b"],
        ["Config.JSON", "config.json"],
        ["stra\u00dfe.txt", "STRASSE.txt"],
        ["a", "a/b"],
        ["n" * 256],
    ],
    ids=lambda names: ascii(names[0])[:20],
)
def test_unsafe_names_before_a_byte_is_fetched(
    tmp_path: Path, hub: HubServer, names: list[str]
) -> None:
    add(hub, {**FILES, **dict.fromkeys(names, b"harm")})
    root = tmp_path / "folder" / "root"
    assert failing_prefetch(root, hub, URI, "--name", "harm") == "UnsafePath"
    assert hub.bytes_sent() == 0
    assert {path.name for path in tmp_path.iterdir()} <= {"folder", "hf-home"}
    assert {path.name for path in root.parent.iterdir()} == {"root"}
    assert not list((root / "models").iterdir())
    # Left out by name, it does no harm.
    excludes = [argument for name in names for argument in ("--exclude", escaped(name))]
    assert prefetch(root, hub, URI, "--name", "harm", *excludes) == 0
    kept = {name: content for name, content in FILES.items() if name not in names}
    assert viewed(root, "harm") == kept


def escaped(name: str) -> str:
    """A glob for one name, as it can be given on a command line."""
    return "".join("?" if c in "\0\\" else c for c in name)


def prefetch(root: Path, hub: HubServer, *arguments: str) -> int:
    done = modelcache("prefetch", *arguments, "--root", root, env={"HF_ENDPOINT": hub.url})
    return done.returncode


def failing_prefetch(root: Path, hub: HubServer, *arguments: str) -> str:
    """The reason of a prefetch that ends with exit code 2."""
    env = {"HF_ENDPOINT": hub.url}
    done = modelcache("prefetch", *arguments, "--root", root, "-o", "json", env=env)
    assert done.returncode == 2
    return told_failure(done.stdout)[0]


def viewed(root: Path, model: str) -> dict[str, bytes]:
    """The files of a model's plain view."""
    current = root / "models" / model / "current"
    files = [path for path in current.rglob("*") if path.is_file()]
    return {path.relative_to(current).as_posix(): path.read_bytes() for path in files}


def offline(root: Path, model: str, hub: HubServer, *questions: Question) -> list[Any]:
    """What a consumer finds in a model's hub view, without asking the hub."""
    return read(root / "hub" / model, *questions, hub_url=hub.url)
