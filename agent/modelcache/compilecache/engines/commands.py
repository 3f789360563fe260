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
_MODULE: Final = re.compile(r"-[bBdEiIOPqsSuvx]*m(.*)", re.DOTALL)
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
        name = _of_program(word, engines)
        if name is not None:
            return name
        program = PurePosixPath(word).name
        if _PYTHON.fullmatch(program):
            return _of_python(words[number + 1 :], engines)
        if program in _SHELLS:
            return _of_shell(words[number + 1 :], engines)
        wrapped = wrapped or program in _WRAPPERS
        if not wrapped and not _ASSIGNMENT.fullmatch(word):
            return "other"
    return "other"


def _of_program(word: str, engines: Mapping[str, Engine]) -> str | None:
    program = PurePosixPath(word).name
    return next((e.name for e in engines.values() if program in e.programs), None)


def _of_python(words: Sequence[str], engines: Mapping[str, Engine]) -> str:
    """Of what follows `python`: options, then -m and a module, -c and code, or a script."""
    following = iter(words)
    for word in following:
        if word in ("-X", "-W"):
            next(following, None)
        elif found := _MODULE.fullmatch(word):
            module = found[1] or next(following, "")
            for engine in engines.values():
                if any(module == name or module.startswith(f"{name}.") for name in engine.modules):
                    return engine.name
            break
        elif word == "-c" or not word.startswith("-"):
            # A script; of an installed program (/opt/venv/bin/vllm), too.
            name = _of_program(word, engines)
            if name is not None:
                return name
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
