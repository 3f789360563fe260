from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from modelcache.api import CompileCache
from modelcache.compilecache.bundles.trust import Trust
from modelcache.compilecache.places.protocol import Place
from modelcache.compilecache.starts.holding import Holding
from modelcache.compilecache.trees.scanning import Limits
from modelcache.errors import ModelCacheError, OriginUnavailable
from modelcache.planning.compileactions import Look
from modelcache.service.compilecache.crew import Crew
from modelcache.service.compilecache.jobs import Job
from modelcache.store import Store
from modelcache.store.durable import Durable
from modelcache.transfer import Cancel
from tests.component.service.compilecache.place import compile_cache
from tests.support.bundles import a_key


def away(_cache: CompileCache) -> Place:
    raise OriginUnavailable("away")


def a_job() -> Job:
    cache = CompileCache.from_document(compile_cache("file:///nowhere"))
    return Job(Look("tiny"), "spec", cache, a_key(), Trust(), "place", Limits())


def test_without_a_thread_an_object_is_not_at_work_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, ended = Store(tmp_path / "root"), threading.Event()
    crew = Crew(
        open_place=away,
        bring=lambda *_given, **_more: None,
        holding=Holding(store.layout, Durable(store.layout.scratch)),
        cancel=Cancel(),
        on_end=ended.set,
    )

    def no_more(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_more)
        with pytest.raises(ModelCacheError, match="raise the limit of processes"):
            crew.start(a_job())
    assert crew.running() == {}
    crew.start(a_job())
    assert ended.wait(20)
    (result,) = crew.results()
    assert isinstance(result.error, OriginUnavailable)
    crew.join(time.monotonic() + 5)
