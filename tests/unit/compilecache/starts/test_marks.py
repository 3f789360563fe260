"""What is known of bundles by starts: verified, failing, withdrawn for good."""

from __future__ import annotations

import threading

import pytest

from modelcache.api.compilecache import BundleState
from modelcache.compilecache.starts.marks import WITHDRAWN_AFTER, Mark, Marks
from modelcache.errors import UnsafePath

DIGEST = "1" * 64
OTHER = "2" * 64


def again(marks: Marks) -> Marks:
    """Another process's, or this one's after a restart."""
    return Marks(marks._layout, marks._durable)


def test_of_a_bundle_that_nobody_started_from_nothing_is_known(marks: Marks) -> None:
    assert marks.of("llama", DIGEST) == Mark()
    assert Mark().state is BundleState.PUBLISHED


def test_one_load_verifies(marks: Marks) -> None:
    marks.loaded("llama", f"sha256:{DIGEST}")
    first = again(marks).of("llama", DIGEST)
    assert (first.loads, first.verified, first.state) == (1, True, BundleState.VERIFIED)
    marks.loaded("llama", DIGEST)
    assert marks.of("llama", DIGEST).verified_at == first.verified_at
    assert marks.of("llama", OTHER) == Mark()
    assert marks.of("mistral", DIGEST) == Mark()


def test_failures_in_a_row_withdraw(marks: Marks) -> None:
    for number in range(WITHDRAWN_AFTER):
        assert not marks.of("llama", DIGEST).withdrawn
        assert again(marks).failed("llama", DIGEST, f"it is broken {number}").failures == number + 1
    found = marks.of("llama", DIGEST)
    assert (found.withdrawn, found.message) == (True, "it is broken 2")
    assert found.state is BundleState.WITHDRAWN


def test_a_load_in_between_forgives(marks: Marks) -> None:
    for _ in range(WITHDRAWN_AFTER):
        marks.failed("llama", DIGEST, "broken")
        marks.loaded("llama", DIGEST)
    found = marks.of("llama", DIGEST)
    assert (found.failures, found.withdrawn, found.message) == (0, False, "")


def test_what_is_withdrawn_stays_so(marks: Marks) -> None:
    first = marks.withdraw("llama", DIGEST, "three nodes could not load it")
    marks.loaded("llama", DIGEST)
    marks.failed("llama", DIGEST, "another reason")
    marks.withdraw("llama", DIGEST, "a third one")
    found = marks.of("llama", DIGEST)
    assert found.withdrawn_at == first.withdrawn_at
    assert found.message == "three nodes could not load it"


@pytest.mark.parametrize("content", [b"", b"{", b'{"loads": -1}', b'{"loads": "1"}x', b"x" * 20000])
def test_a_file_that_cannot_be_read_says_nothing_and_is_written_anew(
    marks: Marks, content: bytes
) -> None:
    marks.failed("llama", DIGEST, "broken")
    marks._layout.compile_mark("llama", DIGEST).write_bytes(content)
    assert marks.of("llama", DIGEST) == Mark()
    marks.loaded("llama", DIGEST)
    assert marks.of("llama", DIGEST).verified


def test_a_message_of_any_length_is_kept_short(marks: Marks) -> None:
    marks.failed("llama", DIGEST, "ä" * 100_000)
    assert len(marks.of("llama", DIGEST).message) == 1024


def test_two_that_count_at_once_lose_nothing(marks: Marks) -> None:
    def count(own: Marks) -> None:
        for _ in range(5):
            own.loaded("llama", DIGEST)

    threads = [threading.Thread(target=count, args=(again(marks),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert marks.of("llama", DIGEST).loads == 20


@pytest.mark.parametrize(("name", "digest"), [("../x", DIGEST), ("llama", "../../x")])
def test_names_that_lead_elsewhere_are_refused(marks: Marks, name: str, digest: str) -> None:
    for call in (marks.of, marks.loaded):
        with pytest.raises(UnsafePath):
            call(name, digest)
