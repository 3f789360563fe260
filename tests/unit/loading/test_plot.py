"""The picture of a measurement."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure as Picture

from modelcache.errors import UsageError
from modelcache.loading import Figure, Finding, Way
from modelcache.loading.plot import plot

MEBIBYTE = 2**20


def finding(*values: int) -> Finding:
    ways = [
        Figure(Way.MMAP, kib, (kib * MEBIBYTE, 2.0 * kib * MEBIBYTE, 3.0 * kib * MEBIBYTE))
        for kib in values
    ]
    direct = Figure(Way.DIRECT, None, (400.0 * MEBIBYTE,))
    return Finding(1024, "why", Way.MMAP, 128, (*ways, direct))


@pytest.fixture(autouse=True)
def _text_stays_text(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib as mpl

    monkeypatch.setitem(mpl.rcParams, "svg.fonttype", "none")


def test_a_vector_picture(tmp_path: Path) -> None:
    plot(finding(128, 1024), "/models on nvme1n1", tmp_path / "plot.svg")
    picture = (tmp_path / "plot.svg").read_text()
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", picture)
    assert {"/models on nvme1n1", "128", "1024", "mmap", "direct", "set now"} <= {*texts}
    assert "recommended" in picture  # two lines


@pytest.mark.parametrize(("least", "scale"), [(0, "linear"), (64, "log")])
def test_no_read_ahead_at_all_has_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, least: int, scale: str
) -> None:
    drawn: list[Picture] = []
    monkeypatch.setattr(Picture, "savefig", lambda self, *_, **__: drawn.append(self))
    plot(finding(least, 128, 1024), "t", tmp_path / "plot.svg")
    assert drawn[0].axes[0].get_xscale() == scale


def test_a_picture_of_dots(tmp_path: Path) -> None:
    plot(finding(128, 1024), "t", tmp_path / "plot.PNG")
    assert (tmp_path / "plot.PNG").read_bytes().startswith(b"\x89PNG")


def test_a_format_that_there_is_not(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.svg or \.png"):
        plot(finding(128), "t", tmp_path / "plot.pdf")


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"model-cache-agent\[plot\]"):
        plot(finding(128), "t", tmp_path / "plot.svg")
