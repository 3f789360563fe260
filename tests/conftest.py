"""What all tests share: a clean environment, and no skip without a reason that counts."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import settings

from tests.support import environment

settings.register_profile("modelcache", deadline=None)  # How busy the machine is, is no failure.
settings.load_profile("modelcache")

# Read once, when huggingface_hub is imported, which may be while tests are collected: otherwise it
# tells huggingface.co of itself.
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

ALLOWED_SKIPS = ("the cache's disk has too little room for 20 GiB",)
"""Beginnings of the reasons for which CI, which runs as root, may skip a test."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--long`: what `make test-faults` asks for."""
    parser.addoption(
        "--long", action="store_true", help="tests of faults in their long form: minutes each"
    )


@pytest.fixture
def long(request: pytest.FixtureRequest) -> bool:
    """Whether the long form of a test is asked for."""
    return bool(request.config.getoption("--long"))


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees who runs it: no credentials, caches or proxies, and nothing but loopback."""
    environment.clean(monkeypatch, tmp_path)


@pytest.fixture(autouse=True)
def _clean_logs() -> Iterator[None]:
    """No test sees how another one set the logs up, as each command does that runs in a test."""
    before = structlog.get_config()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.configure(**before)
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need root are skipped for others."""
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root: mounts or loop devices"))


_skipped: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note every skip that is not on the list."""
    if report.skipped and os.environ.get("CI") and os.geteuid() == 0:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not reason.removeprefix("Skipped: ").startswith(ALLOWED_SKIPS):
            _skipped.append(f"{report.nodeid}: {reason}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a skip that is not on the list is a failure."""
    if _skipped:
        session.exitstatus = 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say why."""
    for skip in _skipped:
        terminalreporter.write_line(f"skipped in CI, and not on the list: {skip}", red=True)
