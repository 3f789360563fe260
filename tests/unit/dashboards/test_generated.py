"""What is committed is what is generated."""

from __future__ import annotations

from pathlib import Path

import pytest

from dashboards import __main__ as command
from dashboards.generated import ROOT, files

FILES = files()


@pytest.mark.parametrize("name", FILES)
def test_the_committed_file_is_the_generated_one(name: str) -> None:
    assert (ROOT / name).read_text() == FILES[name], "run: make dashboards"


def test_no_dashboard_is_left_that_nothing_generates() -> None:
    committed = {str(path.relative_to(ROOT)) for path in ROOT.glob("dashboards/grafana/*.json")}
    assert committed == {name for name in FILES if name.startswith("dashboards/grafana/")}


def test_the_command_writes_what_differs_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "ROOT", tmp_path)
    command.main()
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")} == {*FILES}
    assert capsys.readouterr().out.split() == [*FILES]
    command.main()
    assert capsys.readouterr().out == ""
    (tmp_path / next(iter(FILES))).write_text("{}")
    command.main()
    assert capsys.readouterr().out.split() == [next(iter(FILES))]
