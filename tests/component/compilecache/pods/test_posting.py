"""What a sidecar hands to its node's agent, over a real connection."""

from __future__ import annotations

import socket
import threading
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from modelcache.compilecache.bundles.statement import Archive
from modelcache.compilecache.engines.evidence import Evidence
from modelcache.compilecache.pods import posting
from modelcache.compilecache.pods.posting import Agent, Refused, Unavailable, again_and_again
from modelcache.compilecache.pods.protocol import CaptureAnswer, CaptureDocument, StartDocument
from modelcache.errors import AuthFailed, Cancelled
from modelcache.transfer import Cancel
from tests.support.compileagent import TOKEN, Answer, CompileAgent, refusal

CONTENT = bytes(range(256)) * 20_000  # 5 MB: several chunks, and more than sockets hold
DIGEST = f"sha256:{'b' * 64}"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "archive.tar.zst"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def capture() -> CaptureDocument:
    digest = f"sha256:{sha256(CONTENT).hexdigest()}"
    return CaptureDocument(
        archive=Archive(digest=digest, size=len(CONTENT), manifest=DIGEST, files=1, bytes=1),
        evidence=Evidence(source="files", ready=True),
        cache_dir="/cache",
        pod="team/engine",
    )


START = StartDocument(pod="team/engine", result="Hit", evidence=Evidence(source="files"))


def test_an_archive_is_handed_over(
    agent: CompileAgent, archive: Path, capture: CaptureDocument
) -> None:
    agent.answers = [Answer(201, {"digest": DIGEST})]
    answer = agent.client.publish("llama", capture, archive, Cancel())
    assert answer == CaptureAnswer(digest=DIGEST)
    assert agent.captures == [("llama", capture, CONTENT)]
    assert agent.tokens == [f"Bearer {TOKEN}"]


def test_a_start_is_told(agent: CompileAgent) -> None:
    agent.client.report("llama", START, Cancel())
    assert agent.starts == [("llama", START)]


