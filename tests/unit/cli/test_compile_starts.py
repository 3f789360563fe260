"""modelcache compile run: the start of an engine as an object has it."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelcache.cli import compilestarts
from modelcache.cli.options import settings
from modelcache.compilecache.keys.parts import Key
from modelcache.errors import UsageError
from modelcache.settings.compilerun import CompileRunSettings

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
    args: [/models/qwen, --max-model-len, "8192"]
    env: [{{name: VLLM_USE_V1, value: "1"}}, {{name: HOME, value: /root}}]
  bundles: {{uri: "s3://bucket/x"}}
"""
COMMAND = ("vllm", "serve", "/models/qwen", "--max-model-len=8192", "--port", "80")


def key_of(monkeypatch: pytest.MonkeyPatch, folder: Path, *command: str, **environment: str) -> Key:
    catalog = folder / "catalog.yaml"
    catalog.write_text(CATALOG)
    for name in ("HOME", "XDG_CACHE_HOME", "VLLM_USE_V1"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = settings(CompileRunSettings, root=folder / "root")
    return compilestarts.subject_of(command, found, catalog, "", "").key()


def test_a_start_as_the_object_says_has_its_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told = {"HOME": "/root", "VLLM_USE_V1": "1"}
    found = key_of(monkeypatch, tmp_path, *COMMAND, **told)
    # What the image sets besides is its own, and the image is in the key.
    more = {**told, "TORCH_CUDA_ARCH_LIST": "9.0", "XDG_CACHE_HOME": "/x"}
    assert key_of(monkeypatch, tmp_path, *COMMAND, **more) == found
    without = (*COMMAND[:2], *COMMAND[3:])  # its model may stand in a file
    assert key_of(monkeypatch, tmp_path, *without, **told) == found


@pytest.mark.parametrize(
    ("command", "environment", "told"),
    [
        ((*COMMAND, "--enforce-eager"), {}, "--enforce-eager"),
        ((*COMMAND, "-tp=2"), {}, "tensor-parallel"),
        (("vllm", "serve", "/models/other", "--max-model-len=8192"), {}, "the model's path"),
        (COMMAND, {"VLLM_USE_V1": "0"}, "VLLM_USE_V1 has another value"),
        (COMMAND, {"VLLM_USE_V1": ""}, "VLLM_USE_V1 has another value"),
        (COMMAND, {"HOME": "/home/me"}, "the path in HOME is /home/me here and /root there"),
    ],
)
def test_a_start_that_is_another_has_none(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    command: tuple[str, ...],
    environment: dict[str, str],
    told: str,
) -> None:
    given = {"HOME": "/root", "VLLM_USE_V1": "1", **environment}
    with pytest.raises(UsageError, match="is not what the CompileCache qwen-vllm") as caught:
        key_of(monkeypatch, tmp_path, *command, **given)
    assert told in str(caught.value)


def test_a_variable_of_the_object_that_is_not_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="VLLM_USE_V1 is set there only"):
        key_of(monkeypatch, tmp_path, *COMMAND, HOME="/root")
