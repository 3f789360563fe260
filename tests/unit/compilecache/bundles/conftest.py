from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Where an archive may be made."""
    return tmp_path / "archive"


@pytest.fixture
def into(tmp_path: Path) -> Path:
    """Where it may be unpacked."""
    return tmp_path / "into"
