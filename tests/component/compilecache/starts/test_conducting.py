"""A command run as a child is no other than one that is run without us."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import termios
import textwrap
from pathlib import Path

import pytest

WORK = [sys.executable, "-m", "tests.support.conductwork"]


def python(code: str) -> list[str]:
    return [sys.executable, "-uc", textwrap.dedent(code)]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "lines"


def conduct(log: Path, *command: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*WORK, str(log), *command], timeout=60, **options)  # type: ignore[call-overload,no-any-return]


def start(log: Path, *command: str, **options: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*WORK, str(log), *command], **options)  # type: ignore[call-overload,no-any-return]


def test_what_it_writes_passes_through_and_is_read(log: Path) -> None:
    ended = conduct(
        log,
        *python(r"import os; os.write(1, b'one\ntwo \xff\n\nlast'); os.write(2, b'wrong\n')"),
        capture_output=True,
    )
    assert (ended.stdout, ended.stderr) == (b"one\ntwo \xff\n\nlast", b"wrong\n")
    assert sorted(log.read_text().splitlines()) == ["last", "one", "two \ufffd", "wrong"]


def test_both_streams_into_one_pipe_stay_in_order(log: Path) -> None:
    code = r"import os; [os.write(1 + i % 2, b'%d\n' % i) for i in range(2000)]"
    ended = conduct(log, *python(code), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert ended.stdout == b"".join(b"%d\n" % i for i in range(2000))


def test_a_line_without_end_is_read_in_parts_and_passes_whole(log: Path) -> None:
    code = "import sys; sys.stdout.write('x' * 1_000_000)"
    ended = conduct(log, *python(code), capture_output=True)
    assert ended.stdout == b"x" * 1_000_000
    assert {len(line) for line in log.read_text().splitlines()[:-1]} == {65536}


@pytest.mark.parametrize("code", [0, 1, 77])
def test_the_exit_code_is_kept(log: Path, code: int) -> None:
    assert conduct(log, *python(f"raise SystemExit({code})")).returncode == code


def test_who_is_killed_by_a_signal_has_a_shells_exit_code(log: Path) -> None:
    ended = conduct(log, *python("import os; os.kill(os.getpid(), 9)"))
    assert ended.returncode == 137


def test_a_command_that_cannot_be_run_is_told_as_a_shell_does(log: Path, tmp_path: Path) -> None:
    missing = conduct(log, str(tmp_path / "no"), capture_output=True)
    assert missing.returncode == 127
    assert b"can't be run: No such file" in missing.stderr
    (tmp_path / "text").write_text("not a program")
    assert conduct(log, str(tmp_path / "text"), capture_output=True).returncode == 126


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_signals_are_passed_on_once(log: Path, number: int) -> None:
    code = f"""
        import signal
        signal.pthread_sigmask(signal.SIG_BLOCK, {{{number}}})
        print("listening")
        came = []
        while one := signal.sigtimedwait({{{number}}}, 0.2 if came else 30): came.append(one[0])
        print(came)
        raise SystemExit(3)
    """
    process = start(log, *python(code), stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"listening\n"
    process.send_signal(number)
    assert process.stdout.readline() == f"[{number}]\n".encode()
    assert process.wait(30) == 3
    process.stdout.close()


def test_a_signal_that_the_command_leaves_alone_ends_both(log: Path) -> None:
    process = start(log, *python("print(1); import time; time.sleep(60)"), stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.terminate()
    assert process.wait(30) == 128 + signal.SIGTERM
    process.stdout.close()


def test_what_the_parent_ignores_is_ignored_by_the_command(log: Path) -> None:
    code = "import signal; print(signal.getsignal(signal.SIGHUP) == signal.SIG_IGN)"
    nohup = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *WORK, str(log), *python(code)]
    assert subprocess.run(nohup, capture_output=True, timeout=60).stdout == b"True\n"


def test_the_command_inherits_no_signal_that_is_held_back(log: Path) -> None:
    code = "import signal; print(signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    assert conduct(log, *python(code), capture_output=True).stdout == b"set()\n"


def test_it_reads_our_standard_input(log: Path) -> None:
    ended = conduct(log, *python("print(input())"), input=b"hello\n", capture_output=True)
    assert ended.stdout == b"hello\n"


def test_a_reader_that_has_gone_is_noticed_by_the_command(log: Path) -> None:
    code = """
        import os, sys
        try:
            while True: os.write(1, b"x" * 65536)
        except BrokenPipeError:
            os.write(2, b"noticed")
    """
    process = start(log, *python(code), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.communicate(timeout=30)[1] == b"noticed"


def test_a_daemon_that_the_command_leaves_does_not_hold_it_up(log: Path) -> None:
    code = """
        import subprocess, sys
        left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        print(left.pid)
    """
    ended = conduct(log, *python(code), capture_output=True, start_new_session=True)
    os.kill(int(ended.stdout), signal.SIGKILL)
    assert ended.returncode == 0


def in_terminal(log: Path, command: list[str], *, columns: int = 91) -> tuple[int, bytes]:
    """Run it with a terminal as the standard streams; its exit code and what the terminal got."""
    pid, master = pty.fork()
    if pid == 0:
        try:
            os.execv(sys.executable, [*WORK, str(log), *command])
        finally:
            os._exit(99)
    termios.tcsetwinsize(master, (24, columns))
    seen = b""
    try:
        while piece := os.read(master, 65536):
            seen += piece
            if b"press" in piece:
                os.write(master, b"\x03")
    except OSError:
        pass
    os.close(master)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), seen


def test_on_a_terminal_the_command_has_one_of_the_same_size(log: Path) -> None:
    code = """
        import os, signal
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH})
        if os.get_terminal_size(1).columns != 91: signal.sigtimedwait({signal.SIGWINCH}, 10)
        print([os.isatty(fd) for fd in (0, 1, 2)], os.get_terminal_size(1).columns)
    """
    assert in_terminal(log, python(code)) == (0, b"[True, True, True] 91\r\n")
    assert log.read_text() == "[True, True, True] 91\n"


def test_an_interrupt_from_the_terminal_comes_once(log: Path) -> None:
    code = """
        import signal
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        print("press")
        came = 0
        while signal.sigtimedwait({signal.SIGINT}, 1 if came else 30): came += 1
        print(came)
        raise SystemExit(5)
    """
    code_, seen = in_terminal(log, python(code))
    assert code_ == 5
    assert seen.endswith(b"1\r\n")
