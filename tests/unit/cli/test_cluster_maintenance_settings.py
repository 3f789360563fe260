"""The settings of prepare-root and cleanup."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelcache.cli.options import settings
from modelcache.errors import UsageError
from modelcache.settings import STARTUP_TAINT, CleanupSettings, PrepareSettings


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("root", "relative"),
        ("root", "/a/../b"),
        ("require_mount", "mnt"),
        ("agent_id", "0"),
        ("agent_id", "nobody"),
    ],
)
def test_what_prepare_root_refuses(field: str, value: str) -> None:
    with pytest.raises(UsageError, match=f"^--{field.replace('_', '-')} "):
        settings(PrepareSettings, **{field: value})


def test_where_prepare_root_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings(PrepareSettings).require_mount is None
    monkeypatch.setenv("MODELCACHE_REQUIRE_MOUNT", "/mnt/nvme")
    monkeypatch.setenv("MODELCACHE_HOST_MOUNTINFO", "/host/mountinfo")
    found = settings(PrepareSettings)
    assert found.require_mount == Path("/mnt/nvme")
    assert found.host_mountinfo == Path("/host/mountinfo")


def test_what_the_cleanup_takes_off(monkeypatch: pytest.MonkeyPatch) -> None:
    assert STARTUP_TAINT in settings(CleanupSettings).startup_taints
    monkeypatch.setenv("MODELCACHE_STARTUP_TAINTS", "a.example/x, b.example/y")
    assert settings(CleanupSettings).startup_taints == ("a.example/x", "b.example/y")
    monkeypatch.setenv("MODELCACHE_STARTUP_TAINTS", "")
    assert settings(CleanupSettings).startup_taints == ()


def test_how_long_the_cleanup_waits() -> None:
    assert settings(CleanupSettings).agents_end == 120
    assert settings(CleanupSettings, agents_end="5m").agents_end == 300
    with pytest.raises(UsageError, match=r"^--agents-end "):
        settings(CleanupSettings, agents_end="soon")
    with pytest.raises(UsageError, match=r"^--agents-end "):
        settings(CleanupSettings, agents_end="never")
