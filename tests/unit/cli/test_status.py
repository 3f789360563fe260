"""modelcache status, where no agent answers or something else does."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from modelcache.cli.nodes.plain import lines
from modelcache.cli.nodes.rates import Rates
from modelcache.cli.nodes.sources import ask_agent
from modelcache.cli.nodes.sums import rows
from modelcache.cli.nodes.views import AgentState, Look, NodeView, Teller
from modelcache.cluster.reading import read_status
from tests.unit.cli.conftest import Command


def nobody() -> str:
    """An address at which nobody listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{found.getsockname()[1]}"


def test_where_nothing_is_that_is_said(command: Command, tmp_path: Path) -> None:
    where = nobody()
    ended = command("status", "--agent", where, "--root", tmp_path / "none")
    assert ended.code == 2
    line = ended.mistake
    assert f"no agent answers at {where}" in line
    assert "is not a model cache" in line
    found = command("status", "--agent", "", "--root", tmp_path / "none", "-o", "json").document
    assert found["reason"] == "Usage"
    assert "none was asked" in found["message"]


@contextmanager
def listener(status: int, body: bytes) -> Iterator[str]:
    """Something else that listens where the agent should."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [
        (503, b"the cache was not looked at yet\n", "the cache was not looked at yet"),
        (404, b"", "it answers 404"),
        (200, b"<html>\x1b[2J", "no JSON"),
        (200, b"[1]", "no NodeCache"),
        (200, b'{"metadata": {"name": "n"}, "status": {"root": 7}}', "can't be read: status."),
    ],
)
def test_what_is_no_agent_is_told(
    command: Command, tmp_path: Path, status: int, body: bytes, why: str
) -> None:
    with listener(status, body) as where:
        ended = command("status", "--agent", where, "--root", tmp_path / "none")
    assert ended.code == 2
    assert why in ended.mistake
    assert "\x1b" not in ended.err


CHUNKED = b"HTTP/1.1 %s\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n[1"


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "no whole answer of HTTP"),
        (CHUNKED % b"200 OK", "no whole answer of HTTP"),
        (CHUNKED % b"503 Later", "it answers 503"),
        (b"HTTP/1.0 200 OK\r\n\r\n" + b"[" * 100_000, "no JSON"),
    ],
    ids=["another protocol", "torn", "torn refusal", "deep"],
)
def test_what_is_no_whole_answer_is_told(
    command: Command, tmp_path: Path, said: bytes, why: str
) -> None:
    def answer() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(65_536)
            connection.sendall(said)

    with socket.create_server(("127.0.0.1", 0)) as server:
        teller = threading.Thread(target=answer)
        teller.start()
        where = f"127.0.0.1:{server.getsockname()[1]}"
        ended = command("status", "--agent", where, "--root", tmp_path / "none")
        teller.join()
    assert ended.code == 2
    assert why in ended.mistake


def test_a_newer_agents_fields_are_passed_over(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MODELCACHE_ROOT")
    disk = {"capacity": 9, "available": 9, "used": 0, "reserved": 0, "newField": 1}
    model = {"name": "m", "state": "Ready", "sparkle": {"a": 1}}
    status = {"agentVersion": "99", "root": "/r", "models": [model], "disk": disk, "more": []}
    body = json.dumps({"kind": "NodeCache", "metadata": {"name": "n"}, "status": status})
    with listener(200, body.encode()) as where:
        (node,) = command("status", "--agent", where, "-o", "json").document["nodes"]
    assert (node["name"], node["agent"], node["status"]["agentVersion"]) == ("n", "Up", "99")
    assert node["status"]["models"][0]["name"] == "m"


def test_a_terminal_of_some_lines_gets_what_is_not_well_and_as_much_as_fits(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def model(name: str, state: str) -> dict[str, object]:
        return {"name": name, "state": state, "bytesTotal": 9, "bytesDone": 9}

    disk = {"capacity": 9, "available": 9, "used": 0, "reserved": 0}
    models = [model(f"m{n:03}", "Ready") for n in range(185)]
    models += [model(f"z{n:02}", "Failed") for n in range(15)]
    status = {"agentVersion": "1", "root": "/r", "models": models, "disk": disk}
    body = json.dumps({"metadata": {"name": "n"}, "status": status}).encode()
    monkeypatch.delenv("MODELCACHE_ROOT")
    with listener(200, body) as where:
        whole = command("status", "--agent", where).out
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
        monkeypatch.setattr("sys.stdout.fileno", lambda: 1)
        monkeypatch.setattr("os.get_terminal_size", lambda *_: os.terminal_size((80, 24)))
        short = command("status", "--agent", where).out
    assert len([line for line in whole.splitlines() if line.startswith(("m", "z"))]) == 201
    assert "z14" in short
    assert "m000" not in short
    assert "and 185 more, all ready; modelcache ls lists them" in short


def test_an_update_that_fails_is_told_like_a_failure_and_never_hidden(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = {"capacity": 9, "available": 9, "used": 0, "reserved": 0}
    whole = {"state": "Ready", "bytesTotal": 9, "bytesDone": 9}
    models = [{"name": f"m{n:03}", **whole} for n in range(200)]
    failed = {"reason": "NotFound", "message": "the branch is gone", "attempts": 3}
    models.append({"name": "zz-stale", **whole, **failed})
    status = {"agentVersion": "1", "root": "/r", "models": models, "disk": disk}
    body = json.dumps({"metadata": {"name": "n"}, "status": status}).encode()
    monkeypatch.delenv("MODELCACHE_ROOT")
    with listener(200, body) as where:
        summary = command("status", "--agent", where, "-o", "json").document["summary"]
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
        monkeypatch.setattr("sys.stdout.fileno", lambda: 1)
        monkeypatch.setattr("os.get_terminal_size", lambda *_: os.terminal_size((80, 24)))
        short = command("status", "--agent", where).out
    assert summary == {
        "wanted": 201, "failing": 0, "updateFailing": 1, "onTheWay": 0, "waiting": 0,
        "ready": 201, "unwanted": 0,
    }  # fmt: skip
    assert "201 of 201 models ready, 1 update failing" in short
    assert short.partition("MODEL")[2].splitlines()[1].startswith("zz-stale  Ready")
    assert "zz-stale: update failing, NotFound, 3 tries failed: the branch is gone" in short
    assert ", all ready; modelcache ls lists them" in short


@pytest.mark.parametrize("name", ["status", "top", "explain m"])
def test_a_mistake_names_the_flag(
    command: Command, monkeypatch: pytest.MonkeyPatch, root: Path, name: str
) -> None:
    monkeypatch.setenv("MODELCACHE_ROOT", str(root))
    mistake = command(*name.split(), "--agent", "8080").mistake
    assert "--agent (or MODELCACHE_LISTEN): '8080' is not written address:port" in mistake
    # And that of another command that has a flag for the same is called as it ever was.
    assert "--listen (or MODELCACHE_LISTEN)" in command("controller", "--listen", "8080").mistake


HOSTILE = "m\x1b[2J\x1b]0;title\x07\u202egnp"


def test_whatever_a_node_says_a_terminal_is_told_nothing_by_it(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MODELCACHE_ROOT")
    disk = {"capacity": 9, "available": 9, "used": 0, "reserved": 0}
    start = {"result": "Miss", "at": "2026-11-22T09:10:00Z"}
    status = {
        "agentVersion": HOSTILE,
        "root": HOSTILE,
        "models": [
            {"name": HOSTILE, "state": "Failed", "reason": "Internal", "message": HOSTILE},
            {"name": f"{HOSTILE}2", "state": "Downloading", "bytesDone": 1, "bytesTotal": 2},
        ],
        "compileCaches": [
            {"name": HOSTILE, "state": "Failed", "message": HOSTILE, "lastStart": start}
        ],
        "catalog": {"objects": 1, "problems": [HOSTILE], "problemCount": 1},
        "disk": disk,
    }
    body = json.dumps({"metadata": {"name": HOSTILE}, "status": status}).encode()
    with listener(200, body) as where:
        said = [command("status", "--agent", where, *more) for more in ((), ("-o", "json"))]
        found = ask_agent(("127.0.0.1", int(where.rpartition(":")[2])), "/v1/node")
    assert isinstance(found, dict)
    view = NodeView(HOSTILE, read_status(found), Teller.AGENT, AgentState.UP)
    look = Look((view,), where)
    told = "\n".join(lines(look, rows(look, Rates()), 0.0))
    for each in (*(ended.out for ended in said), told):
        assert "gnp" in each
        assert all(c.isprintable() or c == "\n" for c in each)
