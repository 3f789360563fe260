"""What pods may bring, over HTTP: each refusal with its reason, and nothing of it stays."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelcache.api import CompileCache
from modelcache.cluster.callers import Caller
from modelcache.compilecache.bundles.local import LocalBundle
from modelcache.compilecache.bundles.signing import SigningKey, TrustedKeys
from modelcache.compilecache.bundles.trust import Trust
from modelcache.compilecache.engines.evidence import Evidence
from modelcache.compilecache.keys.parts import Key
from modelcache.compilecache.pods.protocol import CAPTURE_HEADER, CaptureDocument, bundle_path
from modelcache.errors import ClusterError, RateLimited
from modelcache.service.compilecache.needs import Asked
from modelcache.store.durable import Durable
from tests.component.service.compilecache.node import MAX_BYTES, Node
from tests.component.service.compilecache.place import compile_cache
from tests.component.service.compilecache.pods import (
    Answered,
    capture,
    everything_below,
    put,
    start,
)
from tests.support.bundles import a_bundle, a_key, noise

ONLY_LOADED = Evidence(source="files", loaded=3)
NOT_ALL_LOADED = Evidence(source="files", compiled=1, load_failures=1)


def test_what_a_publisher_brings_is_signed_and_kept_and_is_to_be_published(node: Node) -> None:
    bundle = node.bundle()
    answer = node.put(bundle)
    assert answer.status == 201
    assert answer.continued
    digest = answer.document["digest"]
    (held,) = node.holding.of("tiny")
    assert f"sha256:{held.digest}" == digest
    taken = LocalBundle.open(held.directory)
    assert node.signing is not None
    statement = Trust(TrustedKeys(node.signing.public)).admit(taken.envelope_bytes)
    assert statement.key == a_key()
    assert statement.archive == bundle.statement.archive
    assert statement.producer.pod == "default/p"
    assert statement.producer.service_account == "default/engine"
    assert statement.producer.node == "n1"
    assert taken.archive.read_bytes() == bundle.archive.read_bytes()
    assert node.outbox.of("tiny") == {digest}
    assert node.news.is_set()
    size = node.metric("modelcache_compile_received_bytes_total", compile_cache="tiny")
    assert size == bundle.statement.archive.size


def test_that_it_is_to_be_published_is_noted_before_it_is_there(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in between, the other way round, the agent would never publish it."""
    real, noted = node.holding.add, []

    def add(*given: Any) -> Any:
        noted.append(node.outbox.of("tiny"))
        return real(*given)

    monkeypatch.setattr(node.holding, "add", add)
    digest = node.put().document["digest"]
    assert noted == [{digest}]


# Refused before a byte of the archive comes


def an_api_server_that_is_away(node: Node) -> None:
    node.caller = ClusterError("away")


def too_many_tokens(node: Node) -> None:
    node.caller = RateLimited("many")


def a_pod_of_another_node(node: Node) -> None:
    node.pods.clear()


def a_pod_that_was_made_anew(node: Node) -> None:
    node.pods["default/p"]["uid"] = "another"


def a_pod_that_has_ended(node: Node) -> None:
    node.pods["default/p"]["ended"] = True


def a_pod_that_the_server_says_is_elsewhere(node: Node) -> None:
    node.caller = Caller("default", "engine", "p", "uid-p", "n2")


def pods_that_are_not_known_yet(node: Node) -> None:
    """An agent that has just started: what it refuses for good is lost."""
    node.pods.clear()
    node.pods_known = False


def objects_that_were_not_looked_at_yet(node: Node) -> None:
    node.asked.clear()
    node.looked = False


def an_object_that_is_not_there(node: Node) -> None:
    node.asked.clear()


def no_publisher(node: Node) -> None:
    node.caller = Caller("default", "other", "p", "uid-p", "n1")


