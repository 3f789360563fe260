"""A real torch.compile: what is restored compiles nothing, on another root, ten times at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest

from tests.engine.conftest import Cold
from tests.support import engineruns
from tests.support.agent import modelcache
from tests.support.cluster.waiting import eventually
from tests.support.engineruns import Ended

pytestmark = pytest.mark.timeout(2 * engineruns.SECONDS)


def digests(folder: Path) -> dict[str, str]:
    """What is in a directory, byte by byte."""
    return {
        str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def show(capsys: pytest.CaptureFixture[str], rows: dict[str, Ended]) -> None:
    with capsys.disabled():
        print("\n  start                          compiling   processor   source files compiled")
        for name, ended in rows.items():
            print(
                f"  {name:<30}{ended.seconds:>8.1f} s{ended.cpu_seconds:>10.1f} s"
                f"{ended.compiled:>12}"
            )


def test_what_one_process_compiled_another_on_another_root_does_not(
    cold: Cold, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without = engineruns.run(tmp_path / "without", engineruns.command())
    cold.forget_cache()
    line = engineruns.with_us(
        tmp_path / "restored",
        tmp_path / "root",
        cold.cache_dir,
        *("--bundles", cold.place, "--public-key", cold.public_key),
    )
    restored = engineruns.run(tmp_path / "restored", line)
    show(capsys, {"without us": without, "cold, captured": cold.ended, "restored": restored})

    assert restored.total == cold.ended.total == without.total
    assert cold.ended.compiled > 0
    assert without.compiled > 0
    assert restored.compiled == 0
    assert restored.cpu_seconds <= cold.ended.cpu_seconds / 5
    assert restored.seconds <= cold.ended.seconds / 5

    assert cold.ended.report["result"] == "Miss"
    assert cold.ended.report["capturing"]["place"] == f"file://{cold.place}"
    assert restored.report["result"] == "Hit"
    assert restored.report["seeding"]["source"] == "place"
    assert restored.report["seeding"]["digest"] == cold.digest
    assert "digest" not in restored.report["capturing"]


def test_a_bundle_that_nobody_trusted_signed_is_not_run(cold: Cold, tmp_path: Path) -> None:
    """Without the first machine's public key: the engine compiles, and is told why."""
    cold.forget_cache()
    line = engineruns.with_us(
        tmp_path / "run", tmp_path / "root", cold.cache_dir, "--bundles", cold.place, "--no-capture"
    )
    ended = engineruns.run(tmp_path / "run", line)
    assert ended.compiled == cold.ended.compiled
    assert "keys trusted here" in ended.report["seeding"]["message"]


@pytest.mark.root
def test_ten_starts_at_once_from_one_bundle_all_hit_and_leave_it_as_it_is(
    cold: Cold, tmp_path: Path
) -> None:
    """Each in a mount namespace, as pods are: the same path, another directory."""
    cold.forget_cache()
    cold.cache_dir.mkdir()
    held = cold.root / "compile" / "torch-transformer"
    before = digests(held / os.readlink(held / "current"))
    bind = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
    processes = []
    for number in range(10):
        folder, private = tmp_path / f"run{number}", tmp_path / f"cache{number}"
        private.mkdir()
        line = engineruns.with_us(folder, cold.root, cold.cache_dir)
        processes.append(
            subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", bind, "sh", private, cold.cache_dir, *line],
                env=engineruns.environment(folder),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    outs = [process.communicate(timeout=engineruns.SECONDS) for process in processes]
    assert [process.returncode for process in processes] == [0] * 10, outs
    starts = [engineruns.read(tmp_path / f"run{n}", out, 0) for n, (out, _) in enumerate(outs)]
    assert [start.compiled for start in starts] == [0] * 10
    assert {start.total for start in starts} == {cold.ended.total}
    assert {start.report["result"] for start in starts} == {"Hit"}
    assert {start.report["seeding"]["digest"] for start in starts} == {cold.digest}
    assert digests(held / os.readlink(held / "current")) == before
    assert list(cold.cache_dir.iterdir()) == []


def test_a_program_with_other_arguments_is_not_seeded_and_explain_says_in_what(
    cold: Cold, tmp_path: Path
) -> None:
    cold.forget_cache()
    asked = modelcache(
        *("compile", "explain", "--root", cold.root, "--cache-dir", cold.cache_dir, "-o", "json"),
        *("torch-transformer", "--", *engineruns.command(layers=2)),
        env=engineruns.environment(tmp_path / "explain"),
    )
    (bundle,) = json.loads(asked.stdout)["bundles"]
    assert (bundle["digest"], bundle["seeded"]) == (cold.digest, False)
    assert [(each["part"], each["name"]) for each in bundle["differences"]] == [
        ("args", "--layers")
    ]


def test_a_program_that_stays_is_captured_while_it_runs(cold: Cold, tmp_path: Path) -> None:
    cold.forget_cache()
    root = tmp_path / "root"
    line = engineruns.with_us(tmp_path / "run", root, cold.cache_dir, "--quiet-time", "10s")
    process = subprocess.Popen(
        [*line, "--serve"],
        env=engineruns.environment(tmp_path / "run"),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        json.loads(process.stdout.readline())
        current = root / "compile" / "torch-transformer" / "current"
        eventually(current.exists, timeout=120, what="a bundle")
        assert process.poll() is None
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
        process.stdout.close()
    assert code == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert (report["result"], report["capturing"]["files"] > 0) == ("Miss", True)
