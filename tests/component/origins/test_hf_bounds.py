"""A Hub whose answers have no end, or are not what they weigh."""

from __future__ import annotations

import gzip
import json
import re

import pytest

from modelcache.api import parse_uri
from modelcache.errors import OriginUnavailable
from modelcache.origins import hubclient
from modelcache.origins.hf import HuggingFaceOrigin
from tests.support.s3 import Answer, S3Stub

INFO = json.dumps({"id": "org/name", "sha": "0" * 40, "siblings": []}).encode()
PLAIN = {"Content-Type": "application/json"}


class Hub(S3Stub):
    def __init__(self, tree: Answer, info: Answer | None = None) -> None:
        super().__init__()
        self._tree, self._info = tree, info or Answer(200, headers=PLAIN, body=INFO)

    def answer(self, method: str, path: str, headers: object) -> Answer:
        return self._tree if "/tree/" in path else self._info


def refusal(hub: Hub, told: str) -> None:
    origin = HuggingFaceOrigin(parse_uri("hf://org/name"), endpoint=hub.endpoint)
    with pytest.raises(OriginUnavailable, match=re.escape(told)):
        origin.resolve()


def test_a_list_that_leads_back_to_itself_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hubclient, "MAX_REQUESTS", 50)
    link = {"Link": '</api/models/org/name/tree/x>; rel="next"', **PLAIN}
    with Hub(Answer(200, headers=link, body=b"[]")) as hub:
        hub._tree.headers["Link"] = f'<{hub.endpoint}/tree/x>; rel="next"'  # type: ignore[index]
        refusal(hub, "a list without an end")
        assert len(hub.requests) == 50


def test_a_bomb_is_not_unpacked() -> None:
    bomb = gzip.compress(bytes(64 * 1024 * 1024))
    packed = {**PLAIN, "Content-Encoding": "gzip"}
    with Hub(Answer(), Answer(200, headers=packed, body=bomb)) as hub:
        refusal(hub, "compresses its answers")


def test_an_answer_is_not_read_however_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hubclient, "MAX_ANSWER_BYTES", 1 << 20)
    with Hub(Answer(200, headers=PLAIN, body=b" " * (2 << 20) + b"[]")) as hub:
        refusal(hub, "more than")
