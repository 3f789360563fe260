"""An engine's arguments in a normal form: what changes nothing in its compiled code is left out,
and two ways to write the same are one.

The form is again a command line: options by name as `--name=value` (several values with blanks
between), then what is no option after `--`. How the engine is begun (`vllm serve`, `python -m ...`)
is no part of it, nor are the model and the sizes of the parallel layout, which the key has apart.

How a line is read without knowing each option: an option takes what follows it up to the next, but
for flags (`--enable-...`) and for those that are known to have one value.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import dropwhile
from pathlib import PurePosixPath
from typing import Final

from modelcache.compilecache.keys.parts import ParallelLayout
from modelcache.compilecache.keys.secrets import hidden, is_secret_name, without_secrets

SERVERS: Final = ("vllm", "sglang")
"""Engines whose first argument that is no option is the model."""

SHELLS: Final = ("ash", "bash", "dash", "ksh", "sh", "zsh")

CHOOSERS: Final = frozenset({"conda", "pixi", "poetry", "uv", "uvx"})
"""What begins a program with packages of its own choice (`uv run vllm ...`)."""

_END: Final = "--"  # of the options
_ALIASES: Final = {
    **dict.fromkeys(("-tp", "--tp", "--tp-size"), "--tensor-parallel-size"),
    **dict.fromkeys(("-pp", "--pp", "--pp-size"), "--pipeline-parallel-size"),
    **dict.fromkeys(("-dp", "--dp", "--dp-size"), "--data-parallel-size"),
    **dict.fromkeys(("--ep", "--ep-size"), "--expert-parallel-size"),
    "-q": "--quantization",
    "-cc": "--compilation-config",
    "--model-path": "--model",
}
_PARALLEL: Final = {
    "--tensor-parallel-size": "tensor",
    "--pipeline-parallel-size": "pipeline",
    "--data-parallel-size": "data",
    "--expert-parallel-size": "expert",
    "--node-rank": "node_rank",
}

# Where it listens and to whom it answers; what it calls the model; how much memory the KV cache
# gets; what it logs; how pods find each other; what requests may ask for. vLLM hashes none of them.
_LEFT_OUT: Final = {
    *("--host", "--port", "--uds", "--root-path", "--api-key", "--admin-api-key", "--hf-token"),
    *(
        "--ssl-keyfile",
        "--ssl-certfile",
        "--ssl-ca-certs",
        "--ssl-cert-reqs",
        "--ssl-keyfile-password",
    ),
    *("--enable-ssl-refresh", "--allow-credentials", "--allowed-origins", "--allowed-methods"),
    *("--allowed-headers", "--middleware", "--served-model-name", "--gpu-memory-utilization"),
    *("--mem-fraction-static", "--tokenizer", "--tokenizer-path", "--tokenizer-worker-num"),
    *("--uvicorn-log-level", "--disable-uvicorn-access-log", "--disable-access-log-for-endpoints"),
    *("--log-config-file", "--log-level", "--log-level-http", "--log-requests"),
    *("--log-requests-level", "--max-log-len", "--disable-log-requests", "--enable-log-requests"),
    *("--disable-log-stats", "--enable-log-outputs", "--enable-log-deltas", "--show-time-cost"),
    *("--decode-log-interval", "--enable-metrics", "--enable-metrics-for-all-schedulers"),
    *("--otlp-traces-endpoint", "--collect-detailed-traces", "--show-hidden-metrics-for-version"),
    *("--api-server-count", "--headless", "--data-parallel-address", "--data-parallel-rpc-port"),
    *("--master-addr", "--master-port", "--dist-init-addr", "--nccl-init-addr", "--nccl-port"),
    *("--rdzv-endpoint", "--rdzv-id", "--response-role", "--chat-template", "--tool-call-parser"),
    *("--chat-template-content-format", "--enable-auto-tool-choice", "--tool-parser-plugin"),
    *("--return-tokens-as-token-ids", "--enable-prompt-tokens-details"),
    *("--enable-server-load-tracking", "--enable-request-id-headers", "--download-dir"),
    *("--load-format", "--model-loader-extra-config", "--kv-events-config", "--kv-transfer-config"),
    *("--ec-transfer-config", "--lora-modules"),
}
_ONE_VALUE: Final = (
    _PARALLEL.keys()
    | _LEFT_OUT.difference(("--served-model-name", "--api-key", "--middleware", "--lora-modules"))
    | {"--model", "--nproc-per-node", "--nnodes", "--rdzv-backend", "-m", "-c"}
)
_FLAGS: Final = re.compile(
    r"--(?:(?:enable|disable|no|show|return)-.+|enforce-eager|trust-remote-code|headless"
    r"|skip-tokenizer-init|allow-credentials|log-requests)"
)
_TRUTHS: Final = ("true", "false")
_NUMBER: Final = re.compile(r"-[0-9.]")
_LEVEL: Final = re.compile(r"-O[0-9]")
_MODULE: Final = re.compile(r"(?:dynamo\.)?(?:vllm|sglang)(?:\.[A-Za-z0-9_.]+)?")
_PYTHON: Final = re.compile(r"python[0-9.]*")
_PYTHON_WITH_VALUE: Final = ("-X", "-W", "--check-hash-based-pycs")
_ASSIGNED: Final = "--env="
_ASSIGNMENT: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
# What begins other programs, and what these may be, when it has options of its own.
_BEGINNERS: Final = {
    *("dumb-init", "exec", "gosu", "ionice", "nice", "nohup", "numactl", "nvidia_entrypoint.sh"),
    *("prlimit", "setpriv", "setsid", "stdbuf", "su-exec", "taskset", "time", "timeout", "tini"),
    *("ddtrace-run", "opentelemetry-instrument"),
    *CHOOSERS,
}
_PROGRAMS: Final = {*SERVERS, *SHELLS, *_BEGINNERS, "env", "torchrun"}
_WORDS: Final = 64
_MOST_BEGUN: Final = 16
"""Programs that begin each other and are looked through: nobody has as many."""
_QUOTED: Final = re.compile(r"'[^']*'")
_NO_SIMPLE_COMMAND: Final = re.compile(r"[;&|<>()$`\\\n*?\[\]{}#~!]")


@dataclass(frozen=True, slots=True)
class Arguments:
    """What a command line says.

    Attributes:
        model: the model as the engine is given it, empty where that isn't said.
        parallel: the parallel layout.
        normal: the rest, in the normal form.
    """

    model: str
    parallel: ParallelLayout
    normal: tuple[str, ...]


def read_arguments(engine: str, argv: Sequence[str]) -> Arguments:
    """What a command line, with or without the program's name in front, says.

    Of options with the same name the order is kept, of others it doesn't matter.
    """
    options, others = _split(_without_program(engine, [_text(argument) for argument in argv]))
    model = ""
    sizes: dict[str, int] = {}
    kept: list[tuple[str, tuple[str, ...]]] = []
    if engine in SERVERS and others and others[0] != _END:
        model = others.pop(0)
    for name, values in options:
        if name == "--model" and values and engine in SERVERS:
            model = values[0]
        elif name in _PARALLEL and (size := _size(name, values)) is not None:
            sizes[_PARALLEL[name]] = size
        elif name not in _LEFT_OUT:
            kept.append((name, values))
    normal = [_shown(name, values) for name, values in sorted(kept, key=lambda option: option[0])]
    others = _without_values([other for other in others if other != _END])
    return Arguments(
        without_secrets(model),
        ParallelLayout(**sizes),
        (*normal, *([_END, *others] if others else [])),
    )


def program_of(argv: Sequence[str]) -> str:
    """The program that a command line runs, behind what only begins others (`env`, `nohup`, `tini`,
    `sh -c` of a simple command). One of `CHOOSERS` is it itself: nobody else knows what it runs."""
    rest = [*argv]
    for _ in range(_MOST_BEGUN):
        if not rest or PurePosixPath(rest[0]).name in CHOOSERS:
            break
        inner = _inner(rest, is_script_alone=False)
        if inner is None or inner[:1] == [_END]:
            return rest[0]
        rest = [word for word in inner if not word.startswith(_ASSIGNED)]
    return rest[0] if rest else ""


def _without_values(others: list[str]) -> list[str]:
    """What is no option here may have options of another program in it."""
    told = ["", *others]
    return [
        hidden(other)
        if before.startswith("-") and is_secret_name(before)
        else without_secrets(other)
        for before, other in zip(told, others, strict=False)
    ]


def _text(argument: str) -> str:
    """Of bytes that are no UTF-8 (os.fsdecode) something that can be written as JSON."""
    return argument.encode("utf-8", "backslashreplace").decode()


def _split(argv: list[str]) -> tuple[list[tuple[str, tuple[str, ...]]], list[str]]:
    """Options with their values, and what is none. A `--` stays with what follows it."""
    options: list[tuple[str, tuple[str, ...]]] = []
    others: list[str] = []
    place = 0
    while place < len(argv):
        word = argv[place]
        place += 1
        if word == _END:
            others += argv[place - 1 :]
            break
        if not _is_option(word):
            others.append(word)
            continue
        if _LEVEL.fullmatch(word):
            word = f"-O={word[2:]}"
        name, sign, value = word.partition("=")
        name = _name(name)
        if sign:
            options.append((name, (value,)))
            continue
        if _FLAGS.fullmatch(name):
            most = int("".join(argv[place : place + 1]).lower() in _TRUTHS)
        else:
            most = 1 if name in _ONE_VALUE else len(argv)
        end = place
        while end < min(len(argv), place + most) and not _is_option(argv[end]):
            end += 1
        options.append((name, tuple(argv[place:end])))
        place = end
    return options, others


def _is_option(word: str) -> bool:
    return word.startswith("-") and len(word) > 1 and not _NUMBER.match(word)


def _name(name: str) -> str:
    """vLLM takes underscores for hyphens, but for what follows a dot: that is a field's name."""
    option, dot, field = name.partition(".")
    option = option.replace("_", "-")
    return _ALIASES.get(option, option) + dot + field


