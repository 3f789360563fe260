"""The key of an object and of a command that says the same are one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelcache.compilecache.keys.facts import NodeFacts
from modelcache.compilecache.keys.making import key_of_command, key_of_object
from modelcache.compilecache.keys.parts import Key, ParallelLayout
from tests.unit.compilecache.keys.samples import DIGEST, H100, HOST, MODEL, compile_cache

ARGS = ["org/model", "--max-model-len", "8192"]


def of_command(
    argv: list[str], env: dict[str, str] | None = None, *, facts: NodeFacts = H100, **more: Any
) -> Key:
    given = {
        "cache_dir": Path("/var/cache/modelcache"),
        "identity": DIGEST,
        "model": MODEL,
        "trust_domain": "default",
        **more,
    }
    return key_of_command("vllm", argv, env or {}, facts, **given)


def test_an_objects_key_and_a_commands_are_equal() -> None:
    env = {"VLLM_USE_V1": "1", "HOME": "/root"}
    cache = compile_cache(
        args=["--max-model-len=8192", "--model", "org/model"],
        env=[{"name": name, "value": value} for name, value in env.items()],
        parallel={"tensor": 2},
    )
    given = ["vllm", "serve", *ARGS, "-tp", "2", "--port", "8000"]
    ours = of_command(given, {**env, "VLLM_HOST_IP": "10.0.0.1", "PATH": "/bin"})
    assert key_of_object(cache, H100, MODEL) == ours
    assert key_of_object(cache, H100, MODEL).digest == ours.digest
    assert ours.paths == {
        "cacheDir": "/var/cache/modelcache",
        "model": "org/model",
        "HOME": "/root",
    }


def test_the_key_of_an_object_is_pinned() -> None:
    """A change here makes every bundle that was ever published unknown: raise SCHEMA then."""
    cache = compile_cache(args=ARGS, env=[{"name": "VLLM_USE_V1", "value": "1"}])
    assert key_of_object(cache, H100, MODEL).to_document() == {
        "schemaVersion": 1,
        "trustDomain": "default",
        "engine": {"name": "vllm", "identity": DIGEST},
        "accelerator": {
            "vendor": "nvidia",
            "product": "NVIDIA-H100-80GB-HBM3",
            "computeCapability": "9.0",
            "mig": "",
            "runtime": "12.8",
            "driverMajor": "570",
        },
        "cpu": {"arch": "x86_64", "isa": "x86-64-v4", "features": []},
        "model": {"id": "hf://org/model", "revision": "c" * 40, "config": "d" * 64},
        "args": ["--max-model-len=8192"],
        "env": {"VLLM_USE_V1": "6b86b273ff34fce1"},
        "paths": {"cacheDir": "/var/cache/modelcache", "model": "org/model"},
        "parallel": {"tensor": 1, "pipeline": 1, "data": 1, "expert": 1, "nodeRank": 0},
    }
    digest = "23d6b6385127b0c795a1edafd236298ae5d1d527800f1cd2ddd7def026c73b32"
    assert key_of_object(cache, H100, MODEL).digest == digest


@pytest.mark.parametrize(
    "other",
    [
        {"args": [*ARGS, "--enforce-eager"]},
        {"args": ["--max-model-len", "8192", "--model", "/models/other"]},
        {"image": f"registry.example/vllm@sha256:{'cd' * 32}"},
        {"name": "sglang"},
        {"cacheDir": "/cache"},
        {"env": [{"name": "VLLM_USE_V1", "value": "0"}]},
        {"env": [{"name": "HOME", "value": "/root"}]},
        {"env": [{"name": "HF_HUB_OFFLINE", "value": "1"}]},
        {"parallel": {"tensor": 2}},
        {"trustDomain": "other"},
    ],
)
def test_what_matters_makes_another_key(other: dict[str, Any]) -> None:
    key = key_of_object(compile_cache(args=ARGS), H100, MODEL)
    assert key_of_object(compile_cache(**{"args": ARGS, **other}), H100, MODEL).digest != key.digest


@pytest.mark.parametrize(
    ("part", "other"),
    [
        ("accelerator", {"vendor": "amd"}),
        ("accelerator", {"product": "NVIDIA-A100-SXM4-80GB"}),
        ("accelerator", {"compute_capability": "8.0"}),
        ("accelerator", {"mig": "1g.10gb"}),
        ("accelerator", {"runtime": "13.0"}),
        ("accelerator", {"driver_major": "580"}),
        ("cpu", {"arch": "aarch64"}),
        ("cpu", {"isa": "x86-64-v3"}),
        ("model", {"id": "hf://org/other"}),
        ("model", {"revision": "e" * 40}),
        ("model", {"config": "e" * 64}),
    ],
)
def test_another_machine_or_model_makes_another_key(part: str, other: dict[str, str]) -> None:
    cache = compile_cache(args=ARGS)
    given: dict[str, Any] = {"accelerator": H100.accelerator, "cpu": H100.cpu, "model": MODEL}
    given[part] = given[part].model_copy(update=other)
    key = key_of_object(cache, NodeFacts(given["accelerator"], given["cpu"]), given["model"])
    assert key.digest != key_of_object(cache, H100, MODEL).digest


@pytest.mark.parametrize(
    "other",
    [
        {"args": [*ARGS, "--port", "8000", "--api-key", "x"]},
        {"env": [{"name": "VLLM_HOST_IP", "value": "10.0.0.1"}]},
        {"image": f"mirror.example/other@{DIGEST}"},
        {"parallel": {"tensor": 1}},
    ],
)
def test_what_does_not_matter_makes_none(other: dict[str, Any]) -> None:
    key = key_of_object(compile_cache(args=ARGS), H100, MODEL)
    assert key_of_object(compile_cache(**{"args": ARGS, **other}), H100, MODEL).digest == key.digest


def test_what_the_arguments_say_of_the_layout_counts() -> None:
    cache = compile_cache(args=[*ARGS, "-tp=4"], parallel={"tensor": 2, "data": 3})
    key = key_of_object(cache, H100, MODEL, node_rank=1)
    assert key.parallel == ParallelLayout(tensor=4, data=3, node_rank=1)
    assert key_of_object(cache, H100, MODEL).digest != key.digest


def test_the_processors_features_count_where_it_computes() -> None:
    assert of_command(ARGS, facts=HOST).cpu.features == ("avx512_bf16",)
    assert of_command(ARGS, facts=H100).cpu.features == ()


def test_references_are_replaced_as_kubelet_does() -> None:
    cache = compile_cache(
        args=["$(MODEL)", "--x=$(A)-$$(A)-$(UNKNOWN)"],
        env=[{"name": "MODEL", "value": "org/model"}, {"name": "A", "value": "1"}],
    )
    key = key_of_object(cache, H100, MODEL)
    assert (key.args, key.paths["model"]) == (("--x=1-$(A)-$(UNKNOWN)",), "org/model")


def test_secrets_that_came_from_the_environment_are_not_in_it() -> None:
    secret, env = (
        "correct-horse",
        {"MY_TOKEN": "correct-horse", "A_KEY": "short", "B_KEY": "/a/b/c/d"},
    )
    cache = compile_cache(
        args=["org/model", "--foo=x:$(MY_TOKEN)", "--bar=short", "--path=/a/b/c/d"],
        env=[{"name": name, "value": value} for name, value in env.items()],
    )
    ours = of_command(["org/model", f"--foo=x:{secret}", "--bar=short", "--path=/a/b/c/d"], env)
    assert secret not in str(ours)
    assert key_of_object(cache, H100, MODEL) == ours
    assert ours.args[0::2] == ("--bar=short", "--path=/a/b/c/d")


def test_where_the_hubs_snapshots_lie_counts_offline_only() -> None:
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": "/hf"}
    assert of_command(ARGS, offline).paths["hub"] == "/hf/hub"
    assert "hub" not in of_command(ARGS, {"HF_HOME": "/hf"}).paths
    more = {"HF_HUB_OFFLINE": "1", "HOME": "/root"}
    assert of_command(ARGS, more).paths["hub"] == "/root/.cache/huggingface/hub"
