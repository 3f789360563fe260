"""Who calls, by what a TokenReview says; a real API server is asked in the component tests."""

from __future__ import annotations

from typing import Any, cast

import pytest

from modelcache.cluster.callers import Caller, Callers
from modelcache.cluster.client import Client, Object
from modelcache.errors import AuthFailed, ClusterError, RateLimited

OURS = "modelcache.dev"


class Server:
    """Answers reviews as it is told."""

    def __init__(self) -> None:
        self.asked: list[Object] = []
        self.now = 0.0
        self.fault: ClusterError | None = None
        self.status: Object = {
            "authenticated": True,
            "audiences": [OURS],
            "user": {
                "username": "system:serviceaccount:team:engine",
                "extra": {
                    "authentication.kubernetes.io/pod-name": ["p"],
                    "authentication.kubernetes.io/pod-uid": ["u"],
                    "authentication.kubernetes.io/node-name": ["n1"],
                },
            },
        }

    def within(self, seconds: float) -> Server:
        assert seconds <= 10
        return self

    def create(self, resource: Any, thing: Object) -> Object:
        assert resource.plural == "tokenreviews"
        self.asked.append(thing["spec"])
        if self.fault is not None:
            raise self.fault
        return {**thing, "status": self.status}

    def callers(self) -> Callers:
        return Callers(cast(Client, self), OURS, clock=lambda: self.now)


def test_a_pods_token_and_it_is_asked_for_us_alone() -> None:
    server = Server()
    assert server.callers().identify("t") == Caller("team", "engine", "p", "u", "n1")
    assert server.asked == [{"token": "t", "audiences": [OURS]}]


@pytest.mark.parametrize(
    "change",
    [
        {"authenticated": False},
        {"authenticated": "true"},
        {"audiences": ["https://kubernetes.default.svc"]},
        {"audiences": []},
        {"user": {"username": "admin"}},
        {"user": {"username": "system:serviceaccount:team:engine"}},
        {"user": {"username": "system:serviceaccount:team"}},
    ],
)
def test_what_is_none_is_refused(change: Object) -> None:
    server = Server()
    server.status |= change
    with pytest.raises(AuthFailed):
        server.callers().identify("t")


@pytest.mark.parametrize("token", ["", "x" * 20_000, "zé"])
def test_what_can_be_no_token_is_not_asked_for(token: str) -> None:
    server = Server()
    with pytest.raises(AuthFailed):
        server.callers().identify(token)
    assert not server.asked


def test_an_older_server_does_not_say_the_node() -> None:
    server = Server()
    del server.status["user"]["extra"]["authentication.kubernetes.io/node-name"]
    assert server.callers().identify("t").node == ""


def test_an_answer_is_remembered_for_half_a_minute_also_a_refusal() -> None:
    server = Server()
    callers = server.callers()
    callers.identify("t")
    server.now = 29.0
    callers.identify("t")
    assert len(server.asked) == 1
    server.status = {"authenticated": False}
    server.now = 31.0
    for _ in range(3):
        with pytest.raises(AuthFailed):
            callers.identify("t")
    assert len(server.asked) == 2


def test_a_server_that_is_away_is_no_refusal() -> None:
    server = Server()
    callers = server.callers()
    server.fault = ClusterError("away")
    with pytest.raises(ClusterError):
        callers.identify("t")
    server.fault = None
    assert callers.identify("t").pod == "p"


def test_many_tokens_become_no_load_on_the_server() -> None:
    server = Server()
    server.status = {"authenticated": False}
    callers = server.callers()
    for number in range(20):
        with pytest.raises(AuthFailed):
            callers.identify(f"t{number}")
    for number in range(20, 100):
        with pytest.raises(RateLimited) as caught:
            callers.identify(f"t{number}")
        assert caught.value.retry_after
    assert len(server.asked) == 20
    server.now = 1.0
    with pytest.raises(AuthFailed):
        callers.identify("another")
