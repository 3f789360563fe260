"""Which engine, outside of a container: by the packages that its Python has."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Final

from modelcache.compilecache.keys.arguments import CHOOSERS, SHELLS, program_of
from modelcache.compilecache.keys.parts import canonical
from modelcache.errors import UsageError

_SECONDS: Final = 120.0
"""Reading the metadata of a thousand packages from a network file system takes about twenty."""
_PYTHON: Final = re.compile(r"python[0-9.]*")
_SHEBANG: Final = re.compile(rb"#!\s*(?P<program>\S+)(?:[ \t]+(?P<argument>[^\r\n]*\S))?")
# What pip writes where the path is too long for the kernel, or has blanks.
_LONG_SHEBANG: Final = re.compile(rb"#!/bin/sh\n'''exec' \"?(?P<program>[^\"\n]+?)\"? \"\$0\"")
_ASK: Final = """
import sys
sys.path[:] = [path for path in sys.path if path]  # not the working directory
import json, platform, sysconfig
from importlib.metadata import distributions
found = distributions(path=[*sys.path, *filter(None, sys.argv[1].split(":"))])
named = ((str(d.metadata["Name"]).lower(), str(d.version)) for d in found)
paths = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
print(json.dumps([sys.version, platform.machine(), platform.libc_ver(), paths, sorted({*named})]))
"""


def installed_identity(python: Path, environment: Mapping[str, str] = os.environ) -> str:
    """What stands for the image's digest: a digest over the Python's version, the C library's,
    where its packages lie, and the name and version of each: also of those that the user has
    installed for himself, and of those below PYTHONPATH.

    While it is asked, the Python imports nothing from PYTHONPATH or the working directory. Code
    that changes without its version, as of an editable install, isn't noticed: the engine hashes
    the sources that it compiles itself.

    Returns:
        `sha256:<64 hex>`.

    Raises:
        UsageError: it gives no answer.
    """
    try:
        done = subprocess.run(  # noqa: S603 - the Python that is about to be run anyway
            [python, "-E", "-c", _ASK, environment.get("PYTHONPATH", "")],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=_SECONDS,
        )
        answer = canonical({"python": json.loads(done.stdout)})
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else type(error).__name__
        raise UsageError(f"{python} doesn't say which packages it has: {what}") from error
    return f"sha256:{sha256(answer).hexdigest()}"


def identity_of_command(argv: Sequence[str], environment: Mapping[str, str]) -> str:
    """The identity of the engine that a command line begins: by its Python's packages, or of a
    program that isn't Python's by the program itself.

    Raises:
        UsageError: there is no such program, or it is a script that begins the engine in its turn.
    """
    name = program_of(argv)
    if Path(name).name in CHOOSERS:
        raise _untold(name)
    program = _found(name, environment)
    interpreter = _interpreter(Path(program), environment)
    if interpreter is not None:
        return installed_identity(interpreter, environment)
    with Path(program).open("rb") as file:
        if file.read(2) == b"#!" or Path(program).name in SHELLS:
            raise _untold(name)
        file.seek(0)
        return f"sha256:{file_digest(file, 'sha256').hexdigest()}"


def _untold(name: str) -> UsageError:
    return UsageError(
        f"which packages the engine has that {name} begins can't be told: begin the engine itself"
        " (vllm serve ..., python ...)"
    )


def _found(name: str, environment: Mapping[str, str]) -> str:
    program = shutil.which(name, path=environment.get("PATH", os.defpath))
    if program is None:
        raise UsageError(f"there is no program {name}")
    return program


def _interpreter(program: Path, environment: Mapping[str, str]) -> Path | None:
    """The Python that runs a program; None: it isn't Python's. A link is not followed: the Python
    of a virtual environment is one."""
    if _PYTHON.fullmatch(program.name):
        return program
    with program.open("rb") as file:
        head = file.read(4096)
    found = _LONG_SHEBANG.match(head) or _SHEBANG.match(head)
    if found is None:
        return None
    by = Path(os.fsdecode(found["program"]))
    if by.name == "env" and found["argument"]:
        words = os.fsdecode(found["argument"]).split()
        named = next((word for word in words if not word.startswith("-")), "")
        by = Path(_found(named, environment))
    return by if _PYTHON.fullmatch(by.name) else None
