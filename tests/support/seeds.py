"""Bundles to seed from, and what a cache directory has then."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from modelcache.compilecache.bundles.local import LocalBundle
from modelcache.compilecache.bundles.signing import unsigned
from modelcache.store.durable import Durable
from tests.support.archives import MOMENT, packed
from tests.support.trees import content

KILLED = -signal.SIGKILL
_STEPS = frozenset(
    ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.utime", "os.link")
)


def bundle_of(
    folder: Path, files: Mapping[str, bytes], *, created_at: datetime = MOMENT
) -> LocalBundle:
    """A bundle with such files, in a new directory."""
    folder.mkdir()
    said = packed(folder / "root", files, folder / "archive").model_copy(
        update={"created_at": created_at}
    )
    (folder / "scratch").mkdir()
    durable = Durable(folder / "scratch")
    return LocalBundle.write(folder / "bundle", unsigned(said), folder / "archive", durable)


def engines_files(cache_dir: Path) -> dict[str, bytes]:
    """What an engine finds in a cache directory: all but what is ours."""
    found = content(cache_dir).items()
    return {path: data for path, data in found if not path.startswith(".modelcache")}


def killed_at_each_step(work: Callable[[], Any]) -> Iterator[int]:
    """Do the work in one process after another, each killed one call of the kernel later.

    It ends with the one that is not killed: so many steps there were.
    """
    step = 0
    status = KILLED
    while status == KILLED:
        step += 1
        status = _run(work, step)
        assert status in (0, KILLED), f"step {step} ended with {status}"
        yield step


def _run(work: Callable[[], Any], step: int) -> int:
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    left = step

    def count(event: str, _: tuple[Any, ...]) -> None:
        nonlocal left
        if event in _STEPS:
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    code = 1
    try:
        sys.addaudithook(count)
        work()
        code = 0
    except BaseException:  # noqa: BLE001 - of this process nothing else is seen
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)
