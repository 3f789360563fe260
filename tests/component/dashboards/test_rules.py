"""Prometheus' own `promtool` takes the rules, and alerts fire when they should and stay silent when
something only looks like it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from dashboards.rulefiles import FOLDER, NAMES
from tests.support.rules import ALERTS, CASES


def promtool(*arguments: str | Path) -> tuple[int, str]:
    done = subprocess.run(
        ["promtool", *arguments], capture_output=True, text=True, timeout=240, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_promtool_takes_the_rules() -> None:
    code, said = promtool("check", "rules", "--lint-fatal", *(FOLDER / f"{n}.yaml" for n in NAMES))
    assert code == 0, said
    assert said.count("SUCCESS") == len(NAMES)


@pytest.mark.parametrize("alert", ALERTS)
def test_it_fires_when_it_should_and_only_then(alert: str) -> None:
    code, said = promtool("test", "rules", CASES / f"{alert}.yaml")
    assert code == 0, said


@pytest.mark.parametrize(
    ("alert", "right", "wrong"),
    [
        ("ModelCacheDiskShort", 'reason="InsufficientDisk"', 'reason=~".+"'),
        ("ModelCacheDiskShort", 'reason="InsufficientDisk"', 'reason="AuthFailed"'),
        ("ModelCacheDiskShort", "for: 15m", "for: 0m"),
        ("ModelCacheDiskShort", "Wanted models don''t fit", "Something is wrong"),
    ],
)
def test_a_rule_that_is_wrong_is_noticed(
    alert: str, right: str, wrong: str, tmp_path: Path
) -> None:
    shutil.copytree(FOLDER, tmp_path / "rules")
    path = tmp_path / "rules" / "alerts.yaml"
    text = path.read_text()
    assert right in text
    path.write_text(text.replace(right, wrong))
    code, said = promtool("test", "rules", tmp_path / "rules" / "tests" / f"{alert}.yaml")
    assert code == 1, said
    assert alert in said