def _size(name: str, values: Iterable[str]) -> int | None:
    text = " ".join(values)
    if not re.fullmatch(r"[0-9]{1,6}", text):
        return None
    return int(text) if int(text) >= (0 if name == "--node-rank" else 1) else None


def _shown(name: str, values: tuple[str, ...]) -> str:
    name = without_secrets(name)  # in one word with its value, maybe
    if not values:
        return name
    value = " ".join(values)
    if name == "-c" or is_secret_name(name):
        return f"{name}={hidden(value)}"
    return f"{name}={without_secrets(value)}"


def _without_program(engine: str, argv: list[str]) -> list[str]:
    """A command line from the first argument that is the engine's own. What is put into its
    environment on the line (`env A=b vllm ...`) stands as `--env=A=b` before it."""
    assigned: list[str] = []
    for _ in range(_MOST_BEGUN):
        if not argv:
            break
        program = PurePosixPath(argv[0]).name
        inner = _inner(argv, is_script_alone=engine in SERVERS)
        if inner is not None:
            argv = inner
            place = next(
                (n for n, word in enumerate(argv) if not word.startswith(_ASSIGNED)), len(argv)
            )
            assigned, argv = assigned + argv[:place], argv[place:]
        elif _PYTHON.fullmatch(program):
            argv = _without_interpreter(argv[1:])
        elif engine in SERVERS and program in (engine, "serve"):
            argv = argv[1:]
        elif engine in SERVERS and argv[0] == "-m" and _MODULE.fullmatch("".join(argv[1:2])):
            argv = argv[2:]
        else:
            break
    return assigned + argv