def a_publishers_name_in_another_namespace(node: Node) -> None:
    node.caller = Caller("elsewhere", "engine", "p", "uid-p", "n1")
    node.pods["elsewhere/p"] = node.pods["default/p"]


def no_signing_key(node: Node) -> None:
    node.signing = None


def another_image(node: Node) -> None:
    node.pods["default/p"]["images"] = [f"sha256:{'0' * 64}"]


def a_key_that_is_not_known(node: Node) -> None:
    node.asked["tiny"] = replace(node.asked["tiny"], key=None, why="the model is not here")


@pytest.mark.parametrize(
    ("prepare", "status", "reason"),
    [
        (an_api_server_that_is_away, 503, "Unavailable"),
        (too_many_tokens, 429, "Busy"),
        (a_pod_of_another_node, 403, "OtherNode"),
        (a_pod_that_was_made_anew, 403, "OtherNode"),
        (a_pod_that_has_ended, 403, "OtherNode"),
        (a_pod_that_the_server_says_is_elsewhere, 403, "OtherNode"),
        (pods_that_are_not_known_yet, 503, "Unavailable"),
        (objects_that_were_not_looked_at_yet, 503, "Unavailable"),
        (an_object_that_is_not_there, 404, "UnknownCache"),
        (no_publisher, 403, "NotAPublisher"),
        (a_publishers_name_in_another_namespace, 403, "NotAPublisher"),
        (no_signing_key, 403, "NoSigningKey"),
        (another_image, 409, "OtherImage"),
        (a_key_that_is_not_known, 503, "KeyUnknown"),
    ],
)
def test_who_may_not_is_refused_before_a_byte_comes(
    node: Node, prepare: Callable[[Node], None], status: int, reason: str
) -> None:
    prepare(node)
    refused(node, node.put(), status, reason)


def with_files(node: Node, files: int) -> CaptureDocument:
    """An archive that is said to have so many."""
    bundle = node.bundle()
    return capture(bundle, archive=bundle.statement.archive.model_copy(update={"files": files}))


def said(node: Node, **more: Any) -> Answered:
    """What is said of a bundle is wrong."""
    bundle = node.bundle()
    return node.put(bundle, said=capture(bundle, **more))


@pytest.mark.parametrize(
    ("ask", "status", "reason"),
    [
        (lambda n: n.put(token="x"), 401, "NotAuthenticated"),
        (lambda n: n.put(headers={"Authorization": ""}), 401, "NotAuthenticated"),
        (lambda n: n.put(name="other"), 404, "UnknownCache"),
        (lambda n: said(n, cache_dir="/tmp"), 409, "OtherDirectory"),
        (lambda n: said(n, evidence=ONLY_LOADED), 422, "OnlyLoaded"),
        (lambda n: said(n, evidence=NOT_ALL_LOADED), 422, "LoadFailed"),
        (lambda n: n.put(headers={"Modelcache-Capture": "e30="}), 400, "Malformed"),
        (lambda n: n.put(said=capture(n.bundle(b"other"))), 400, "Malformed"),
        (lambda n: n.put(headers={"Content-Length": "1"}), 400, "Malformed"),
        (lambda n: n.put(headers={"Content-Length": ""}), 411, "LengthRequired"),
        (lambda n: n.put(n.bundle(noise(MAX_BYTES + 1))), 413, "TooLarge"),
        (lambda n: n.put(said=with_files(n, 50_001)), 413, "TooLarge"),
    ],
    ids=lambda value: "" if callable(value) else str(value),
)
def test_what_can_not_be_taken_is_refused_before_a_byte_comes(
    node: Node, ask: Callable[[Node], Answered], status: int, reason: str
) -> None:
    refused(node, ask(node), status, reason)


def refused(node: Node, answer: Answered, status: int, reason: str) -> None:
    assert (answer.status, answer.reason) == (status, reason), answer.document
    assert not answer.continued
    assert ("Retry-After" in answer.headers) == (status in (429, 503))
    assert everything_below(node.root) == node.before
    assert node.metric("modelcache_compile_refused_total", reason=reason) == 1


