"""Which variables matter, and that no value is in a key."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcache.compilecache.engines.table import BUILT_IN
from modelcache.compilecache.keys.environment import normal_environment


def of(value: str) -> str:
    return sha256(value.encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    "name",
    [
        *("VLLM_USE_V1", "VLLM_DISABLE_COMPILE_CACHE", "VLLM_ATTENTION_BACKEND"),
        *("TORCHINDUCTOR_MAX_AUTOTUNE", "TORCH_CUDA_ARCH_LIST", "TRITON_DEBUG", "DG_JIT_USE_NVRTC"),
        *("VLLM_MAX_TOKENS_PER_EXPERT", "FLASHINFER_CUDA_ARCH_LIST"),
    ],
)
def test_what_matters(name: str) -> None:
    assert normal_environment("vllm", {name: "1"}) == {name: of("1")}
    assert normal_environment("mine", {name: "1"}) == {name: of("1")}


@pytest.mark.parametrize(
    "name",
    [
        *("PATH", "LANG", "HOME", "XDG_CACHE_HOME", "TMPDIR", "POD_IP", "CUDA_VISIBLE_DEVICES"),
        *("VLLM_API_KEY", "VLLM_HOST_IP", "VLLM_PORT", "VLLM_NIXL_SIDE_CHANNEL_HOST"),
        *("VLLM_NIXL_SIDE_CHANNEL_PORT", "VLLM_CACHE_ROOT", "VLLM_CONFIG_ROOT", "TRITON_HOME"),
        *("VLLM_XLA_CACHE_PATH", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TORCH_LOGS"),
        *("VLLM_SERVICE_HOST", "VLLM_PORT_8000_TCP_ADDR", "VLLM_SERVICE_PORT_HTTP"),
        *("VLLM_LOGGING_LEVEL", "VLLM_RPC_TIMEOUT", "FLASHINFER_WORKSPACE_BASE", "HF_TOKEN"),
        *(
            "VLLM_FORCE_AOT_LOAD",
            "SGLANG_CACHE_DIR",
            "SGLANG_DG_CACHE_DIR",
            "VLLM_RAY_BUNDLE_INDICES",
        ),
        # What the downward API has of a pod.
        *("VLLM_POD_UID", "VLLM_POD_NAMESPACE", "SGLANG_POD_IPS", "VLLM_HOST_IPS", "VLLM_PODNAME"),
        *("VLLM_SERVICE_ACCOUNT_NAME", "VLLM_NODENAME", "VLLM_PORT_8000_SCTP_PROTO"),
        *("NEURON_COMPILE_CACHE_URL", "TORCHINDUCTOR_FX_GRAPH_CACHE", "TORCH_EXTENSIONS_DIR"),
    ],
)
def test_what_does_not(name: str) -> None:
    for engine in ("vllm", "sglang", "torch", "neuron", "mine"):
        assert normal_environment(engine, {name: "1"}) == {}


@pytest.mark.parametrize("name", BUILT_IN)
def test_what_a_start_with_a_cache_sets_does_not(name: str) -> None:
    """Or a start that sets it itself, which is the same, would have another key."""
    assert normal_environment(name, BUILT_IN[name].environment(Path("/cache"))) == {}


def test_each_engine_has_its_own() -> None:
    env = {"VLLM_USE_V1": "1", "SGLANG_X": "1", "OMP_NUM_THREADS": "2", "TORCHINDUCTOR_X": "1"}
    assert normal_environment("vllm", env).keys() == {"VLLM_USE_V1", "TORCHINDUCTOR_X"}
    assert normal_environment("sglang", env).keys() == {"SGLANG_X", "TORCHINDUCTOR_X"}
    assert normal_environment("torch", env).keys() == {"OMP_NUM_THREADS", "TORCHINDUCTOR_X"}
    assert normal_environment("mine", env).keys() == env.keys()


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
@pytest.mark.parametrize(("value", "is_offline"), [("1", True), ("TRUE", True), ("0", False)])
def test_offline(name: str, value: str, is_offline: bool) -> None:
    found = normal_environment("vllm", {name: value})
    assert found == ({"HF_HUB_OFFLINE": of("1")} if is_offline else {})


def test_a_login_in_a_url_does_not_count() -> None:
    one, other = (
        normal_environment("vllm", {"VLLM_STORE_AT": f"https://user:{password}@host/x"})
        for password in ("a", "b")
    )
    assert one == other != normal_environment("vllm", {"VLLM_STORE_AT": "https://host/y"})


@given(st.dictionaries(st.from_regex(r"(VLLM|TORCH|XDG)_[A-Z_]{0,9}", fullmatch=True), st.text()))
def test_no_value_is_in_it_and_the_order_does_not_matter(env: dict[str, str]) -> None:
    found = normal_environment("vllm", env)
    assert found == normal_environment("vllm", dict(reversed(env.items())))
    assert [*found] == sorted(found)
    assert all(len(value) == 16 and int(value, 16) >= 0 for value in found.values())
