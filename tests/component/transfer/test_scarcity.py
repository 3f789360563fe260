"""A kernel or a container that gives less than usual: slower or a clear error, and no hanging."""

from __future__ import annotations

import errno
import mmap
import os
import threading

import pytest

from modelcache.errors import ModelCacheError
from tests.component.transfer.conftest import MakeFetching
from tests.support.hub import GeneratedContent, HubServer

MIB = 1024 * 1024
URI = "hf://org/model"


@pytest.fixture(autouse=True)
def model(hub: HubServer) -> None:
    hub.add_repo("org/model", {"model.safetensors": GeneratedContent(20 * MIB)})


def test_a_kernel_without_huge_pages(
    make_fetching: MakeFetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Plain(mmap.mmap):
        def madvise(self, *_: object) -> None:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(mmap, "mmap", Plain)
    fetching = make_fetching()
    manifest = fetching.in_background("model", URI).result(20.0)
    assert fetching.store.verify(manifest) == []


def test_no_memory_for_buffers_is_an_error_and_passes(
    make_fetching: MakeFetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object, **__: object) -> mmap.mmap:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    fetching = make_fetching()
    with monkeypatch.context() as patch:
        patch.setattr(mmap, "mmap", none)
        with pytest.raises(ModelCacheError, match="no memory for buffers"):
            fetching.in_background("model", URI).result(20.0)
    manifest = fetching.in_background("model", URI).result(20.0)
    assert fetching.store.verify(manifest) == []


@pytest.mark.parametrize("most", [0, 1])
def test_without_threads_it_fails_and_with_one_it_works(
    make_fetching: MakeFetching, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    real, started = threading.Thread.start, list[threading.Thread]()

    def start(thread: threading.Thread) -> None:
        if thread.name.startswith("transfer-"):
            if len(started) == most:
                raise RuntimeError("can't start new thread")
            started.append(thread)
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    fetching = make_fetching()
    run = fetching.in_background("model", URI)
    if most:
        assert fetching.store.verify(run.result(20.0)) == []
    else:
        with pytest.raises(ModelCacheError, match="no thread can be started"):
            run.result(20.0)
