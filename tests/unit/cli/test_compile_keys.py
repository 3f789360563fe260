"""modelcache compile key and diff."""

from __future__ import annotations

import base64
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from modelcache.cli import compilestarts
from modelcache.cli.options import settings
from modelcache.compilecache.bundles.statement import Archive, Envelope, Producer, Statement
from modelcache.compilecache.engines.evidence import Evidence
from modelcache.compilecache.keys.parts import Key
from modelcache.settings.compilerun import CompileRunSettings
from tests.unit.cli.conftest import Command

IMAGE = f"registry.example/vllm@sha256:{'ab' * 32}"
CATALOG = f"""\
apiVersion: modelcache.dev/v1alpha1
kind: CachedModel
metadata: {{name: qwen}}
spec: {{source: {{uri: "hf://Qwen/Qwen3-8B@main"}}}}
---
apiVersion: modelcache.dev/v1alpha1
kind: CompileCache
metadata: {{name: qwen-vllm}}
spec:
  model: qwen
  engine:
    name: vllm
    image: {IMAGE}
    args: [--model, /models/qwen, --max-model-len, "8192", --api-key, S3cret]
    env: [{{name: VLLM_API_KEY, value: S3cret}}, {{name: VLLM_USE_V1, value: "1"}}]
  bundles: {{uri: "s3://bucket/x"}}
"""
LABELS = "nvidia.com/gpu.product=NVIDIA-H100-80GB-HBM3,nvidia.com/gpu.compute.major=9"
DIGEST = f"sha256:{'0' * 64}"


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    file = tmp_path / "catalog.yaml"
    file.write_text(CATALOG)
    return file


