from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import engineruns
from tests.support.engineruns import Ended


@pytest.fixture(scope="session", autouse=True)
def _engine() -> None:
    if not engineruns.PYTHON.exists():
        pytest.skip("make test-engine sets up .venv-engine with a torch")


@dataclass(frozen=True)
class Cold:
    """The first start of all: it compiled, was captured, and published."""

    ended: Ended
    folder: Path
    cache_dir: Path
    """The same path for all starts: what lies there is removed before each."""
    root: Path
    place: Path

    @property
    def digest(self) -> str:
        digest: str = self.ended.report["capturing"]["digest"]
        return digest

    @property
    def public_key(self) -> Path:
        return self.root / "keys" / "compile.pub"

    def forget_cache(self) -> None:
        shutil.rmtree(self.cache_dir, ignore_errors=True)


@pytest.fixture(scope="session")
def cold(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cold]:
    folder = tmp_path_factory.mktemp("cold")
    cache_dir, root, place = folder / "cache", folder / "root", folder / "place"
    place.mkdir()
    line = engineruns.with_us(folder / "run", root, cache_dir, "--bundles", place)
    yield Cold(engineruns.run(folder / "run", line), folder, cache_dir, root, place)
    shutil.rmtree(folder, ignore_errors=True)