# Refused after it came


def test_other_bytes_than_announced_leave_nothing(node: Node) -> None:
    bundle = node.bundle()
    body = bytearray(bundle.archive.read_bytes())
    body[-1] ^= 1
    answer = node.put(bundle, body=bytes(body))
    assert (answer.status, answer.reason) == (422, "ChecksumMismatch")
    assert everything_below(node.root) == node.before


def test_an_archive_that_is_none_leaves_nothing(node: Node) -> None:
    bundle = node.bundle()
    lying = bundle.statement.archive.model_copy(update={"manifest": f"sha256:{'5' * 64}"})
    answer = node.put(bundle, said=capture(bundle, archive=lying))
    assert (answer.status, answer.reason) == (422, "Unsafe")
    assert everything_below(node.root) == node.before


def test_a_pod_that_dies_in_the_middle_leaves_nothing(node: Node) -> None:
    bundle = node.bundle(noise(1_000_000))
    put(node.listener.address, "tiny", bundle, die_after=1000)
    deadline = time.monotonic() + 25
    while everything_below(node.root) != node.before and time.monotonic() < deadline:
        node.news.wait(0.05)
    assert everything_below(node.root) == node.before


def test_a_publisher_whose_place_is_away_fills_no_disk(node: Node) -> None:
    """Each generation is said to have grown from the last one."""
    seeded = None
    for number in range(4):
        bundle = node.bundle(b"%d" % number)
        answer = node.put(bundle, said=capture(bundle, seeded=seeded))
        assert answer.status == 201
        seeded = answer.document["digest"]
        held = next(h for h in node.holding.of("tiny") if seeded.endswith(h.digest))
        node.holding.show("tiny", held.key, held.digest)
    before = everything_below(node.root)
    bundle = node.bundle(b"more")
    answer = node.put(bundle, said=capture(bundle, seeded=seeded))
    assert (answer.status, answer.reason, answer.continued) == (503, "TooMany", False)
    assert everything_below(node.root) == before
    for digest in node.outbox.of("tiny"):
        node.outbox.take("tiny", digest)
    assert node.put(bundle, said=capture(bundle, seeded=seeded)).status == 201


def test_who_is_no_publisher_any_more_when_it_has_come_is_refused(node: Node) -> None:
    """While an archive comes, people change objects."""

    class Changing:
        def __call__(self, name: str) -> Asked | None:
            found = asked(name)
            publishers = [{"namespace": "default", "serviceAccount": "other"}]
            document = compile_cache("file:///nowhere", publishers=publishers)
            cache = CompileCache.from_document(document)
            node.asked["tiny"] = replace(node.asked["tiny"], cache=cache)
            return found

    asked = node.asked.get
    node.ask = Changing()
    answer = node.put()
    assert (answer.status, answer.reason, answer.continued) == (403, "NotAPublisher", True)
    assert everything_below(node.root) == node.before


def when_it_has_come(node: Node, change: Callable[[], object]) -> None:
    """Do something while an archive comes: the object is asked for when it is announced, and when
    it is there."""
    calls = iter(range(100))

    def ask(name: str) -> Asked | None:
        if next(calls) == 1:
            change()
        return node.asked.get(name)

    node.ask = ask


def test_it_is_signed_by_the_key_of_the_moment_and_not_by_one_that_was_taken_away(
    node: Node,
) -> None:
    new = SigningKey.generate()
    when_it_has_come(node, lambda: setattr(node, "signing", new))
    assert node.put().status == 201
    (held,) = node.holding.of("tiny")
    Trust(TrustedKeys(new.public)).admit(LocalBundle.open(held.directory).envelope_bytes)


