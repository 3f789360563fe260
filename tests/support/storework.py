"""A process at work on a store, to be run beside others and to be killed.

`python -m tests.support.storework ROOT commit|churn SEED [noflock]`
"""

from __future__ import annotations

import fcntl
import random
import sys
from pathlib import Path

from modelcache.errors import ModelCacheError
from modelcache.store import Busy, Store
from tests.support.store import COMMIT, OTHER_COMMIT, REPOSITORY, put

SHARED = {f"layers/{number}.safetensors": b"shared %d" % number * 50 for number in range(12)}
MODELS = ("one", "two", "three")


def files_of(name: str, commit: str) -> dict[str, bytes]:
    """Content that is in part other models' and the other commit's."""
    return {**SHARED, "own": name.encode(), "config.json": commit.encode()}


def commit_once(store: Store, name: str, commit: str) -> bool:
    try:
        put(store, name, files_of(name, commit), commit=commit, repository=REPOSITORY)
    except (Busy, FileNotFoundError) as error:
        # Another fetches the blob, or evicted it between its finding and its use.
        print(f"again: {error}", flush=True)
        return False
    except ModelCacheError as error:
        if not error.retryable:
            raise
        print(f"again: {error}", flush=True)
        return False
    return True


def churn(store: Store, seed: int) -> None:
    """Commit, evict and sweep for ever."""
    chance = random.Random(seed)
    while True:
        name, commit = chance.choice(MODELS), chance.choice([COMMIT, OTHER_COMMIT])
        what = chance.random()
        if what < 0.6:
            commit_once(store, name, commit)
        elif what < 0.8:
            store.evict(name, commit)
        elif what < 0.95:
            store.evict(name)
        else:
            store.sweep()
        print("step", flush=True)


def main() -> None:
    root, what, seed, *more = sys.argv[1:]
    if more == ["noflock"]:
        fcntl.flock = lambda *_: None
    store = Store(Path(root))
    if what == "churn":
        churn(store, int(seed))
    while not commit_once(store, "one", COMMIT):
        pass


if __name__ == "__main__":
    main()
