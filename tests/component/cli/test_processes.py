"""The command as a process: pipes, signals, terminals, exit codes."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.agent import COMMAND, AgentProcess, modelcache, write_catalog
from tests.support.hub import HubServer, Stall

FILES = {"config.json": b"{}", "weights.safetensors": b"x" * 1000}


@pytest.fixture
def env(hub: HubServer) -> dict[str, str]:
    hub.add_repo("org/a", FILES)
    hub.add_repo("org/a-rather-long-name-of-a-model-that-has-many-words", FILES)
    return {"HF_ENDPOINT": hub.url}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


def once(root: Path, catalog: Path, *flags: str, env: dict[str, str]) -> tuple[int, str, str]:
    ended = modelcache("agent", "--once", "--root", root, "--catalog", catalog, *flags, env=env)
    return ended.returncode, ended.stdout, ended.stderr


def test_once_ends_with_what_it_achieved(root: Path, tmp_path: Path, env: dict[str, str]) -> None:
    catalog = write_catalog(tmp_path / "c.yaml", {"name": "a", "uri": "hf://org/a"})
    code, out, _ = once(root, catalog, "-o", "json", env=env)
    document = json.loads(out)
    assert (code, document["kind"]) == (0, "NodeCache")
    assert document["status"]["models"][0]["state"] == "Ready"
    assert once(root, catalog, env=env)[:2] == (0, "")


@pytest.mark.parametrize(
    ("document", "code"),
    [
        ({"name": "a", "uri": "hf://org/missing"}, 4),
        ({"name": "a", "uri": "hf://org/a", "secretName": "absent"}, 3),
        ({"name": "a", "uri": "file:///etc"}, 2),
        ({"name": "a", "uri": "hf://org/a", "priority": "high"}, 2),
        ({"name": "A", "uri": "hf://org/a"}, 2),
    ],
)
def test_once_has_the_exit_code_of_the_reason(
    root: Path, tmp_path: Path, env: dict[str, str], document: dict[str, str], code: int
) -> None:
    catalog = write_catalog(tmp_path / "c.yaml", document, {"name": "good", "uri": "hf://org/a"})
    found, _, err = once(root, catalog, env=env)
    assert found == code, err
    assert "Traceback" not in err
    assert (root / "models/good/current/config.json").is_file()


def test_once_without_a_catalog(root: Path, tmp_path: Path, env: dict[str, str]) -> None:
    code, _, err = once(root, tmp_path / "none.yaml", env=env)
    assert code == 2
    assert "none.yaml" in err


def test_once_with_a_source_that_changed_and_fails_is_no_success(
    root: Path, tmp_path: Path, env: dict[str, str]
) -> None:
    catalog = write_catalog(tmp_path / "c.yaml", {"name": "a", "uri": "hf://org/a"})
    assert once(root, catalog, env=env)[0] == 0
    write_catalog(catalog, {"name": "a", "uri": "hf://org/missing"})
    assert once(root, catalog, env=env)[0] == 4
    assert modelcache("labels", "--root", root).stdout == ""
    assert "Failed" in modelcache("ls", "--root", root).stdout


def test_who_reads_along_may_stop(root: Path, tmp_path: Path, env: dict[str, str]) -> None:
    modelcache("prefetch", "hf://org/a", "--root", root, env=env)
    for flags, unbuffered in ([], ""), (["-o", "json"], "1"):
        read, write = os.pipe()
        os.close(read)
        ended = subprocess.run(
            [COMMAND, "show", "a", "--root", root, *flags],
            stdout=write,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            timeout=30,
            check=False,
        )
        os.close(write)
        assert (ended.returncode, ended.stderr) == (0, b"")


@pytest.mark.parametrize("fault", ["api", "body"])
def test_a_prefetch_that_hangs_can_be_stopped(
    root: Path, hub: HubServer, env: dict[str, str], fault: str
) -> None:
    if fault == "api":
        hub.fault_api(Stall(times=None))
    else:
        hub.fault("*", Stall(after=0, times=None))
    with subprocess.Popen(
        [COMMAND, "prefetch", "hf://org/a", "--root", root, "-o", "json"],
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        wanted = "/api/" if fault == "api" else "/resolve/"
        assert hub.wait_until(lambda requests: any(wanted in r.path for r in requests), 20)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        out, err = process.communicate(timeout=20)
        assert time.monotonic() - began < 5
    assert process.returncode == 1
    assert err == ""
    assert json.loads(out)["models"][0]["reason"] == "Cancelled"


@pytest.mark.parametrize("fault", ["api", "body"])
def test_the_agent_ends_in_time_whatever_hangs(
    root: Path, tmp_path: Path, hub: HubServer, env: dict[str, str], fault: str
) -> None:
    if fault == "api":
        hub.fault_api(Stall(times=None))
    else:
        hub.fault("*", Stall(after=10, times=None))
    catalog = write_catalog(tmp_path / "c.yaml", {"name": "a", "uri": "hf://org/a"})
    with AgentProcess(root, catalog, env=env) as agent:
        wanted = "/api/" if fault == "api" else "/resolve/"
        assert hub.wait_until(lambda requests: any(wanted in r.path for r in requests), 20)
        began = time.monotonic()
        assert agent.terminate() == 0
        assert time.monotonic() - began < 5
        agent.wait_for_event("agent.stopped")
        assert "Traceback" not in agent.log


def on_terminal(*arguments: str | Path, columns: int = 80) -> str:
    """What a command shows on a terminal."""
    master, slave = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm"}
    with subprocess.Popen(
        [COMMAND, *map(str, arguments)], stdout=slave, stderr=slave, env=environment
    ) as process:
        os.close(slave)
        shown = b""
        while True:
            try:
                piece = os.read(master, 65536)
            except OSError:  # EIO: nobody writes any more
                break
            if not piece:
                break
            shown += piece
        process.wait(30)
    os.close(master)
    return shown.decode().replace("\r\n", "\n")


def test_tables_keep_to_the_width_of_a_terminal(root: Path, env: dict[str, str]) -> None:
    long = "hf://org/a-rather-long-name-of-a-model-that-has-many-words"
    assert modelcache("prefetch", long, "hf://org/a", "--root", root, env=env).returncode == 0
    shown = on_terminal("ls", "--root", root)
    lines = [line for line in shown.splitlines() if line.strip()]
    assert "\x1b[1mNAME" in shown
    assert len(lines) >= 3
    plain = modelcache("ls", "--root", root).stdout
    assert long in plain
    assert "\x1b" not in plain
    assert all(len(strip_escapes(line)) <= 80 for line in lines)


def strip_escapes(line: str) -> str:
    import re

    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line)