def bundle(key: Key, folder: Path) -> Path:
    """A bundle's envelope, unsigned."""
    statement = Statement(
        name="sample",
        key=key,
        archive=Archive(digest=DIGEST, size=1, manifest=DIGEST, files=1, bytes=1),
        producer=Producer(version="0"),
        evidence=Evidence(source="files"),
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    envelope = Envelope(statement=base64.b64encode(statement.to_bytes()).decode())
    folder.mkdir(parents=True)
    (folder / "bundle.json").write_text(json.dumps(envelope.to_document()))
    return folder


def printed(command: Command, file: Path, *arguments: str | Path) -> Key:
    ended = command("compile", "key", "-o", "json", *arguments)
    file.write_text(ended.out)
    key = Key.from_document(ended.document["key"])
    assert ended.document["digest"] == key.digest
    return key


def test_the_key_of_an_object(command: Command, catalog: Path) -> None:
    told = command("compile", "key", "-f", catalog, "--node-labels", LABELS)
    assert told.code == 0
    rows = [line.split() for line in told.out.splitlines()]
    assert rows[0][0] == "Key:"
    assert ["accelerator", "product", "NVIDIA-H100-80GB-HBM3"] in rows
    assert ["model", "id", "hf://Qwen/Qwen3-8B"] in rows
    assert ["model", "revision", "main"] in rows
    assert ["args", "--max-model-len=8192"] in rows
    assert ["paths", "model", "/models/qwen"] in rows
    assert "S3cret" not in told.out
    document = command("compile", "key", "-f", catalog, "--node-labels", LABELS, "-o", "json")
    assert document.document["digest"] == rows[0][1]
    assert "S3cret" not in document.out


@pytest.mark.parametrize("form", ["node", "labels"])
def test_labels_in_a_file(command: Command, catalog: Path, tmp_path: Path, form: str) -> None:
    labels = dict(pair.split("=") for pair in LABELS.split(","))
    file = tmp_path / "node.json"
    node = {"kind": "Node", "metadata": {"name": "a", "labels": labels}}
    file.write_text(json.dumps(node if form == "node" else labels))
    one = command("compile", "key", "-f", catalog, "--node-labels", file)
    assert one == command("compile", "key", "-f", catalog, "--node-labels", LABELS)


def test_the_model_of_the_cache_on_this_machine(
    command: Command, catalog: Path, root: Path, tmp_path: Path
) -> None:
    catalog.write_text(CATALOG.replace("model: qwen", "model: tiny"))
    arguments = ("-f", catalog, "--node-labels", LABELS, "--root", root)
    key = printed(command, tmp_path / "a", *arguments)
    assert key.model.id.startswith("file://")
    assert len(key.model.config) == 64


def test_a_commands(command: Command, tmp_path: Path) -> None:
    line = ("--node-labels", LABELS, "--", sys.executable, "x.py", "--layers", "4")
    key = printed(command, tmp_path / "a", *line)
    assert key.engine.name == "torch"
    assert key.engine.identity.startswith("sha256:")
    assert key.args == ("--layers=4", "--", "x.py")
    given = ("--image", IMAGE, "--cache-dir", "/c", "--trust-domain", "t")
    key = printed(command, tmp_path / "b", *given, *line)
    assert (key.engine.identity, key.trust_domain) == (f"sha256:{'ab' * 32}", "t")
    assert key.paths["cacheDir"] == "/c"
    served = ("--image", IMAGE, "--node-labels", LABELS, "--", "vllm", "serve", "org/name")
    assert printed(command, tmp_path / "c", *served).engine.name == "vllm"


def test_a_commands_key_is_that_of_its_run(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "engines.yaml"
    own.write_text("engines: {mine: {extends: torch, programs: [serve.py]}}")
    monkeypatch.setenv("MODELCACHE_ENGINE_TABLE", str(own))
    monkeypatch.setenv("MODELCACHE_CACHE_DIR", "caches")
    monkeypatch.chdir(tmp_path)
    line = ("--node-labels", LABELS, "--", sys.executable, "serve.py", "vllm")
    key = printed(command, tmp_path / "a", *line)
    assert (key.engine.name, key.paths["cacheDir"]) == ("mine", str(tmp_path / "caches"))


@pytest.mark.parametrize(
    "line",
    [
        ["accelerate", "launch", "train.py"],
        ["python", "train.py", "--name", "vllm"],
        ["sh", "-c", "exec vllm serve org/name"],
        ["my-server", "org/name"],
    ],
)
def test_it_is_the_key_that_a_start_has(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: list[str]
) -> None:
    table = tmp_path / "engines.yaml"
    table.write_text("engines: {mine: {extends: torch, programs: [my-server]}}")
    monkeypatch.setenv("MODELCACHE_ENGINE_TABLE", str(table))
    monkeypatch.setenv("MODELCACHE_CACHE_DIR", "caches/here")
    monkeypatch.setattr(compilestarts, "identity_of_command", lambda *_: f"sha256:{'ab' * 32}")
    found = settings(CompileRunSettings, root=tmp_path / "root")
    ours = compilestarts.subject_of(line, found, None, "", "").key()
    assert printed(command, tmp_path / "key", "--image", IMAGE, "--", *line) == ours
    assert ours.paths["cacheDir"] == f"{Path.cwd()}/caches/here"


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--engine", "vlm", "--", "true"], "there is no engine 'vlm': vllm, sglang, torch"),
        (["--image", "vllm:latest", "--", "true"], "--image vllm:latest: IMAGE@sha256: and 64"),
        (["--trust-domain", "A B", "--", "true"], "--trust-domain A B: lower-case letters"),
        ([], "give either -f FILE"),
        (["-f", "CATALOG", "--", "vllm"], "give either -f FILE"),
        (["-f", "/no/such"], "/no/such is not there"),
        (["-f", "CATALOG", "--name", "other"], "has not the CompileCache other in it"),
        (["-f", "EMPTY"], "has not a CompileCache in it"),
        (["-f", "TWO"], "choose one with --name"),
        (["-f", "LONE"], "the CachedModel qwen is neither in"),
        (["-f", "CATALOG", "--root", "/no/such"], "give --root"),
        (["-f", "CATALOG", "--node-labels", "x"], "write NAME=VALUE"),
        (["-f", "CATALOG", "--node-labels", "EMPTY"], "neither a Node with labels"),
        (["-f", "CATALOG", "--node-labels", "nvidia.com/gpu.present=true"], "no label says which"),
        (["--", "/no/such/program"], "there is no program /no/such/program"),
    ],
)
def test_mistakes(
    command: Command, catalog: Path, tmp_path: Path, arguments: list[str], hint: str
) -> None:
    other = CATALOG.partition("---\n")[2]
    texts = {
        "EMPTY": "",
        "LONE": other,
        "TWO": f"{CATALOG}---\n{other.replace('qwen-vllm', 'two')}",
    }
    for name, text in texts.items():
        (tmp_path / name).with_suffix(".yaml").write_text(text)
    files = {name: str((tmp_path / name).with_suffix(".yaml")) for name in texts}
    files["CATALOG"] = str(catalog)
    given = [files.get(argument, argument) for argument in arguments]
    if "--node-labels" not in given and "--" not in given:
        given += ["--node-labels", LABELS]
    told = command("compile", "key", *given)
    assert (told.code != 0, hint in told.mistake) == (True, True), told.err


