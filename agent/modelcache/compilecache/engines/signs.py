"""What engines write while they start, as far as it tells of their compiling.

The formats are those of the released sources of vLLM 0.8.5 to 0.33.0 and SGLang 0.5.10, and of
logs that people published. A message is looked for anywhere in a line, since there may be anything
before it: times of `kubectl logs`, names of containers, of workers, of ranks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Sign(StrEnum):
    """What one message tells."""

    VERSION = "version"
    DOWNLOAD = "download"
    WEIGHTS = "weights"
    MODEL = "model"
    CACHE_DIR = "cache-dir"
    DISABLED = "disabled"
    """The engine keeps no cache."""
    DYNAMO = "dynamo"
    COMPILED = "compiled"
    STORED = "stored"
    """A graph was put into the cache."""
    LOADED = "loaded"
    AOT_LOADED = "aot-loaded"
    TOTAL = "total"
    """All compiling up to now."""
    TOTAL_OF_ONE = "total-of-one"
    """All compiling of one model: there may be several (a draft, an encoder)."""
    TOGETHER = "together"
    """Compiling and a first run, which can't be told apart."""
    WARMUP = "warmup"
    SAVED = "saved"
    NOT_SAVED = "not-saved"
    LOAD_FAILED = "load-failed"
    KERNELS = "kernels"
    """Kernels are looked for in their cache, and compiled if they aren't there: SGLang says so at
    each start (sglang/srt/layers/deep_gemm_wrapper/compile_utils.py)."""
    GRAPHS = "graphs"
    INIT = "init"
    TUNED = "tuned"
    STOPPED = "stopped"
    NOT_STARTED = "not-started"
    """The engine didn't come up."""


PHASES: Final = {
    Sign.DOWNLOAD: "download",
    Sign.WEIGHTS: "weights",
    Sign.MODEL: "model",
    Sign.GRAPHS: "graphs",
    Sign.WARMUP: "warmup",
    Sign.INIT: "init",
}
"""Signs of phases other than compiling that have a length, and what the phase is called."""


@dataclass(frozen=True, slots=True)
class Format:
    """One message.

    Attributes:
        sign: what it tells.
        literal: how it begins, to be found quickly.
        pattern: from there on; groups `seconds`, `compilation` (seconds), `place` (a path) and
            `version` where it has them. Without nested repetition: a line is an engine's, and what
            is in it may be a user's.
    """

    sign: Sign
    literal: str
    pattern: re.Pattern[str]


# Bold where it was pasted into an issue.
_NUMBER: Final = r"[0-9]{1,9}(?:\.[0-9]{1,9})?"
_SECONDS: Final = rf"\*{{0,2}}(?P<seconds>{_NUMBER})"
_COMPILATION: Final = rf"(?P<compilation>{_NUMBER})"
_PATH: Final = r"(?P<place>[^\s'\"]{1,1024})"


def _format(sign: Sign, literal: str, rest: str = "") -> Format:
    return Format(sign, literal, re.compile(re.escape(literal) + rest))


