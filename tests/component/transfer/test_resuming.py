"""A fetch that ended in the middle is taken up where it was."""

from __future__ import annotations

import pytest

from modelcache.errors import Cancelled
from modelcache.transfer import Cancel, TransferSettings
from modelcache.transfer.buffers import PIECE_BYTES
from modelcache.transfer.events import BytesResumed
from tests.component.transfer.conftest import MakeFetching
from tests.support.fetching import Fetching
from tests.support.hub import GeneratedContent, HubServer

MIB = 1024 * 1024
SIZE = 64 * MIB + 5
URI = "hf://org/model"
CONNECTIONS = 4
SETTINGS = TransferSettings(connections=CONNECTIONS, first_delay=0.01, most_delay=0.05)


def stop_half_way(hub: HubServer, fetching: Fetching) -> int:
    """Fetch about half of the model, and say how many bytes came."""
    cancel = Cancel()
    hub.set_rate(60 * MIB)
    background = fetching.in_background("model", URI, cancel=cancel)
    assert hub.wait_until(lambda requests: sum(r.bytes_sent for r in requests) > SIZE // 2)
    cancel.set()
    with pytest.raises(Cancelled):
        background.result(2.0)
    fetching.close()
    hub.set_rate(None)
    return fetching.received


@pytest.fixture
def content(hub: HubServer) -> GeneratedContent:
    content = GeneratedContent(SIZE, seed=3)
    hub.add_repo("org/model", {"model.safetensors": content})
    return content


def test_a_new_process_goes_on_where_the_last_one_was(
    hub: HubServer, make_fetching: MakeFetching, content: GeneratedContent
) -> None:
    before = stop_half_way(hub, make_fetching(SETTINGS))
    assert before > SIZE // 4
    again = make_fetching(SETTINGS)
    manifest = again.fetch("model", URI)
    assert manifest.files[0].sha256 == content.sha256()
    assert again.store.verify(manifest) == []
    assert before + again.received - SIZE <= CONNECTIONS * PIECE_BYTES


def test_pieces_that_rotted_meanwhile_are_fetched_again(
    hub: HubServer, make_fetching: MakeFetching, content: GeneratedContent
) -> None:
    stop_half_way(hub, make_fetching(SETTINGS))
    again = make_fetching(SETTINGS)
    (data,) = again.root.glob("ingest/partial/*/data")
    with data.open("r+b") as file:
        file.seek(100)
        byte = file.read(1)[0]
        file.seek(100)
        file.write(bytes([byte ^ 1]))
    manifest = again.fetch("model", URI)
    assert manifest.files[0].sha256 == content.sha256()
    resumed = sum(event.size for event in again.told(BytesResumed))
    assert again.received == SIZE - resumed + PIECE_BYTES


def test_a_journal_that_says_nothing_sensible_costs_a_new_fetch(
    hub: HubServer, make_fetching: MakeFetching, content: GeneratedContent
) -> None:
    stop_half_way(hub, make_fetching(SETTINGS))
    again = make_fetching(SETTINGS)
    (journal,) = again.root.glob("ingest/partial/*/journal")
    journal.write_bytes(b"\xff\x00 rubbish\n1 2\n")
    manifest = again.fetch("model", URI)
    assert manifest.files[0].sha256 == content.sha256()
    assert again.received == SIZE


def test_nothing_is_left_of_a_partial_file(
    hub: HubServer, make_fetching: MakeFetching, content: GeneratedContent
) -> None:
    stop_half_way(hub, make_fetching(SETTINGS))
    again = make_fetching(SETTINGS)
    again.fetch("model", URI)
    assert list(again.root.glob("ingest/*/*")) == []
