from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.compileagent import CompileAgent
from tests.support.podcaches import Pod
from tests.support.podcaches import pod as make_pod


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[CompileAgent]:
    with CompileAgent(tmp_path) as found:
        yield found


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Pod]:
    with make_pod(tmp_path / "pod") as found:
        yield found