def test_without_a_signing_key_any_more_nothing_is_taken(node: Node) -> None:
    when_it_has_come(node, lambda: setattr(node, "signing", None))
    answer = node.put()
    assert (answer.status, answer.reason, answer.continued) == (403, "NoSigningKey", True)
    assert everything_below(node.root) == node.before


@pytest.mark.parametrize("key", [None, a_key("org/other")], ids=["unknown", "another"])
def test_a_key_that_is_not_known_for_a_moment_is_no_other(node: Node, key: Key | None) -> None:
    """The node's labels change, say: what comes then is not lost."""
    changed = replace(node.asked["tiny"], key=key)
    when_it_has_come(node, lambda: node.asked.update(tiny=changed))
    answer = node.put()
    expected = (409, "KeyChanged") if key else (503, "KeyUnknown")
    assert (answer.status, answer.reason) == expected
    assert everything_below(node.root) == node.before


def a_note_goes(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last note of an object goes, with its folder, just when another is put there."""
    real = Durable.make_directory

    def make(durable: Durable, folder: Path) -> None:
        real(durable, folder)
        if folder.parent.name == "outbox" and gone:
            node.outbox.take("tiny", gone.pop())

    gone = [f"sha256:{'6' * 64}"]
    node.outbox.put("tiny", gone[0])
    monkeypatch.setattr(Durable, "make_directory", make)


def test_a_note_is_put_though_the_last_one_goes_at_that_moment(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_note_goes(node, monkeypatch)
    answer = node.put()
    assert answer.status == 201
    assert node.outbox.of("tiny") == {answer.document["digest"]}


# Who comes second


def test_what_came_from_another_node_meanwhile_was_first(node: Node) -> None:
    """A large archive takes minutes: the node may be shown another's in between."""

    def come() -> None:
        assert node.signing is not None
        bundle = a_bundle(node.folder / "other", b"first", key=a_key(), signed_by=node.signing)
        with node.holding.staging() as staging:
            for path in bundle.directory.iterdir():
                shutil.copy(path, staging)
            held = node.holding.add(staging, "tiny", a_key().digest, bundle.digest)
        node.holding.show("tiny", held.key, held.digest)
        first.append(bundle.digest)

    first: list[str] = []
    when_it_has_come(node, come)
    answer = node.put(node.bundle(b"second"))
    assert answer.continued
    assert (answer.document["known"], answer.document["digest"]) == (True, first[0])
    assert [f"sha256:{held.digest}" for held in node.holding.of("tiny")] == first
    assert not node.outbox.of("tiny")


def test_the_first_cold_start_wins(node: Node) -> None:
    first = node.put(node.bundle(b"one"))
    (held,) = node.holding.of("tiny")
    node.holding.show("tiny", held.key, held.digest)
    second = node.put(node.bundle(b"two"))
    assert second.status == 200
    assert not second.continued
    assert second.document["known"] is True
    assert second.document["digest"] == first.document["digest"]


def test_what_has_grown_from_what_is_shown_is_a_new_generation_and_newer(node: Node) -> None:
    first = node.put(node.bundle(b"one"))
    (held,) = node.holding.of("tiny")
    node.holding.show("tiny", held.key, held.digest)
    bundle = node.bundle(b"more")
    grown = capture(bundle, seeded=first.document["digest"])
    assert node.put(bundle, said=grown).status == 201
    statements = {
        LocalBundle.open(each.directory).statement.created_at for each in node.holding.of("tiny")
    }
    assert len(statements) == 2
    other = node.bundle(b"less")
    strange = capture(other, seeded=f"sha256:{'9' * 64}")
    assert node.put(other, said=strange).status == 200


# Starts


def test_a_hit_verifies_and_counts_what_it_saved(node: Node) -> None:
    digest = node.put().document["digest"]
    (held,) = node.holding.of("tiny")
    node.holding.show("tiny", held.key, held.digest)
    answer = node.tell(start(digest, compile_milliseconds=2_500))
    assert answer.status == 204
    assert node.starts.verified("tiny") == {digest}
    last, miss = node.starts.last("tiny")
    assert last is not None
    assert (last.result, miss) == ("Hit", None)
    saved = node.metric("modelcache_compile_seconds_saved_total", compile_cache="tiny")
    assert saved == pytest.approx(37.5)


def test_three_pods_that_can_not_load_it_withdraw_it_and_one_pod_can_not(node: Node) -> None:
    digest = node.put().document["digest"]
    failing = start(digest, "Miss", failures=2, reason="LoadFailed", message="can't be loaded")
    for _ in range(5):
        assert node.tell(failing).status == 204
    assert node.starts.withdrawn("tiny") == ()
    for name in ("p2", "p3"):
        node.caller = Caller("default", "engine", name, f"uid-{name}", "n1")
        node.pods[f"default/{name}"] = {"uid": f"uid-{name}", "images": [], "compile": "tiny"}
        assert node.tell(failing).status == 204
    (gone,) = node.starts.withdrawn("tiny")
    assert gone.digest == digest
    assert gone.key == a_key().digest
    missed = {"compile_cache": "tiny", "result": "Miss", "reason": "LoadFailed"}
    assert node.metric("modelcache_compile_starts_total", **missed) == 7


def test_a_pod_of_a_namespace_that_publishes_nothing_has_no_bundle_withdrawn(node: Node) -> None:
    """Anybody who may make pods can have three of them ask for any cache."""
    digest = node.put().document["digest"]
    failing = start(digest, "Miss", failures=2, reason="LoadFailed", message="can't be loaded")
    for name in ("p2", "p3", "p4"):
        node.caller = Caller("stranger", "engine", name, f"uid-{name}", "n1")
        node.pods[f"stranger/{name}"] = {"uid": f"uid-{name}", "images": [], "compile": "tiny"}
        assert node.tell(failing).status == 204
    assert node.starts.withdrawn("tiny") == ()
    last, _ = node.starts.last("tiny")
    assert last is not None
    assert last.result == "Miss"


def test_a_pod_that_tells_of_starts_all_the_time_is_told_to_wait(node: Node) -> None:
    statuses = [node.tell(start(None)).status for _ in range(10)]
    assert statuses == [204] * 8 + [429] * 2
    node.caller = Caller("default", "engine", "q", "uid-q", "n1")
    node.pods["default/q"] = {"uid": "uid-q", "images": [], "compile": "tiny"}
    assert node.tell(start(None)).status == 204


def test_a_start_is_believed_to_who_asked_for_the_cache_only(node: Node) -> None:
    node.pods["default/p"]["compile"] = "another"
    answer = node.tell(start(None))
    assert (answer.status, answer.reason) == (403, "OtherCache")
    node.pods["default/p"]["compile"] = "tiny"
    assert node.tell(b"{}").status == 400
    assert node.tell(b" " * 300_000).status == 413
    assert node.starts.last("tiny") == (None, None)


# The listener


def test_who_asks_gets_in_however_many_keep_silent(node: Node) -> None:
    """Behind a hostPort all pods of a node may have one address."""
    node.listener._server.first_seconds = 60.0  # so that nobody's time is up
    with ExitStack() as stack:

        def connect() -> socket.socket:
            connection = socket.create_connection(node.listener.address, timeout=20)
            return stack.enter_context(connection)

        silent = [connect() for _ in range(40)]
        assert all(each.recv(1) == b"" for each in silent[:8])
        assert node.put().status == 201
        assert silent[8].recv(1) == b""


def test_one_byte_now_and_then_keeps_no_connection_open(node: Node) -> None:
    with socket.create_connection(node.listener.address) as connection:
        began = time.monotonic()
        while not is_closed(connection) and time.monotonic() - began < 10:
            with suppress(OSError):
                connection.sendall(b"G")
        assert time.monotonic() - began < 8
    assert node.put().status == 201


def is_closed(connection: socket.socket) -> bool:
    connection.settimeout(0.1)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def test_what_a_publisher_brings_comes_however_many_others_come(node: Node) -> None:
    bundle = node.bundle(noise(100_000))
    content = bundle.archive.read_bytes()
    with ExitStack() as stack:
        first = begin(node, bundle, stack)
        first.sendall(content[:1000])
        flood = [
            stack.enter_context(socket.create_connection(node.listener.address, timeout=20))
            for _ in range(80)
        ]
        # So many came that the first would have gone, if it could.
        assert all(each.recv(1) == b"" for each in flood[:40])
        first.sendall(content[1000:])
        assert first.recv(100).startswith(b"HTTP/1.1 201 ")


def begin(node: Node, bundle: LocalBundle, stack: ExitStack) -> socket.socket:
    """A connection over which an archive may come now."""
    said = capture(bundle)
    connection = stack.enter_context(socket.create_connection(node.listener.address, timeout=20))
    head = (
        f"PUT {bundle_path('tiny', bundle.statement.archive.digest)} HTTP/1.1",
        "Authorization: Bearer token",
        f"Content-Length: {said.archive.size}",
        "Expect: 100-continue",
        f"{CAPTURE_HEADER}: {said.to_header()}",
    )
    connection.sendall("\r\n".join((*head, "", "")).encode())
    assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    return connection


def test_a_head_has_a_bound_in_all_and_not_only_in_each_line(node: Node) -> None:
    """A hundred headers of 64 KiB, of thirty connections, would be more memory than the agent has:
    whoever reaches the port could have it killed."""
    with socket.create_connection(node.listener.address, timeout=20) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n" + 2 * (b"X: " + b"a" * 50_000 + b"\r\n"))
        # No more is waited for.
        assert connection.recv(100).startswith(b"HTTP/1.1 431 ")
    assert node.put().status == 201


def test_an_address_with_many_wrong_tokens_does_not_take_all_questions(node: Node) -> None:
    """How often the API server is asked is bounded for all pods together."""
    asked: list[str] = []
    node.asked_of = asked.append
    for number in range(20):
        answer = node.put(token=f"wrong{number}")
        assert answer.status == (401 if number < 8 else 429)
    assert len(asked) == 8


def a_token(uid: str, name: str = "p", namespace: str = "default") -> str:
    """As kubelet projects it, but for the signature."""
    claims = {"kubernetes.io": {"namespace": namespace, "pod": {"name": name, "uid": uid}}}
    return f"e30.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.x"


def test_wrong_tokens_of_one_pod_are_not_held_against_all_of_its_address(node: Node) -> None:
    """Behind a hostPort all pods of a node may have one address."""
    node.tokens.add(a_token("uid-p"))
    node.pods["default/q"] = {"uid": "uid-q", "images": [], "compile": "tiny"}
    asked: list[str] = []
    node.asked_of = asked.append
    # Its own uid is all that a pod knows: others' are guessed in vain.
    for wrong, uid in (("uid-q", "q"), ("uid-p-guessed", "p"), ("", "p")):
        statuses = [node.put(token=a_token(wrong, uid)).status for _ in range(9)]
        assert statuses[0] in (401, 429)
        assert statuses[8] == 429
    assert len(asked) == 16
    assert node.put(token=a_token("uid-p")).status == 201


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"e30",
        b"[" * 12_000,
        b'{"kubernetes.io": 1}',
        b'{"kubernetes.io": {"pod": []}}',
        b"\xff",
        b'{"kubernetes.io": {"namespace": [], "pod": {"name": {}, "uid": 1}}}',
    ],
)
def test_a_token_that_can_not_be_read_is_none(node: Node, payload: bytes) -> None:
    token = f"a.{base64.urlsafe_b64encode(payload).decode()}.b"
    for each in (token, "a.%%%.b", "a.b", "."):
        assert node.put(token=each).status == 401
