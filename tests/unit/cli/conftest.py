from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from modelcache.api import API_VERSION
from modelcache.cli.main import run

WEIGHTS = bytes(range(256)) * 100


@dataclass
class Ended:
    """How one command line ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document that it printed, and nothing else."""
        found: dict[str, Any] = json.loads(self.out)
        assert found["apiVersion"] == API_VERSION
        assert found["kind"]
        assert self.err == ""
        return found

    @property
    def mistake(self) -> str:
        """The one line by which a mistake is told."""
        assert self.out == ""
        (line,) = self.err.splitlines()
        assert line.startswith("modelcache: ")
        return line


Command = Callable[..., Ended]


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Runs a command line in this process, where the machine has no cache unless one is named."""
    if "MODELCACHE_ROOT" not in os.environ:
        monkeypatch.setenv("MODELCACHE_ROOT", str(tmp_path / "no-cache"))

    def call(*arguments: str | Path) -> Ended:
        capsys.readouterr()
        code = run([*map(str, arguments)])
        said = capsys.readouterr()
        return Ended(code, said.out, said.err)

    return call


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """A model on a disk."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    return folder


@pytest.fixture
def root(tmp_path: Path, local: Path, command: Command) -> Path:
    """A cache that holds it."""
    root = tmp_path / "root"
    assert command("prefetch", f"file://{local}", "--root", root).code == 0
    return root
