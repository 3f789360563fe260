"""docs/compile-engines.md names every variable that is set, and every reason."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
import yaml

from modelcache.compilecache.engines.judging import MissReason, Result
from modelcache.compilecache.engines.table import BUILT_IN, table

TEXT: Final = (Path(__file__).parents[4] / "docs/compile-engines.md").read_text()


@pytest.mark.parametrize("engine", BUILT_IN)
def test_every_variable_is_documented(engine: str) -> None:
    for variable in BUILT_IN[engine].environment(Path("/c")):
        assert f"`{variable}`" in TEXT or f"`{variable}=1`" in TEXT


def test_every_result_and_reason_is_documented() -> None:
    for word in (*Result, *MissReason):
        assert f"\n| `{word}` |" in TEXT


def test_the_example_of_a_table_is_one(tmp_path: Path) -> None:
    example = TEXT.partition("```yaml\n")[2].partition("```")[0]
    file = tmp_path / "engines.yaml"
    file.write_text(example)
    engines = table(file)
    assert set(yaml.safe_load(example)["engines"]) <= set(engines)
    assert engines["vllm"].wanted("lmcache/kernels/a")
    assert engines["my-server"].ready == ("listening on",)
