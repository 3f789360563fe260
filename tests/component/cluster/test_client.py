"""The client against the real API server: its answers, its errors, its streams."""

from __future__ import annotations

import datetime
import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kubernetes.config import incluster_config

from modelcache.cluster import client as clients
from modelcache.cluster.client import (
    COMPILE_CACHES,
    LEASES,
    NODES,
    SILENT,
    Client,
    Patch,
    Resource,
    Watching,
)
from modelcache.errors import ClusterError, UsageError
from tests.support.apifaults import ApiFaults, Close, Hang, Refuse, Say, Stream, Swallow
from tests.support.cluster.plane import ControlPlane
from tests.support.cluster.waiting import eventually

CONFIG_MAPS = Resource("", "v1", "configmaps", namespaced=True)
SPACE = "modelcache-system"


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "labels": {"test": "client"}},
        "data": data,
    }


@pytest.fixture(autouse=True)
def no_config_maps(cluster: ControlPlane) -> Iterator[None]:
    yield
    cluster.api(f"/api/v1/namespaces/{SPACE}/configmaps?labelSelector=test%3Dclient", "DELETE")


# Objects


def test_an_object_is_created_changed_and_deleted(admin: Client) -> None:
    made = admin.create(CONFIG_MAPS, config_map("one", a="1"), SPACE)
    assert made["metadata"]["uid"]
    admin.patch(CONFIG_MAPS, "one", {"data": {"b": "2"}}, namespace=SPACE)
    test = [{"op": "test", "path": "/data/a", "value": "1"}, {"op": "remove", "path": "/data/a"}]
    admin.patch(CONFIG_MAPS, "one", tuple(test), Patch.JSON, namespace=SPACE)
    found = admin.get(CONFIG_MAPS, "one", SPACE)
    assert found["data"] == {"b": "2"}
    found["data"] = {"c": "3"}
    admin.replace(CONFIG_MAPS, found, SPACE)
    with pytest.raises(ClusterError) as stale:
        admin.replace(CONFIG_MAPS, found, SPACE)
    assert (stale.value.status, stale.value.code) == (409, "Conflict")
    admin.delete(CONFIG_MAPS, "one", SPACE)
    with pytest.raises(ClusterError) as gone:
        admin.get(CONFIG_MAPS, "one", SPACE)
    assert (gone.value.status, gone.value.code) == (404, "NotFound")


def test_who_changed_it_is_told(admin: Client) -> None:
    made = admin.create(CONFIG_MAPS, config_map("managed"), SPACE)
    assert [entry["manager"] for entry in made["metadata"]["managedFields"]] == [
        clients.FIELD_MANAGER
    ]


def test_a_deletion_is_refused_when_the_object_is_another_or_was_changed(admin: Client) -> None:
    made = admin.create(CONFIG_MAPS, config_map("guarded"), SPACE)["metadata"]
    admin.patch(CONFIG_MAPS, "guarded", {"data": {"b": "2"}}, namespace=SPACE)
    for wrong in (
        {"uid": "11111111-1111-1111-1111-111111111111"},
        {"resource_version": made["resourceVersion"]},
    ):
        with pytest.raises(ClusterError) as refused:
            admin.delete(CONFIG_MAPS, "guarded", SPACE, **wrong)
        assert refused.value.status == 409
    admin.delete(CONFIG_MAPS, "guarded", SPACE, uid=made["uid"])


# Lists


def test_a_list_by_labels_and_fields(admin: Client) -> None:
    for name in ("a", "b"):
        admin.create(CONFIG_MAPS, config_map(name), SPACE)
    found = admin.list(CONFIG_MAPS, SPACE, labels="test=client", fields="metadata.name=b")
    assert [thing["metadata"]["name"] for thing in found.items] == ["b"]
    assert found.resource_version


