"""Real consumers read the views: huggingface_hub offline, and safetensors, on a read-only mount."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from tests.support.agent import AgentProcess, modelcache, write_catalog
from tests.support.consumers import Question, digests, read
from tests.support.hub import HubServer, Source

REPO = "org/tiny"
NOBODY = 65534
SHARDS = {
    f"model-0000{n}-of-00002.safetensors": {
        f"layers.{n}.weight": np.random.default_rng(n).standard_normal((96, 64)).astype(np.float32)
    }
    for n in (1, 2)
}
FILES: dict[str, bytes] = {
    **{name: save(tensors) for name, tensors in SHARDS.items()},
    "config.json": b'{"model_type": "llama", "hidden_size": 64}',
    "tokenizer.json": b'{"version": "1.0", "model": {"type": "BPE"}}',
    "tokenizer_config.json": b"{}",
    "empty.txt": b"",
    "adapters/lora/adapter_config.json": b'{"r": 16}',
    "adapters/lora/adapter_model.safetensors": save({"a": np.arange(12, dtype=np.int64)}),
}


@contextmanager
def read_only(folder: Path) -> Iterator[Path]:
    """The folder, bind-mounted read-only where every user may look."""
    with ExitStack() as undo:
        place = Path(undo.enter_context(tempfile.TemporaryDirectory()))
        place.chmod(0o755)
        mounted = place / "mounted"
        mounted.mkdir()
        subprocess.run(["mount", "--bind", folder, mounted], check=True)
        # Lazily, so that whatever still has a file open, nothing stays mounted.
        undo.callback(lambda: subprocess.run(["umount", "--lazy", mounted], check=True))
        subprocess.run(["mount", "-o", "remount,ro,bind", mounted], check=True)
        yield mounted


@contextmanager
def umask(mask: int) -> Iterator[None]:
    """Another umask, for the processes that are started meanwhile."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


def add(hub: HubServer, files: dict[str, bytes] | None = None) -> str:
    contents: dict[str, Source] = dict(FILES if files is None else files)
    return hub.add_repo(REPO, contents)


def fill(root: Path, tmp_path: Path, hub: HubServer, *models: dict[str, Any], mask: int) -> None:
    """Have an agent bring models into the root, and end."""
    catalog = write_catalog(tmp_path / "catalog.yaml", *models)
    with (
        umask(mask),
        AgentProcess(root, catalog, env={"HF_ENDPOINT": hub.url}) as agent,
    ):
        agent.wait_ready(*(model["name"] for model in models))
        assert agent.terminate() == 0


@pytest.mark.root
@pytest.mark.parametrize("uid", [0, NOBODY], ids=["root", "nobody"])
@pytest.mark.parametrize("mask", [0o022, 0o077], ids=["umask-022", "umask-077"])
def test_consumers_on_a_read_only_mount(
    tmp_path: Path, hub: HubServer, mask: int, uid: int
) -> None:
    commit = add(hub)
    root = tmp_path / "root"
    fill(root, tmp_path, hub, {"name": "tiny", "uri": f"hf://{REPO}"}, mask=mask)
    hub.clear_requests()
    whole = digests(FILES)
    with read_only(root) as mounted:
        current = mounted / "models" / "tiny" / "current"
        wanted: list[tuple[Question, Any]] = [
            (("write", {"path": str(mounted)}), {"error": "OSError"}),
            (("snapshot", {"repo_id": REPO}), whole),
            (("snapshot", {"repo_id": REPO, "revision": "main"}), whole),
            (("snapshot", {"repo_id": REPO, "revision": commit}), whole),
            (
                ("snapshot", {"repo_id": REPO, "revision": "other"}),
                {"error": "LocalEntryNotFoundError"},
            ),
            (("snapshot", {"repo_id": "org/other"}), {"error": "LocalEntryNotFoundError"}),
            *(
                (("file", {"repo_id": REPO, "filename": name, **revision}), whole[name])
                for name in FILES
                for revision in ({}, {"revision": "main"}, {"revision": commit})
            ),
            (
                ("file", {"repo_id": REPO, "filename": "no.json"}),
                {"error": "LocalEntryNotFoundError"},
            ),
            (
                ("scan", {"path": str(mounted / "hub" / "tiny")}),
                {"warnings": [], "repos": {REPO: {commit: ["main"]}}},
            ),
            (("files", {"given": str(current)}), whole),
            *(
                (
                    ("tensors", {"path": str(current / name)}),
                    {key: tensor.tolist() for key, tensor in tensors.items()},
                )
                for name, tensors in SHARDS.items()
            ),
        ]
        answers = read(
            mounted / "hub" / "tiny",
            *(question for question, _ in wanted),
            hub_url=hub.url,
            uid=uid,
        )
    for (question, expected), answer in zip(wanted, answers, strict=True):
        assert answer == expected, question
    assert hub.requests == []


@pytest.mark.root
def test_each_view_alone_in_a_mount_is_enough(tmp_path: Path, hub: HubServer) -> None:
    """As a pod has them that mounts no more than its model: links may not lead out of a view."""
    commit = add(hub)
    root = tmp_path / "root"
    done = modelcache(
        *("prefetch", f"hf://{REPO}", "--name", "tiny", "--root", root),
        env={"HF_ENDPOINT": hub.url},
    )
    assert done.returncode == 0, done.stderr
    hub.clear_requests()
    with read_only(root / "hub" / "tiny") as cache, read_only(root / "models" / "tiny") as model:
        answers = read(
            cache,
            ("snapshot", {"repo_id": REPO}),
            ("scan", {"path": str(cache)}),
            ("files", {"given": str(model / "current")}),
            hub_url=hub.url,
            uid=NOBODY,
        )
    assert answers == [
        digests(FILES),
        {"warnings": [], "repos": {REPO: {commit: ["main"]}}},
        digests(FILES),
    ]
    assert hub.requests == []


def test_a_branch_and_its_commit_lead_to_one_snapshot(tmp_path: Path, hub: HubServer) -> None:
    add(hub)
    commit = hub.commit(REPO, {"config.json": b'{"v": 2}'}, branch="v2")
    root = tmp_path / "root"
    fill(root, tmp_path, hub, {"name": "tiny", "uri": f"hf://{REPO}@v2"}, mask=0o022)
    hub.clear_requests()
    whole = digests({**FILES, "config.json": b'{"v": 2}'})
    cache = root / "hub" / "tiny"
    answers = read(
        cache,
        ("snapshot", {"repo_id": REPO, "revision": "v2"}),
        ("snapshot", {"repo_id": REPO, "revision": commit}),
        ("snapshot", {"repo_id": REPO}),
        ("scan", {"path": str(cache)}),
        hub_url=hub.url,
    )
    assert answers == [
        *[whole] * 3,
        {"warnings": [], "repos": {REPO: {commit: ["main", "v2"]}}},
    ]
    assert hub.requests == []
