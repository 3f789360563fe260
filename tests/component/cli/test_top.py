"""modelcache top in a real terminal, beside a real agent."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.agent import COMMAND, AgentProcess, modelcache, write_catalog
from tests.support.hub import GeneratedContent, HubServer
from tests.support.screens import Terminal

MIB = 1 << 20
RATE = 2 * MIB


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def agent(hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    """Forty small models, one that moves for minutes, and one that there isn't."""
    folder = tmp_path_factory.mktemp("top")
    hub.add_repo("org/small", {"config.json": b"{}"})
    hub.add_repo("org/large", {"model.safetensors": GeneratedContent(1024 * MIB, seed=1)})
    hub.set_rate(RATE)
    small = [{"name": f"small-{n:02}", "uri": "hf://org/small", "priority": 9} for n in range(40)]
    catalog = write_catalog(
        folder / "catalog.yaml",
        *small,
        {"name": "large", "uri": "hf://org/large"},
        {"name": "gone", "uri": "hf://org/gone"},
    )
    environment = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1"}
    with AgentProcess(folder / "root", catalog, env=environment) as agent:
        agent.wait_ready(*(model["name"] for model in small))  # type: ignore[arg-type]
        agent.wait_failed("gone")
        yield agent


@pytest.fixture
def terminal(agent: AgentProcess) -> Iterator[Terminal]:
    with Terminal(env=environment(agent)) as terminal:
        yield terminal


def environment(agent: AgentProcess) -> dict[str, str]:
    return {"MODELCACHE_LISTEN": agent.url.removeprefix("http://")}


def is_as_it_was(terminal: Terminal) -> bool:
    return (terminal.told("alternate_on"), terminal.told("cursor_flag")) == ("0", "1")


def settings_of(terminal: Terminal) -> str:
    """What `stty` says of the terminal."""
    terminal.type("clear; stty -a; echo end-of-it")
    terminal.wait_for("\nend-of-it")
    return terminal.wait_for_prompt()


def start(terminal: Terminal, *more: str) -> str:
    terminal.type(" ".join(["modelcache top --every 0.3", *more]))
    return terminal.wait_for("iB/s")


def test_it_shows_what_fails_and_what_moves_first(terminal: Terminal) -> None:
    found = start(terminal)
    assert terminal.told("alternate_on") == "1"
    assert terminal.told("cursor_flag") == "0"
    lines = found.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("modelcache · node ")
    assert "40 of 42 models ready, 1 failing, 1 on the way" in found
    body = found.partition("MODEL ")[2].splitlines()[1:]
    assert body[0].startswith("gone")
    assert "NotFound" in body[1]
    assert re.match(
        r"large +Downloading .* [0-9]+% +1\.0 GiB +[0-9.]+ [KM]iB/s +[0-9]+[smhd]$", body[2]
    )
    assert "…" not in body[2]
    assert re.search(r"and [0-9]+ more", found)
    # It is live: the clock goes on.
    clock = lines[0][-8:]
    terminal.wait_for(lambda text: text.splitlines()[0][-8:] != clock)
    assert re.search(r"\x1b\[[0-9;]*31m", terminal.coloured), "what fails is red"


def test_keys_sort_and_scroll(terminal: Terminal) -> None:
    start(terminal)
    terminal.press("s")
    found = terminal.wait_for("sort: name")
    assert found.partition("MODEL ")[2].splitlines()[1].startswith("gone")
    terminal.press("s")
    found = terminal.wait_for("sort: size")
    assert found.partition("MODEL ")[2].splitlines()[1].startswith("large")
    terminal.press("s", "s")
    terminal.wait_for("sort: urgency")
    terminal.press("NPage")
    terminal.wait_for(lambda text: "gone " not in text and "small-15" in text)
    terminal.press("G")
    found = terminal.wait_for("42 of 42")
    assert "small-39" in found
    terminal.press("Up")
    terminal.wait_for("small-39", gone=True)
    terminal.press("Home")
    terminal.wait_for("gone ")


def test_it_follows_the_terminals_size(terminal: Terminal) -> None:
    start(terminal)
    terminal.resize(50, 12)
    moves = re.compile(r"^large .*B/s", re.MULTILINE)
    found = terminal.wait_for(
        lambda text: "PROGRESS" not in text and moves.search(text) is not None
    )
    lines = found.splitlines()
    assert len(lines) == 12
    assert max(map(len, lines)) <= 50
    assert lines[-1].startswith("q quit")
    terminal.resize(120, 40)
    found = terminal.wait_for("PROGRESS")
    assert terminal.wait_for(lambda text: len(text.splitlines()) == 40)
    terminal.resize(8, 2)
    terminal.resize(80, 24)
    terminal.wait_for("PROGRESS")


@pytest.mark.parametrize("end", ["q", "C-c", "SIGTERM", "SIGHUP"])
def test_the_terminal_is_as_it_was(terminal: Terminal, end: str) -> None:
    before = settings_of(terminal)
    start(terminal)
    assert not is_as_it_was(terminal)
    if end.startswith("SIG"):
        os.kill(child(terminal), signal.Signals[end])
    else:
        terminal.press(end)
    text = terminal.wait_for("modelcache top")
    assert "end-of-it" in text, "what was on the screen is there again"
    terminal.wait_for_prompt()
    assert is_as_it_was(terminal)
    terminal.type("echo ended with $?")
    terminal.wait_for("\nended with 0")
    assert settings_of(terminal) == before


def child(terminal: Terminal) -> int:
    """The process that the shell has started."""
    shell = terminal.told("pane_pid")
    (found,) = Path(f"/proc/{shell}/task/{shell}/children").read_text().split()
    return int(found)


