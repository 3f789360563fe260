"""Cancelling ends a transfer within a second, whatever the origin is doing."""

from __future__ import annotations

import threading
import time

import pytest

from modelcache.errors import Cancelled
from modelcache.origins.hf import HuggingFaceOrigin
from modelcache.origins.protocol import HttpLocation, RemoteFile
from modelcache.transfer import Cancel, TransferSettings
from tests.component.transfer.conftest import MakeFetching
from tests.support.fetching import Fetching
from tests.support.hub import GeneratedContent, HubServer, Stall, Status, Trickle

MIB = 1024 * 1024
URI = "hf://org/model"


@pytest.mark.parametrize(
    "fault",
    [
        Stall(after=0, times=None),
        Stall(after=3 * MIB, times=None),
        Trickle(bytes_per_second=1000, times=None),
        Status(503, retry_after=30, times=None),
    ],
    ids=repr,
)
def test_it_ends_within_a_second(
    hub: HubServer, make_fetching: MakeFetching, fault: Stall | Trickle | Status
) -> None:
    fetching = make_fetching(TransferSettings(most_delay=60.0))
    hub.add_repo("org/model", {"model.safetensors": GeneratedContent(30 * MIB)})
    hub.fault("model.safetensors", fault)
    cancel = Cancel()
    background = fetching.in_background("model", URI, cancel=cancel)
    assert hub.wait_until(lambda requests: any(r.server == "cdn" for r in requests))
    began = time.monotonic()
    cancel.set()
    with pytest.raises(Cancelled):
        background.result(5.0)
    assert time.monotonic() - began < 1.0


def test_it_ends_within_a_second_where_an_origin_hangs(
    hub: HubServer, fetching: Fetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_repo("org/model", {"model.safetensors": GeneratedContent(MIB)})
    asked, answer, real = threading.Event(), threading.Event(), HuggingFaceOrigin.locate

    def locate(origin: HuggingFaceOrigin, file: RemoteFile) -> HttpLocation:
        asked.set()
        answer.wait(60)
        return real(origin, file)

    monkeypatch.setattr(HuggingFaceOrigin, "locate", locate)
    cancel = Cancel()
    background = fetching.in_background("model", URI, cancel=cancel)
    assert asked.wait(20)
    began = time.monotonic()
    cancel.set()
    with pytest.raises(Cancelled, match="left behind"):
        background.result(5.0)
    assert time.monotonic() - began < 1.0
    answer.set()


def test_one_model_is_stopped_and_the_others_go_on(hub: HubServer, fetching: Fetching) -> None:
    hub.add_repo("org/model", {"model.safetensors": GeneratedContent(30 * MIB)})
    hub.add_repo("org/other", {"other.safetensors": GeneratedContent(30 * MIB, seed=2)})
    hub.fault("model.safetensors", Stall(after=0, times=None))
    cancel = Cancel()
    stalled = fetching.in_background("model", URI, cancel=cancel)
    assert hub.wait_until(lambda requests: any(r.server == "cdn" for r in requests))
    other = fetching.in_background("other", "hf://org/other")
    cancel.set()
    with pytest.raises(Cancelled):
        stalled.result(5.0)
    assert fetching.store.verify(other.result()) == []