def test_a_list_comes_in_pages(
    admin: Client, cluster: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "_PAGE", 3)
    names = [f"page-{number}" for number in range(8)]
    for name in names:
        admin.create(CONFIG_MAPS, config_map(name), SPACE)
    before = len(cluster.requests(verb="list", resource="configmaps"))
    found = admin.list(CONFIG_MAPS, SPACE, labels="test=client")
    assert [thing["metadata"]["name"] for thing in found.items] == names
    asked = cluster.requests(verb="list", resource="configmaps")[before:]
    assert len([e for e in asked if "labelSelector=test" in e["requestURI"]]) == 3
    pages = list(admin.pages(CONFIG_MAPS, SPACE))
    assert len(pages) > 2
    assert {thing["metadata"]["name"] for page in pages for thing in page.items} >= set(names)
    assert len({page.resource_version for page in pages}) == 1, "all of one moment"


@pytest.mark.parametrize("body", [b"{}", b'{"metadata": {}}', b"[]", b"null", b"<html>", b""])
def test_what_is_no_list_is_not_an_empty_one(
    faults: ApiFaults, faulty: Client, body: bytes
) -> None:
    faults.on(Say(body))
    with pytest.raises(ClusterError) as error:
        faulty.list(NODES)
    assert error.value.status == 0


# Errors


def test_an_error_has_status_code_message_and_wish(faults: ApiFaults, faulty: Client) -> None:
    faults.on(Refuse(429, retry_after=7), times=1)
    faults.on(Refuse(502, page="<html>Bad Gateway</html>"), times=1)
    with pytest.raises(ClusterError, match="made by the test") as told:
        faulty.get(NODES, "a")
    assert (told.value.status, told.value.code) == (429, "TooManyRequests")
    assert told.value.retry_after == 7
    with pytest.raises(ClusterError, match="502") as page:
        faulty.get(NODES, "a")
    assert (page.value.status, page.value.code) == (502, "")


def test_no_answer_has_no_status(faults: ApiFaults, faulty: Client) -> None:
    faults.on(Close(), times=1)
    faults.on(Hang(), times=1)
    for patience in (faulty, faulty.within(0.3)):
        began = time.monotonic()
        with pytest.raises(ClusterError) as error:
            patience.get(NODES, "a")
        assert error.value.status == 0
        assert time.monotonic() - began < 3
    with faults.away(), pytest.raises(ClusterError, match="refused") as error:
        faulty.get(NODES, "a")
    assert error.value.status == 0
    assert faulty.list(NODES).resource_version  # and it goes on


def test_nothing_is_sent_twice_by_itself(admin: Client, faults: ApiFaults, faulty: Client) -> None:
    faults.on(Swallow(), method="POST", times=1)
    with pytest.raises(ClusterError):
        faulty.create(CONFIG_MAPS, config_map("once"), SPACE)
    assert len(faults.requests(method="POST")) == 1
    assert admin.get(CONFIG_MAPS, "once", SPACE)


def test_an_unknown_kind_is_not_found(admin: Client) -> None:
    with pytest.raises(ClusterError) as error:
        admin.list(Resource("nobody.example", "v1", "things"))
    assert error.value.status == 404


# Access


def make_certificate(key: Path, certificate: Path) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)


def test_a_wrong_token_and_a_wrong_ca_are_told(cluster: ControlPlane, tmp_path: Path) -> None:
    stranger = Client.connect(cluster.write_kubeconfig(tmp_path / "stranger", "no-such-token"))
    with pytest.raises(ClusterError) as refused:
        stranger.list(NODES)
    assert refused.value.status == 401
    make_certificate(tmp_path / "key", tmp_path / "crt")
    document = json.loads(cluster.kubeconfig.read_text())
    document["clusters"][0]["cluster"]["certificate-authority"] = str(tmp_path / "crt")
    (tmp_path / "wrong-ca").write_text(json.dumps(document))
    distrusting = Client.connect(tmp_path / "wrong-ca")
    with pytest.raises(ClusterError, match="CERTIFICATE_VERIFY_FAILED") as untrusted:
        distrusting.list(NODES)
    assert untrusted.value.status == 0
    stranger.close()
    distrusting.close()


def test_a_service_account_may_do_what_its_role_says(cluster: ControlPlane) -> None:
    client = Client.connect(cluster.service_account_kubeconfig("default", "default"))
    with pytest.raises(ClusterError) as refused:
        client.list(NODES)
    assert (refused.value.status, refused.value.code) == (403, "Forbidden")
    client.close()


