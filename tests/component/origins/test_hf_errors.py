"""What goes wrong at the Hub, and what a person is told."""

import threading
import time

import pytest
from huggingface_hub import constants

from modelcache.api import parse_uri
from modelcache.errors import (
    AuthFailed,
    ModelCacheError,
    NotFound,
    OriginUnavailable,
    RateLimited,
)
from modelcache.origins import hubclient
from modelcache.origins.hf import HuggingFaceOrigin
from tests.support.hub import HubServer, Reset, Stall, Status
from tests.support.s3 import Answer, S3Stub

FILES = {"config.json": b"{}", "model.safetensors": b"weights"}


def resolve(uri: str = "hf://org/name") -> None:
    HuggingFaceOrigin(parse_uri(uri)).resolve()


def test_a_missing_repository_without_a_token_may_be_private(hub: HubServer) -> None:
    with pytest.raises(NotFound, match="or it is private: set HF_TOKEN or secretName"):
        resolve()


def test_a_missing_repository_with_a_token_is_missing(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    with pytest.raises(NotFound, match="there is no org/name at"):
        resolve()


def test_a_gated_repository_without_a_token(hub: HubServer) -> None:
    hub.add_repo("org/name", FILES, gated=True, token="hf_granted")
    with pytest.raises(AuthFailed, match=r"accept its licence at .*/org/name and set HF_TOKEN"):
        resolve()


def test_a_gated_repository_without_the_licence(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    hub.add_repo("org/name", FILES, gated=True, token="hf_granted")
    with pytest.raises(AuthFailed, match="with the token's account"):
        resolve()


def test_a_gated_repository_with_the_licence(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_granted")
    hub.add_repo("org/name", FILES, gated=True, token="hf_granted")
    resolve()


def test_a_token_that_is_refused(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_revoked")
    hub.add_repo("org/name", FILES)
    hub.revoke_token("hf_revoked")
    with pytest.raises(AuthFailed, match="refuses the token") as caught:
        resolve()
    assert "hf_revoked" not in str(caught.value)


def test_a_missing_revision(hub: HubServer) -> None:
    hub.add_repo("org/name", FILES)
    with pytest.raises(NotFound, match="no revision 'v9'"):
        resolve("hf://org/name@v9")


def test_a_missing_path(hub: HubServer) -> None:
    hub.add_repo("org/name", FILES)
    with pytest.raises(NotFound, match="no 'nope' at main"):
        resolve("hf://org/name/nope")


def test_a_file_that_is_gone_when_it_is_located(hub: HubServer) -> None:
    hub.add_repo("org/name", FILES)
    origin = HuggingFaceOrigin(parse_uri("hf://org/name"))
    _, model = origin.resolve().files
    hub.remove_repo("org/name")
    with pytest.raises(NotFound):
        origin.locate(model)


@pytest.mark.parametrize("where", ["*/revision/*", "*/tree/*"])
@pytest.mark.parametrize(
    ("status", "wait"),
    [
        (Status(429, retry_after=120), 120),
        (Status(429, headers={"RateLimit": '"api";r=0;t=55'}), 55),
        (Status(429, headers={"RateLimit": '"api";r=9;t=55'}, retry_after=7), 7),
        (Status(429), None),
    ],
)
def test_rate_limits_are_reported_at_once(
    hub: HubServer, where: str, status: Status, wait: float | None
) -> None:
    hub.add_repo("org/name", FILES)
    hub.fault_api(status, where)
    started = time.monotonic()
    with pytest.raises(RateLimited) as caught:
        resolve()
    assert caught.value.retry_after == wait
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("where", ["*/revision/*", "*/tree/*", "*/resolve/*"])
@pytest.mark.parametrize("fault", [Status(500), Status(503, retry_after=9), Status(408), Reset()])
def test_trouble_is_reported_at_once(hub: HubServer, where: str, fault: Status | Reset) -> None:
    hub.add_repo("org/name", FILES)
    hub.fault_api(fault, where)
    origin = HuggingFaceOrigin(parse_uri("hf://org/name"))
    started = time.monotonic()
    with pytest.raises(OriginUnavailable) as caught:
        origin.locate(origin.resolve().files[1])
    assert caught.value.retryable
    assert time.monotonic() - started < 2
    if isinstance(fault, Status):
        assert caught.value.retry_after == fault.retry_after
    # The shared client must have survived it.
    origin.locate(origin.resolve().files[1])


@pytest.mark.parametrize("where", ["*/revision/*", "*/tree/*", "*/resolve/*"])
def test_silence_ends_in_a_timeout(
    hub: HubServer, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hubclient, "TIMEOUT", type(hubclient.TIMEOUT)(0.3))
    hub.add_repo("org/name", FILES)
    hub.fault_api(Stall(), where)
    origin = HuggingFaceOrigin(parse_uri("hf://org/name"))
    with pytest.raises(OriginUnavailable, match=r"127\.0\.0\.1 can't be reached"):
        origin.locate(origin.resolve().files[1])


def test_a_hub_that_refuses_connections(hub: HubServer) -> None:
    hub.refuse_connections()
    with pytest.raises(OriginUnavailable, match=r"127\.0\.0\.1 can't be reached"):
        resolve()
    hub.accept_connections()


def test_offline_mode_is_named(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add_repo("org/name", FILES)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OriginUnavailable, match="HF_HUB_OFFLINE"):
        resolve()
    assert hub.requests == []


@pytest.mark.parametrize(
    "body",
    [b"<html>log in</html>", b"", b"null", b"[]", b'"x"', b"{}", b'{"sha":"x"}', b'{"sha":7}'],
)
def test_an_answer_that_is_not_the_hubs(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with S3Stub(GET=Answer(body=body)) as stub:
        monkeypatch.setenv("HF_ENDPOINT", stub.endpoint)
        with pytest.raises(OriginUnavailable, match="not the Hub's: check HF_ENDPOINT"):
            resolve()


@pytest.mark.parametrize(
    ("status", "kind"), [(403, AuthFailed), (404, NotFound), (418, OriginUnavailable)]
)
@pytest.mark.parametrize("body", [b"", b'{"error":"no"}'])
def test_statuses_without_a_code(
    status: int, kind: type[ModelCacheError], body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with S3Stub(GET=Answer(status, body=body)) as stub:
        monkeypatch.setenv("HF_ENDPOINT", stub.endpoint)
        with pytest.raises(ModelCacheError) as caught:
            resolve()
        assert type(caught.value) is kind


def test_a_next_page_at_another_host_sees_no_token(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_planted_token")
    hub.add_repo("org/name", FILES)
    with S3Stub(GET=Answer(body=b"[]")) as stranger:
        link = {"Link": f'<{stranger.endpoint}/next>; rel="next"', "Content-Type": "a/b"}
        hub.fault_api(Status(200, body=b"[]", headers=link), "*/tree/*")
        resolve()
        assert stranger.requests == ["GET /next"]
        assert stranger.authorized == 0


def test_many_threads_share_the_client_through_failures(hub: HubServer) -> None:
    """A failed connection must not close the client under another thread's request."""
    hub.add_repo("org/name", FILES)
    hub.fault_api(Reset(times=20), "*/tree/*")
    outcomes: list[str] = []

    def ask() -> None:
        for _ in range(10):
            try:
                resolve()
            except ModelCacheError as error:
                outcomes.append(error.reason)
            else:
                outcomes.append("done")

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["OriginUnavailable"] * 20 + ["done"] * 20
