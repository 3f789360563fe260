"""Which engine a command line starts."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Final

from modelcache.compilecache.engines.builtin import BUILT_IN
from modelcache.compilecache.engines.roots import Engine

MAX_WORDS: Final = 64
"""How far into a command line the engine's program is looked for."""

_PYTHON: Final = re.compile(r"(python|pypy)[0-9.]*t?")
_ASSIGNMENT: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=.*", re.DOTALL)
_SHELLS: Final = frozenset({"sh", "bash", "dash", "ash", "zsh", "ksh", "busybox"})
_WRAPPERS: Final = (
    frozenset({"env", "exec", "nice", "nohup", "setsid", "stdbuf", "time", "timeout"})
    | {"dumb-init", "gosu", "setpriv", "su-exec", "tini", "nvidia_entrypoint.sh"}
    | {"ionice", "numactl", "prlimit", "taskset"}
    | {"conda", "pixi", "poetry", "uv", "uvx"}
    | {"ddtrace-run", "opentelemetry-instrument"}
)
"""Programs that start the one that stands behind them."""


def engine_of(argv: Sequence[str], engines: Mapping[str, Engine] = BUILT_IN) -> str:
    """The name of the engine that a command line starts.

    A Python program that is none of the known is `torch`, anything else `other`. What starts
    another program (env, numactl, sh -c ...) is looked through.
    """
    words = list(argv[:MAX_WORDS])
    wrapped = False
    for number, word in enumerate(words):
        program = PurePosixPath(word).name
        for engine in engines.values():
            if program in engine.programs:
                return engine.name
        if _PYTHON.fullmatch(program):
            return _of_python(words[number + 1 :], engines)
        if program in _SHELLS:
            return _of_shell(words[number + 1 :], engines)
        wrapped = wrapped or program in _WRAPPERS
        if not wrapped and not _ASSIGNMENT.fullmatch(word):
            return "other"
    return "other"


def _of_python(words: Sequence[str], engines: Mapping[str, Engine]) -> str:
    """Of what follows `python`: options, then -m and a module, -c and code, or a script."""
    for number, word in enumerate(words):
        if word.startswith("-m"):
            module = word[2:] or next(iter(words[number + 1 :]), "")
            for engine in engines.values():
                if any(module == name or module.startswith(f"{name}.") for name in engine.modules):
                    return engine.name
            break
        if word in ("-X", "-W"):
            continue
        if not word.startswith("-"):
            # A console script by its path (/opt/venv/bin/vllm), or what follows -X.
            program = PurePosixPath(word).name
            for engine in engines.values():
                if program in engine.programs:
                    return engine.name
            if number and words[number - 1] in ("-X", "-W"):
                continue
            break
        if word == "-c":
            break
    return "torch" if "torch" in engines else "other"


def _of_shell(words: Sequence[str], engines: Mapping[str, Engine]) -> str:
    """Of what follows `sh`: -c and a command, of which the last line that starts something."""
    for number, word in enumerate(words):
        if re.fullmatch(r"-[a-z]*c", word) and number + 1 < len(words):
            return _of_script(words[number + 1][:65536], engines)
        if not word.startswith("-"):
            break
    return "other"


def _of_script(script: str, engines: Mapping[str, Engine]) -> str:
    lexer = shlex.shlex(script, posix=True, punctuation_chars=";&|()\n")
    lexer.whitespace = " \t\r"
    lexer.whitespace_split = True
    found, command = "other", list[str]()
    try:
        words = [*lexer, ";"]
    except ValueError:  # a quotation that doesn't end
        return "other"
    for word in words:
        if word and set(word) <= set(";&|()\n"):
            name = engine_of(command, engines) if command else "other"
            if name != "other":
                found = name
            command = []
        elif len(command) < MAX_WORDS:
            command.append(word)
    return found