FORMATS: Final = (
    _format(Sign.VERSION, "vLLM API server version ", r"v?(?P<version>[\w.+-]{1,64})"),
    _format(Sign.VERSION, "LLM engine (v", r"(?P<version>[\w.+-]{1,64})\) with config"),
    _format(Sign.DOWNLOAD, "Time spent downloading weights for ", rf"\S{{1,512}}: {_SECONDS} s"),
    _format(Sign.WEIGHTS, "Loading weights took ", rf"{_SECONDS} s"),
    _format(Sign.WEIGHTS, "Load weight end. elapsed=", rf"{_SECONDS} s"),
    _format(
        Sign.WEIGHTS,
        "[RunAI Streamer] Overall time to stream ",
        rf"[^:]{{1,120}}: {_SECONDS}s",
    ),
    # "GiB and", "GiB memory and"; without a unit where the number already has one.
    _format(Sign.MODEL, "Model loading took ", rf"[0-9.]{{1,20}}[ A-Za-z]{{1,20}}and {_SECONDS} s"),
    _format(
        Sign.CACHE_DIR,
        "Using cache directory: ",
        r"(?P<place>.{1,1024}?) for vLLM's torch\.compile",
    ),
    _format(Sign.DISABLED, "vLLM's torch.compile cache is disabled"),
    _format(Sign.DYNAMO, "Dynamo bytecode transform time: ", rf"{_SECONDS} s"),
    # "general shape" (to 0.9.2), "dynamic shape", "shape N", "compile range (a, b)" (from 0.14.1).
    _format(Sign.COMPILED, "Compiling a graph for ", rf".{{1,120}}? takes {_SECONDS} s"),
    _format(Sign.STORED, "Cache the graph ", r".{1,120}? for later use"),
    # 0.8.4 says no time.
    _format(
        Sign.LOADED,
        "Directly load the compiled graph",
        rf"(?:\(s\))? for .{{1,120}}? from the cache(?:, took {_SECONDS} s)?",
    ),
    _format(Sign.AOT_LOADED, "Directly load AOT compilation from path ", _PATH),
    # In the present tense (to 0.14.1) it is the sum of all models, in the past one model's.
    _format(Sign.TOTAL, "torch.compile takes ", rf"{_SECONDS} s in total"),
    _format(Sign.TOTAL_OF_ONE, "torch.compile took ", rf"{_SECONDS} s in total"),
    _format(
        Sign.TOGETHER,
        "torch.compile and initial profiling/warmup run together took ",
        rf"{_SECONDS} s",
    ),
    _format(Sign.WARMUP, "Initial profiling/warmup run took ", rf"{_SECONDS} s"),
    _format(Sign.SAVED, "saved AOT compiled function to ", _PATH),
    _format(Sign.NOT_SAVED, "unable to save AOT compiled function to ", _PATH),
    _format(
        Sign.LOAD_FAILED,
        "Compiling model again due to a load failure",
        r"(?: from (?P<place>[^\s,]{1,1024}))?",
    ),
    # Where these are not caught the engine doesn't come up.
    _format(Sign.LOAD_FAILED, "Bytes object is corrupted, checksum does not match"),
    _format(Sign.LOAD_FAILED, "corrupted compilation artifact"),
    _format(
        Sign.LOAD_FAILED,
        "FileNotFoundError: [Errno 2] No such file or directory: ",
        r"'(?P<place>[^']{0,1024}?(?:torch_compile_cache|torch_aot_compile|inductor|triton)[^']*)",
    ),
    _format(Sign.KERNELS, "Entering DeepGEMM JIT Pre-Compile session"),
    _format(Sign.GRAPHS, "Graph capturing finished in ", rf"{_SECONDS} s"),
    # SGLang: "Capture cuda graph end. Time elapsed: ", later "… CUDA graph end. elapsed=".
    _format(Sign.GRAPHS, "graph end. Time elapsed: ", rf"{_SECONDS} s"),
    _format(Sign.GRAPHS, "graph end. elapsed=", rf"{_SECONDS} s"),
    _format(
        Sign.INIT,
        "init engine (profile, create kv cache, warmup model) took ",
        rf"{_SECONDS} s(?:econds)?(?: \(compilation: {_COMPILATION} s)?",
    ),
    _format(
        Sign.TUNED,
        "[Autotuner]: Loaded ",
        rf"[0-9]{{1,9}} configs from {_PATH}",
    ),
    _format(Sign.STOPPED, "Application shutdown complete"),
    _format(Sign.NOT_STARTED, "Application startup failed"),
    _format(Sign.NOT_STARTED, "Engine core initialization failed"),
    _format(Sign.NOT_STARTED, "EngineCore failed to start"),
    _format(Sign.NOT_STARTED, "Received sigquit from a child process"),
)
