"""The engines: where each keeps its caches, and which of what lies there may go to other nodes.

vLLM's and SGLang's variables and layouts were read in their released sources (vLLM 0.8.5 to 0.33.0,
SGLang 0.5.10); those of the kernel libraries are as their users set them.

What is selected is named, not what isn't, wherever a directory is known to hold other things: a
file too few costs seconds, a file too many (a measurement of another machine's free memory, say)
may cost the start.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from modelcache.compilecache.engines.roots import CacheRoot, Engine

UVICORN_READY: Final = "Application startup complete"

_INDUCTOR: Final = CacheRoot(
    "inductor",
    "TORCHINDUCTOR_CACHE_DIR",
    "inductor",
    # Without the variable: torch._inductor.runtime.cache_dir_utils.default_cache_dir.
    defaults=("$TMPDIR/torchinductor_$USER", "/tmp/torchinductor_$USER"),  # noqa: S108
)
_TRITON: Final = CacheRoot(
    "triton",
    "TRITON_CACHE_DIR",
    "triton",
    defaults=("$TRITON_HOME/.triton/cache", "~/.triton/cache"),
)
_EXTENSIONS: Final = CacheRoot(
    "torch-extensions",
    "TORCH_EXTENSIONS_DIR",
    "torch-extensions",
    defaults=("$XDG_CACHE_HOME/torch_extensions", "~/.cache/torch_extensions"),
)
_NO_HEADERS: Final = MappingProxyType({"TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0"})
"""Inductor precompiles its C++ headers into a directory that no variable moves (below $TMPDIR,
`torch._inductor.codecache._HEADER_DIR`), and does so also when all that it wants is in its cache:
8 s of each start of torch 2.13 in a new container, which needs a compiler for it. A cold start of a
small transformer takes as long without."""
_KERNELS: Final = (
    _EXTENSIONS,
    # FlashInfer itself adds .cache/flashinfer/<version>/<arch>.
    CacheRoot(
        "flashinfer",
        "FLASHINFER_WORKSPACE_BASE",
        "flashinfer",
        select=(".cache/flashinfer/",),
        defaults=("~",),
    ),
    CacheRoot(
        "tilelang",
        "TILELANG_CACHE_DIR",
        "tilelang",
        drop=("tmp/",),
        defaults=("~/.tilelang/cache",),
    ),
    CacheRoot(
        "tvm-ffi",
        "TVM_FFI_CACHE_DIR",
        "tvm-ffi",
        defaults=("~/.cache/tvm-ffi",),
    ),
    CacheRoot(
        "cute-dsl",
        "CUTE_DSL_CACHE_DIR",
        "cute-dsl",
        defaults=("/tmp/$USER/cutlass_python_cache",),  # noqa: S108
    ),
)
_DEEPGEMM: Final = CacheRoot(
    "deepgemm",
    "DG_JIT_CACHE_DIR",
    "deep-gemm",
    drop=("tmp/",),  # kernels are made there, and renamed
    defaults=("~/.deep_gemm", "~/.cache/deep_gemm"),
)

_VLLM: Final = Engine(
    "vllm",
    (
        CacheRoot(
            "vllm",
            "VLLM_CACHE_ROOT",
            "vllm",
            # Not startup_plan/ (this machine's free memory), assets/, gpu_p2p_access_cache_*.json
            # (this machine's topology).
            select=(
                "torch_compile_cache/",
                "torch_aot_compile/",
                "modelinfos/",
                "flashinfer_autotune_cache/",
                "deep_gemm/",
                "xla_cache/",
            ),
            defaults=("$XDG_CACHE_HOME/vllm", "~/.cache/vllm"),
        ),
        _INDUCTOR,
        _TRITON,
        *_KERNELS,
        _DEEPGEMM,
    ),
    settings=_NO_HEADERS,
    programs=("vllm",),
    modules=("vllm",),
    # The first is uvicorn's, which a user may silence; the others come when all is compiled, too.
    ready=(UVICORN_READY, "Starting vLLM API server ", "Starting vLLM server on"),
)

_SGLANG: Final = Engine(
    "sglang",
    (
        CacheRoot("sglang", "SGLANG_CACHE_DIR", "sglang", defaults=("~/.cache/sglang",)),
        _INDUCTOR,
        _TRITON,
        *_KERNELS,
        # SGLang sets DG_JIT_CACHE_DIR from its own variable.
        CacheRoot(
            "sglang-deepgemm",
            "SGLANG_DG_CACHE_DIR",
            "deep-gemm",
            drop=_DEEPGEMM.drop,
            defaults=_DEEPGEMM.defaults,
        ),
        _DEEPGEMM,
    ),
    settings=_NO_HEADERS,
    programs=("sglang",),
    modules=("sglang",),
    ready=("The server is fired up and ready to roll!",),
)

_TORCH: Final = Engine(
    "torch",
    (_INDUCTOR, _TRITON, _EXTENSIONS),
    # On by default since 2.4 and 2.6; older ones keep nothing on the disk without them.
    settings=MappingProxyType(
        {
            "TORCHINDUCTOR_FX_GRAPH_CACHE": "1",
            "TORCHINDUCTOR_AUTOGRAD_CACHE": "1",
            **_NO_HEADERS,
        }
    ),
    programs=("torchrun", "accelerate", "deepspeed"),
    ready=(UVICORN_READY,),
)

_NEURON: Final = Engine(
    "neuron",
    (
        CacheRoot(
            "neuron",
            "NEURON_COMPILE_CACHE_URL",
            "neuron",
            defaults=("/var/tmp/neuron-compile-cache",),  # noqa: S108
        ),
    ),
    programs=("neuron_parallel_compile",),
    modules=("optimum.neuron", "neuronx_distributed_inference", "torch_neuronx"),
    ready=(UVICORN_READY,),
)

_OTHER: Final = Engine("other", (CacheRoot("any", "", ""),), ready=(UVICORN_READY,))
"""Any directory: all of what lies below the cache directory."""

BUILT_IN: Final[Mapping[str, Engine]] = MappingProxyType(
    {engine.name: engine for engine in (_VLLM, _SGLANG, _TORCH, _NEURON, _OTHER)}
)
