"""The page of a real agent, from its first byte."""

from __future__ import annotations

import http.client
import json
import urllib.parse
from pathlib import Path

from tests.component.service.page.test_updating import await_in
from tests.support.agent import AgentProcess, write_catalog
from tests.support.chromium import WIDE, Chromium
from tests.support.cluster.waiting import eventually
from tests.support.hub import GeneratedContent, HubServer

MIB = 1 << 20
TOKEN = "hf_a-planted-token"


def answer(running: AgentProcess, path: str, method: str) -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(running.url).netloc, timeout=10)
    connection.request(method, path)
    got = connection.getresponse()
    body = got.read().decode()
    connection.close()
    return got.status, body, {name.lower(): value for name, value in got.getheaders()}


def test_one_sees_a_model_come_and_another_fail(
    tmp_path: Path, hub: HubServer, chromium: Chromium
) -> None:
    commit = hub.add_repo("org/a", {"w.safetensors": GeneratedContent(24 * MIB, seed=1)})
    hub.add_repo("org/gated", {"w.safetensors": b"x"}, gated=True, token="hf_other")
    hub.set_rate(2 * MIB)
    catalog = write_catalog(
        tmp_path / "catalog.yaml",
        {"name": "a", "uri": "hf://org/a", "priority": 3},
        {"name": "gated", "uri": "hf://org/gated"},
    )
    env = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}
    with AgentProcess(tmp_path / "root", catalog, env=env) as running:
        running.wait_for_event("fetch.started")
        running.wait_failed("gated")
        # Before its first report the page says that the agent starts, and then loads anew.
        eventually(lambda: answer(running, "/", "HEAD")[0], lambda status: status == 200)
        with chromium.open(running.url + "/", WIDE) as page:
            await_in(page, "document.querySelector('#model-a progress')?.value > 0")
            row = "document.querySelector('#model-a').innerText"
            await_in(page, f"/MiB\\/s, .* left/.test({row})")
            assert "Downloading" in page.evaluate(row)
            refused = page.evaluate("document.querySelector('#model-gated').innerText")
            assert "AuthFailed" in refused
            assert "next in" in refused
            hub.set_rate(None)
            await_in(page, f"/Ready/.test({row})")
            headline = page.evaluate("document.querySelector('#verdict').innerText")
            assert "1 of 2 models ready" in headline
            told = page.evaluate("document.querySelector('#events').innerText")
            assert page.complaints == []
            assert page.loads == 1
            assert page.evaluate("document.cookie") == ""
            whole = page.evaluate("document.documentElement.outerHTML")
        said = json.loads(running.get("/v1/events"))["items"]
        status, body, headers = answer(running, "/", "HEAD")
    assert commit[:12] in told
    assert [each["reason"] for each in reversed(said) if each.get("about") == "a"] == [
        *("FetchStarted", "FetchEnded", "ModelReady")
    ]
    assert said[-1]["reason"] == "AgentStarted"
    assert (status, body) == (200, "")
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert headers["content-security-policy"].startswith("default-src 'none'; ")
    assert "set-cookie" not in headers
    assert int(headers["content-length"]) > 5000
    assert TOKEN not in whole + json.dumps(said)