def _inner(argv: list[str], *, is_script_alone: bool) -> list[str] | None:
    """What a program that only begins others begins; None: it is no such program.

    Args:
        is_script_alone: `-c SCRIPT` is a shell's, too, as containers have it in `args`.
    """
    program = PurePosixPath(argv[0]).name
    if program in _BEGINNERS:
        return _begun(argv)
    if program == "env" and "".join(argv[1:2])[:1] != "-":
        inner = list(dropwhile(_ASSIGNMENT.match, argv[1:]))
        return [f"{_ASSIGNED}{each}" for each in argv[1 : len(argv) - len(inner)]] + inner
    if program in SHELLS and len(argv) > 2 and re.fullmatch(r"-[a-z]*c", argv[1]):
        return _simple_command(argv[2]) + argv[3:]
    if is_script_alone and argv[0] == "-c" and len(argv) > 1 and not _is_option(argv[1]):
        return _simple_command(argv[1]) + argv[2:]
    return None


def _without_interpreter(argv: list[str]) -> list[str]:
    """Without Python's own options (https://docs.python.org/3/using/cmdline.html)."""
    while argv and argv[0].startswith("-") and argv[0] not in ("-m", "-c", "-", _END):
        argv = argv[2:] if argv[0] in _PYTHON_WITH_VALUE else argv[1:]
    return argv


def _begun(argv: list[str]) -> list[str] | None:
    """From the program that one of `_BEGINNERS` begins, behind its own options and their values."""
    for place, word in enumerate(argv[1:_WORDS], start=1):
        program = PurePosixPath(word).name
        if program in _PROGRAMS or _PYTHON.fullmatch(program):
            return argv[place:]
    rest = argv[2:] if argv[1:2] == [_END] else argv[1:]
    return rest if rest and not _is_option(rest[0]) else None


def _simple_command(script: str) -> list[str]:
    """The words of a script that is one command, on one line or continued on others, and nothing
    more; else its digest for all of it."""
    line = script.strip().replace("\\\n", " ")
    if _NO_SIMPLE_COMMAND.search(_QUOTED.sub("", line)):
        return [_END, hidden(script)]
    try:
        words = shlex.split(line)
    except ValueError:
        return [_END, hidden(script)]
    return ["env", *words] if words and _ASSIGNMENT.match(words[0]) else words
