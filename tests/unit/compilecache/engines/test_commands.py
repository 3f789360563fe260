from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcache.compilecache.engines.table import BUILT_IN, engine_of, table


@pytest.mark.parametrize(
    ("command", "engine"),
    [
        ("vllm serve meta-llama/Llama-3.1-8B --port 8000", "vllm"),
        ("/opt/venv/bin/vllm serve x", "vllm"),
        ("python3 -m vllm.entrypoints.openai.api_server --model x", "vllm"),
        ("python3.12 -u -X dev -W ignore -m vllm.entrypoints.cli.main serve x", "vllm"),
        ("/usr/bin/python -mvllm.entrypoints.openai.api_server", "vllm"),
        ("python -um vllm.entrypoints.openai.api_server", "vllm"),
        ("python -X vllm train.py", "torch"),
        ("python /opt/venv/bin/vllm serve x", "vllm"),
        ("python -m sglang.launch_server --model-path x", "sglang"),
        ("sglang serve --model-path x", "sglang"),
        ("python -m sglangish", "torch"),
        ("python train.py --model vllm", "torch"),
        ("python -c 'import torch'", "torch"),
        ("python", "torch"),
        ("torchrun --nproc-per-node 2 train.py", "torch"),
        ("neuron_parallel_compile python x.py", "neuron"),
        ("env HF_HUB_OFFLINE=1 vllm serve x", "vllm"),
        ("HF_HUB_OFFLINE=1 vllm serve x", "vllm"),
        ("numactl -N 0 -m 0 python -m vllm.entrypoints.openai.api_server", "vllm"),
        ("uv run vllm serve x", "vllm"),
        ("tini -- vllm serve x", "vllm"),
        ("sh -c 'exec vllm serve x'", "vllm"),
        ("bash -lc 'set -e; export A=1\nexec python -m sglang.launch_server && echo ok'", "sglang"),
        ("bash -c 'cd /app && (ulimit -l unlimited; vllm serve x)'", "vllm"),
        ('bash -c "unfinished \'quote"', "other"),
        ("bash start.sh", "other"),
        ("ls vllm", "other"),
        ("echo vllm", "other"),
    ],
)
def test_which_engine(command: str, engine: str) -> None:
    try:
        argv = shlex.split(command)
    except ValueError:
        argv = ["bash", "-c", "unfinished 'quote"]
    assert engine_of(argv) == engine


def test_no_command_at_all() -> None:
    assert engine_of([]) == "other"


def test_programs_of_the_users_table(tmp_path: Path) -> None:
    path = tmp_path / "engines.yaml"
    path.write_text("engines: {mine: {extends: vllm, programs: [vllm], modules: [my.server]}}")
    engines = table(path)
    assert engine_of(["python", "-m", "my.server.main"], engines) == "mine"
    assert engine_of(["vllm", "serve"], engines) == "mine"
    assert engine_of(["vllm", "serve"]) == "vllm"


@given(st.lists(st.text(max_size=50), max_size=80))
def test_any_command_is_answered_for(argv: list[str]) -> None:
    assert engine_of(argv) in BUILT_IN
    assert engine_of(["sh", "-c", *argv]) in BUILT_IN
