"""The environment that an engine's compiled code depends on.

By prefix, as the engines themselves have it: vLLM puts every `VLLM_*` that it knows into its hash
but for a list that grew from version to version. Left out is what differs from pod to pod and what
is secret, also where a version of an engine did hash it (the pod's IP in
VLLM_NIXL_SIDE_CHANNEL_HOST): it can't be known before the pod starts, and the engine remains the
judge.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from modelcache.compilecache.keys.secrets import digest16, is_secret_name, without_secrets

_TORCH: Final = ("TORCH", "PYTORCH_", "TRITON_", "FLASHINFER_", "DG_", "TILELANG_", "AOT_INDUCTOR_")
_PREFIXES: Final = {
    "vllm": (*_TORCH, "VLLM_", "NEURON_", "RAY_EXPERIMENTAL_NOSET_"),
    "sglang": (*_TORCH, "SGLANG_", "SGL_"),
    "torch": (*_TORCH, "OMP_NUM_THREADS", "ATEN_CPU_CAPABILITY"),
    "neuron": (*_TORCH, "NEURON_", "XLA_", "VLLM_"),
}
_OFFLINE: Final = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
"""Either makes vLLM replace a model's id by the path of its snapshot."""
_YES: Final = ("1", "on", "true", "yes")

# Where caches lie, and that they are used: below cacheDir, which is in the key; a start from a
# bundle sets these.
_PLACES: Final = re.compile(
    r".*_(?:CACHE_(?:DIR|ROOT|PATH|URL)|CONFIG_ROOT|HOME|WORKSPACE_BASE|CUBIN_DIR|EXTENSIONS_DIR"
    r"|PROFILER_DIR|DUMP_DIR|TMPDIR)|VLLM_ASSETS_CACHE|TORCHINDUCTOR_(?:FX_GRAPH|AUTOGRAD)_CACHE"
    r"|TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS"
)
# Who the pod is, and whom it talks to; also what Kubernetes sets for a Service called `vllm`.
_PER_POD: Final = re.compile(
    r".*_(?:HOST|HOSTNAME|IPS?|PORT|ADDR|ADDRESS|ENDPOINT|URL|URI|NODE_?NAME|INSTANCE_ID"
    r"|POD_?(?:NAME|NAMESPACE|UID)|SERVICE_ACCOUNT(?:_NAME)?)"
    r"|.*_SERVICE_(?:HOST|PORT)(?:_.*)?|.*_PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_.*)?"
    r"|VLLM_(?:DP_RANK|DP_RANK_LOCAL|RAY_BUNDLE_INDICES|RPC_BASE_PATH)|TORCHELASTIC_.*"
    r"|NEURON_RT_(?:VISIBLE_CORES|ROOT_COMM_ID)"
)
# What is logged and counted, and how long is waited; whether a cache that doesn't load is an error.
_TELLING: Final = re.compile(
    r".*_(?:LOGS?|LOGGING|TIMEOUT|TIMEOUT_S|TIMEOUT_MS|INTERVAL|TRACE)|.*_(?:LOG|LOGGING)_.*"
    r"|TORCH_LOGS.*|TORCH_SHOW_CPP_STACKTRACES|TORCH_DISTRIBUTED_DEBUG|TORCH_NCCL_.*"
    r"|VLLM_(?:NO_USAGE_STATS|DO_NOT_TRACK|USAGE_SOURCE|CONFIGURE_LOGGING|ENABLE_STARTUP_PLAN"
    r"|FORCE_AOT_LOAD)"
)


def normal_environment(engine: str, env: Mapping[str, str]) -> dict[str, str]:
    """The variables that matter, by name, each with 16 hex digits of its value's SHA-256.

    Args:
        engine: vllm, sglang, torch, neuron; for any other the variables of all of them matter.
        env: the engine's environment, whole.
    """
    prefixes = _PREFIXES.get(engine) or sum(_PREFIXES.values(), ())
    found = {
        name: digest16(without_secrets(value))
        for name, value in sorted(env.items())
        if name.startswith(prefixes) and _matters(name)
    }
    if is_offline(env):
        found["HF_HUB_OFFLINE"] = digest16("1")
    return found


def is_offline(env: Mapping[str, str]) -> bool:
    """Whether the Hub's library is told to use what lies on the disk only."""
    return any(env.get(name, "").strip().lower() in _YES for name in _OFFLINE)


def _matters(name: str) -> bool:
    return not is_secret_name(name) and not any(
        pattern.fullmatch(name) for pattern in (_PLACES, _PER_POD, _TELLING)
    )