def test_a_client_certificate(cluster: ControlPlane, tmp_path: Path) -> None:
    """By way of a server that wants one: the API server of the tests takes tokens only."""
    key, crt = tmp_path / "client.key", tmp_path / "client.crt"
    make_certificate(key, crt)
    server = cluster.serving.certificate, cluster.serving.key
    with ApiFaults(cluster.url, cluster.ca, certificate=server, clients=crt) as proxy:
        document = json.loads(proxy.kubeconfig(cluster.kubeconfig, tmp_path / "bare").read_text())
        bare = Client.connect(tmp_path / "bare")
        with pytest.raises(ClusterError) as refused:
            bare.list(NODES)
        assert refused.value.status == 0
        user = document["users"][0]["user"]
        user |= {"client-certificate": str(crt), "client-key": str(key)}
        (tmp_path / "certified").write_text(json.dumps(document))
        certified = Client.connect(tmp_path / "certified")
        assert certified.list(NODES).resource_version
        bare.close()
        certified.close()


def test_no_way_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        Client.connect(tmp_path / "nothing")
    (tmp_path / "broken").write_text("apiVersion: v1\nkind: Config\nclusters: []\n")
    with pytest.raises(UsageError):
        Client.connect(tmp_path / "broken")


def test_a_token_that_rotates_on_disk(
    cluster: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = cluster.service_account_kubeconfig("default", "default")
    good = json.loads(account.read_text())["users"][0]["user"]["token"]
    token = tmp_path / "token"
    token.write_text("an-expired-one")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(cluster.port))
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(cluster.ca))
    client = Client.connect()
    with pytest.raises(ClusterError) as refused:
        client.get(NODES, "a")
    assert refused.value.status == 401
    token.write_text(good)

    class Later(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Later:
            return super().now(tz) + datetime.timedelta(seconds=61)

    later = SimpleNamespace(datetime=Later, timedelta=datetime.timedelta)
    monkeypatch.setattr(incluster_config, "datetime", later)
    with pytest.raises(ClusterError) as known:
        client.get(NODES, "a")
    assert known.value.status == 403, "the server knows who asks"
    # A file that can't be read in a bad moment is one failed request.
    token.write_text("")
    Later.now = classmethod(  # type: ignore[assignment]
        lambda cls, tz=None: datetime.datetime.now(tz) + datetime.timedelta(seconds=200)
    )
    with pytest.raises(ClusterError) as empty:
        client.get(NODES, "a")
    assert empty.value.status == 0
    client.close()


# Streams


def read_in_thread(stream: Watching) -> tuple[list[tuple[float, Any]], threading.Thread]:
    came: list[tuple[float, Any]] = []

    def read() -> None:
        try:
            for events in stream.batches():
                came.extend((time.monotonic(), event) for event in events)
        except ClusterError as error:
            came.append((time.monotonic(), error))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return came, thread


def read_to_the_end(stream: Watching) -> list[tuple[float, Any]]:
    came, thread = read_in_thread(stream)
    thread.join(10)
    assert not thread.is_alive()
    return came


def test_each_event_comes_at_once(admin: Client) -> None:
    version = admin.list(CONFIG_MAPS, SPACE).resource_version
    with admin.watch(CONFIG_MAPS, version, SPACE, seconds=30) as stream:
        came, thread = read_in_thread(stream)
        for number in range(5):
            admin.create(CONFIG_MAPS, config_map(f"event-{number}"), SPACE)
            made = time.monotonic()
            eventually(lambda n=number: len(came) > n, pause=0.005)  # type: ignore[misc]
            at, event = came[number]
            assert event["type"] == "ADDED"
            assert event["object"]["metadata"]["name"] == f"event-{number}"
            assert at - made < 0.5
        stream.stop()
        thread.join(5)
    assert not thread.is_alive()


def test_a_large_event_comes_whole(admin: Client) -> None:
    version = admin.list(CONFIG_MAPS, SPACE).resource_version
    with admin.watch(CONFIG_MAPS, version, SPACE, seconds=30) as stream:
        came, thread = read_in_thread(stream)
        admin.create(CONFIG_MAPS, config_map("large", text="ä" * 400_000), SPACE)
        admin.create(CONFIG_MAPS, config_map("small"), SPACE)
        eventually(lambda: len(came) == 2)
        assert came[0][1]["object"]["data"]["text"] == "ä" * 400_000
        stream.stop()
        thread.join(5)


def test_the_server_ends_a_stream_in_time(admin: Client) -> None:
    version = admin.list(COMPILE_CACHES).resource_version
    began = time.monotonic()
    with admin.watch(COMPILE_CACHES, version, seconds=1) as stream:
        assert list(stream.batches()) == []
    assert 0.9 < time.monotonic() - began < 5


@pytest.mark.parametrize("tls", [True, False])
def test_a_stream_is_ended_from_another_thread(admin: Client, faulty: Client, *, tls: bool) -> None:
    client = admin if tls else faulty
    version = client.list(COMPILE_CACHES).resource_version
    with client.watch(COMPILE_CACHES, version, seconds=60) as stream:
        came, thread = read_in_thread(stream)
        thread.join(0.2)
        assert thread.is_alive()
        stream.stop()
        thread.join(2)
        assert not thread.is_alive()
        assert not [event for _, event in came if isinstance(event, dict)]
        stream.stop()  # again does no harm


def test_a_quiet_kind_is_silent(admin: Client) -> None:
    version = admin.list(COMPILE_CACHES).resource_version
    began = time.monotonic()
    with (
        admin.watch(COMPILE_CACHES, version, seconds=60, silence=0.4) as stream,
        pytest.raises(ClusterError) as silent,
    ):
        list(stream.batches())
    assert silent.value.code == SILENT
    assert 0.3 < time.monotonic() - began < 3


GOOD = json.dumps(
    {"type": "ADDED", "object": {"metadata": {"name": "a", "resourceVersion": "5"}}}
).encode()


@pytest.mark.parametrize(
    "bad",
    [
        b"nonsense\n",
        b'{"type": "ADDED"}\n',
        b'{"type": "ADDED", "object": {"metadata": {"name": "b"}}}\n',
        b'{"type": "ADDED", "object": {"metadata": {"resourceVersion": "6"}}}\n',
        b'{"type": "ERROR", "object": "no status"}\n',
        b"[]\n",
    ],
)
def test_what_is_no_event_breaks_the_stream_but_not_what_came_before(
    faults: ApiFaults, faulty: Client, bad: bytes
) -> None:
    faults.on(Stream((GOOD + b"\n" + bad,), hangs=True))
    with faulty.watch(NODES, "4") as stream:
        (_, first), (_, broken) = read_to_the_end(stream)
    assert first["object"]["metadata"]["name"] == "a"
    assert isinstance(broken, ClusterError)
    assert broken.status == 0


def test_a_proxy_may_deal_in_other_pieces(faults: ApiFaults, faulty: Client) -> None:
    named = GOOD.replace(b'"a"', '"ä"'.encode())
    pieces = [bytes([byte]) for byte in named + b"\n"]
    faults.on(Stream((*pieces, named + b"\n" + named, b"\n")))
    with faulty.watch(NODES, "4") as stream:
        came = read_to_the_end(stream)
    assert [event["object"]["metadata"]["name"] for _, event in came] == ["ä"] * 3


def test_a_stream_that_is_cut_is_told(faults: ApiFaults, faulty: Client) -> None:
    faults.on(Stream((GOOD + b"\n", GOOD[:10]), cut=True))
    with faulty.watch(NODES, "4") as stream:
        (_, first), (_, broken) = read_to_the_end(stream)
    assert first["object"]["metadata"]["name"] == "a"
    assert isinstance(broken, ClusterError)
    assert broken.status == 0


def test_the_head_of_a_stream_is_waited_for_no_longer_than_an_answer(
    faults: ApiFaults, faulty: Client
) -> None:
    faults.on(Hang())
    began = time.monotonic()
    with pytest.raises(ClusterError), faulty.within(0.3).watch(NODES, "4", silence=60):
        pass
    assert time.monotonic() - began < 3


def test_a_dead_peer_is_noticed_by_the_kernel(admin: Client) -> None:
    version = admin.list(LEASES).resource_version
    with admin.watch(LEASES, version, seconds=5) as stream:
        sock = stream._response.connection.sock  # type: ignore[union-attr]
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        idle = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
        probes = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT)
        each = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL)
        assert idle + probes * each <= 60