@pytest.fixture
def _nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    def sent(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(posting, "_send", sent)


@pytest.mark.usefixtures("_nothing_is_sent")
def test_a_refusal_costs_no_upload(
    agent: CompileAgent, archive: Path, capture: CaptureDocument
) -> None:
    agent.answers = [refusal(403, "NotAPublisher", "no\nway", early=True)]
    with pytest.raises(Refused, match="403 NotAPublisher: no way"):
        agent.client.publish("llama", capture, archive, Cancel())
    assert (agent.requests, agent.uploaded) == (1, 0)


@pytest.mark.usefixtures("_nothing_is_sent")
def test_what_is_known_is_not_sent(
    agent: CompileAgent, archive: Path, capture: CaptureDocument
) -> None:
    agent.answers = [Answer(200, {"digest": DIGEST, "known": True}, early=True)]
    answer = agent.client.publish("llama", capture, archive, Cancel())
    assert answer == CaptureAnswer(digest=DIGEST, known=True)
    assert agent.uploaded == 0


def test_who_doesnt_know_the_word_is_given_it_all_the_same(
    agent: CompileAgent, archive: Path, capture: CaptureDocument, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(posting, "_CONTINUE_SECONDS", 0.1)
    agent.knows_expect = False
    agent.client.publish("llama", capture, archive, Cancel())
    assert agent.uploaded == len(CONTENT)


@pytest.mark.parametrize("middle", [False, True])
def test_what_is_refused_later_is_refused(
    agent: CompileAgent, archive: Path, capture: CaptureDocument, middle: bool
) -> None:
    agent.answers = [refusal(413, "TooLarge", middle=middle)]
    # In the middle the connection may be reset before the answer is read.
    with pytest.raises((Refused, Unavailable) if middle else Refused):
        agent.client.publish("llama", capture, archive, Cancel())
    assert not agent.captures


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("soon", None),
        ("-1", None),
        (None, None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_the_agent_may_ask_for_a_pause(
    agent: CompileAgent, status: int, value: str | None, seconds: float | None
) -> None:
    agent.answers = [refusal(status, "Busy", headers={"Retry-After": value} if value else {})]
    with pytest.raises(Unavailable) as told:
        agent.client.report("llama", START, Cancel())
    assert told.value.retry_after == seconds


def test_a_token_is_read_anew_each_time(agent: CompileAgent) -> None:
    agent.client.report("llama", START, Cancel())
    agent.token_file.write_text("another")
    agent.client.report("llama", START, Cancel())
    assert agent.tokens == [f"Bearer {TOKEN}", "Bearer another"]


@pytest.mark.parametrize("content", [b"", b"a b", b"a\r\nX: y", b"\xff"])
def test_what_is_no_token_is_told(agent: CompileAgent, content: bytes) -> None:
    agent.token_file.write_bytes(content)
    with pytest.raises(AuthFailed, match="token"):
        agent.client.report("llama", START, Cancel())
    agent.token_file.unlink()
    with pytest.raises(AuthFailed, match="No such file"):
        agent.client.report("llama", START, Cancel())
    assert agent.requests == 0


def test_a_token_that_isnt_taken(agent: CompileAgent) -> None:
    agent.answers = [refusal(401, "Unauthenticated")]
    with pytest.raises(AuthFailed, match="Unauthenticated") as told:
        agent.client.report("llama", START, Cancel())
    assert TOKEN not in str(told.value)


def test_nobody_is_there(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(Unavailable, match="refused"):
        Agent("127.0.0.1", port, token).report("llama", START, Cancel())


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 1", b"hello\r\n\r\n", b"HTTP/1.1 500 x\r\n\r\n"])
def test_a_broken_answer_is_tried_again(
    said: bytes, tmp_path: Path, archive: Path, capture: CaptureDocument
) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(said)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        with pytest.raises(Unavailable):
            Agent("127.0.0.1", server.getsockname()[1], token).publish(
                "llama", capture, archive, Cancel()
            )
        thread.join()


@pytest.mark.parametrize("knows_expect", [True, False])
def test_a_hanging_agent_holds_nobody_up_who_is_stopped(
    agent: CompileAgent, archive: Path, capture: CaptureDocument, knows_expect: bool
) -> None:
    agent.hangs, agent.knows_expect = True, knows_expect
    cancel = Cancel()

    def stop() -> None:
        agent.asked.wait(20)
        cancel.set()

    threading.Thread(target=stop, daemon=True).start()
    began = time.monotonic()
    with pytest.raises(Cancelled):
        agent.client.publish("llama", capture, archive, cancel)
    assert time.monotonic() - began < 10


def test_it_is_tried_until_it_is_done(agent: CompileAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posting, "_FIRST_SECONDS", 0.01)
    agent.answers = [refusal(503, "Busy"), refusal(500, "Broken")]
    pauses: list[float] = []
    cancel = Cancel()

    def report() -> None:
        agent.client.report("llama", START, cancel)

    again_and_again(report, cancel, seconds=60, told=lambda error, pause: pauses.append(pause))
    assert agent.requests == 3
    assert len(agent.starts) == 1
    assert len(pauses) == 2


def test_it_is_not_tried_for_ever(agent: CompileAgent) -> None:
    agent.answers = [refusal(503, "Busy", headers={"Retry-After": "100"})] * 9

    def report() -> None:
        agent.client.report("llama", START, Cancel())

    with pytest.raises(Unavailable, match="Busy"):
        again_and_again(report, Cancel(), seconds=50)
    assert agent.requests == 1


def test_a_refusal_is_not_tried_again(agent: CompileAgent) -> None:
    agent.answers = [refusal(404, "UnknownCache")]

    def report() -> None:
        agent.client.report("llama", START, Cancel())

    with pytest.raises(Refused):
        again_and_again(report, Cancel(), seconds=50)
    assert agent.requests == 1