def test_diff(command: Command, catalog: Path, tmp_path: Path) -> None:
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    key = printed(command, a, "-f", catalog, "--node-labels", LABELS)
    printed(command, b, "-f", catalog, "--node-labels", LABELS.replace("H100-80GB", "H200"))
    told = command("compile", "diff", a, b)
    assert told.code == 0
    sentence = "the accelerator is NVIDIA-H100-80GB-HBM3 here and NVIDIA-H200-HBM3 there"
    assert told.out.splitlines()[3:] == [f"accelerator: {sentence}"]
    document = command("compile", "diff", a, b, "-o", "json").document
    assert document["same"] is False
    assert document["ours"] == {"from": str(a), "key": key.digest}
    (difference,) = document["differences"]
    assert (difference["part"], difference["message"]) == ("accelerator", sentence)
    same = command("compile", "diff", a, a)
    assert same.out.endswith("The keys are the same.\n")
    assert command("compile", "diff", a, a, "-o", "json").document["same"] is True


def test_diff_of_bundles(command: Command, catalog: Path, tmp_path: Path) -> None:
    key = printed(command, tmp_path / "a.json", "-f", catalog, "--node-labels", LABELS)
    far = key.model_copy(update={"model": key.model.model_copy(update={"id": "hf://a/b"})})
    near = key.model_copy(update={"args": ("--max-model-len=4096",)})
    bundles = tmp_path / "bundles"
    for number, each in enumerate((far, near)):
        bundle(each, bundles / "sample" / each.digest / str(number))
    told = command("compile", "diff", tmp_path / "a.json", bundles)
    assert told.out.splitlines()[1].endswith(f"{near.digest}/1")
    assert told.out.splitlines()[3:] == [
        "args: the argument --max-model-len is 8192 here and 4096 there"
    ]
    alone = bundles / "sample" / far.digest / "0"
    for path in (alone, alone / "bundle.json"):
        assert "the model is hf://Qwen" in command("compile", "diff", tmp_path / "a.json", path).out
    bundle(key, bundles / "other" / "same" / "0")
    assert "The keys are the same" in command("compile", "diff", tmp_path / "a.json", bundles).out
    told = command("compile", "diff", bundles, tmp_path / "a.json")
    assert "name one of them" in told.mistake


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"", "is neither what"),
        (b"[" * 100_000, "is neither what"),
        (b'{"kind": "Other"}', "is neither what"),
        (b'{"kind": "CompileKey", "key": {}}', "has no key that can be read: engine"),
        (b'{"kind": "SignedCompileBundle", "statement": "?"}', "is neither what"),
        (b'{"kind": "SignedCompileBundle", "statement": "e30="}', "has no key that can be read"),
        (b'{"kind": "CompileBundle"}', "has no key that can be read"),
        (b" " * (1024 * 1024 + 1), "is too large"),
        (b"\xff", "is neither what"),
    ],
)
def test_what_is_no_key(command: Command, tmp_path: Path, content: bytes, hint: str) -> None:
    file = tmp_path / "x.json"
    file.write_bytes(content)
    told = command("compile", "diff", file, file)
    assert (told.code, hint in told.mistake) == (2, True), told.err
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "has no bundles" in command("compile", "diff", empty, file).mistake
    assert "No such file" in command("compile", "diff", tmp_path / "none", file).mistake