def test_control_z_gives_the_terminal_back_until_it_goes_on(terminal: Terminal) -> None:
    terminal.type("set -m")
    before = settings_of(terminal)
    start(terminal)
    terminal.press("C-z")
    terminal.wait_for("Stopped")
    assert is_as_it_was(terminal)
    assert settings_of(terminal) == before
    terminal.type("fg")
    terminal.wait_for("q quit")
    assert terminal.told("alternate_on") == "1"
    terminal.press("q")
    terminal.wait_for_prompt()
    assert is_as_it_was(terminal)
    assert settings_of(terminal) == before


BROKEN = """
from modelcache.cli.main import main
from modelcache.cli.nodes.sources import ThisNode

look, looks = ThisNode.look, []

def broken(self):
    looks.append(1)
    if len(looks) > 4:
        raise KeyError("broken")
    return look(self)

ThisNode.look = broken
main()
"""


def test_a_defect_ends_it_and_is_told(
    agent: AgentProcess, terminal: Terminal, tmp_path: Path
) -> None:
    script = tmp_path / "broken.py"
    script.write_text(BROKEN)
    told = "modelcache: a defect, please report it: KeyError('broken') in broken, line "
    terminal.type(f"{sys.executable} {script} top --every 0.3")
    terminal.wait_for("40 of 42 models ready")
    terminal.wait_for("a defect, please report it")
    terminal.wait_for_prompt()
    assert is_as_it_was(terminal)
    ended = subprocess.run(
        [sys.executable, script, "top", "--every", "0.2"],
        env={**os.environ, **environment(agent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith(told)
    assert ended.stdout.count("40 of 42 models ready") == 4


def test_without_colour_there_is_none(agent: AgentProcess) -> None:
    with Terminal(env={**environment(agent), "NO_COLOR": "1"}) as terminal:
        start(terminal)
        codes = set(re.findall(r"\x1b\[([0-9;]*)m", terminal.coloured))
    assert not {code for code in codes if re.search(r"(^|;)(3[0-8]|4[0-8]|9[0-7])(;|$)", code)}


def test_a_terminal_that_can_do_nothing_gets_lines(agent: AgentProcess) -> None:
    with Terminal(env=environment(agent), term="dumb") as terminal:
        terminal.type("modelcache top --every 0.3")
        found = terminal.wait_for("iB/s")
        assert "\x1b" not in terminal.coloured.replace("\x1b[39m", "").replace("\x1b[49m", "")
        assert terminal.told("alternate_on") == "0"
        assert re.search(r"[0-9:]{8} large: Downloading, [0-9.]+ MiB of 1\.0 GiB", found)
        terminal.press("C-c")
        terminal.wait_for("modelcache: stopped")


def test_a_pipe_gets_lines_and_may_have_seen_enough(agent: AgentProcess) -> None:
    process = subprocess.Popen(
        [COMMAND, "top", "--every", "0.2"],
        env={**os.environ, **environment(agent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        lines = [process.stdout.readline() for _ in range(3)]
        later = next(line for line in process.stdout if "B/s, " in line and "large" in line)
        process.stdout.close()
        assert process.wait(30) == 0
        assert process.stderr.read() == ""
    watchdog.cancel()
    assert lines[0][9:].startswith("40 of 42 models ready, 1 failing, 1 on the way")
    assert lines[1][9:].startswith("gone: Failed, NotFound")
    assert re.match(r"large: Downloading, .* of 1\.0 GiB \([0-9]+%\)", lines[2][9:])
    assert re.search(r" [0-9.]+ [KMG]?i?B/s, [0-9]+[smhd] left$", later)


def test_programs_get_a_document_a_line(agent: AgentProcess) -> None:
    process = subprocess.Popen(
        [COMMAND, "top", "--every", "0.5", "-o", "json"],
        env={**os.environ, **environment(agent)},
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        documents = (json.loads(line) for line in process.stdout)
        last = next(each for each in documents if "rates" in each["nodes"][0])
        process.terminate()
    assert (last["kind"], last["apiVersion"]) == ("Status", "modelcache.dev/v1alpha1")
    assert last["summary"]["ready"] == 40
    (node,) = last["nodes"]
    assert node["rates"]["large"]["bytesPerSecond"] > 0
    assert node["rates"]["large"]["secondsLeft"] > 0


def test_an_agent_that_goes_and_comes_is_told(
    hub: HubServer, tmp_path: Path, terminal: Terminal
) -> None:
    catalog = write_catalog(tmp_path / "c.yaml", {"name": "m", "uri": "hf://org/small"})
    given = {"HF_ENDPOINT": hub.url}
    with AgentProcess(tmp_path / "root", catalog, env=given) as agent:
        agent.wait_ready("m")
        where = agent.url.removeprefix("http://")
        terminal.type(f"modelcache top --every 0.3 --agent {where} --root {tmp_path}/root")
        terminal.wait_for("agent 0.1.0 at")
        agent.terminate(10)
        found = terminal.wait_for("no agent answers")
        assert "1 of 1 models ready" in found
    with AgentProcess(tmp_path / "root", catalog, "--listen", where, env=given):
        terminal.wait_for("agent 0.1.0 at")


def test_where_nothing_is_it_ends_at_once_and_leaves_the_terminal_alone(tmp_path: Path) -> None:
    ended = modelcache("top", "--agent", "127.0.0.1:1", "--root", tmp_path / "none")
    assert ended.returncode == 2
    assert "is not a model cache" in ended.stderr
    ended = modelcache("top", "--every", "0")
    assert ended.returncode == 2
    with suppress(ValueError), Terminal() as terminal:
        terminal.type(f"modelcache top --agent 127.0.0.1:1 --root {tmp_path}/none; echo with $?")
        terminal.wait_for("\nwith 2")
        assert is_as_it_was(terminal)
