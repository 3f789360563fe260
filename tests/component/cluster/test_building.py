"""Putting the cluster's programs together, as far as it takes no minutes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cluster import building
from tests.support.cluster.binaries import (
    CONTROL_PLANE,
    PROGRAMS,
    built_folder,
    find_binaries,
    why_none,
)
from tests.support.cluster.debian import mirror
from tests.support.cluster.steps import CannotBuild

KEY = "keys.gpg"
OTHERS = """
Types: deb
URIs: https://vendor.example/debian
Suites: bookworm
Components: stable
"""


def apt(folder: Path, **files: str) -> Path:
    (folder / "sources.list.d").mkdir()
    (folder / KEY).touch()
    for name, text in files.items():
        place = folder if name == "sources_list" else folder / "sources.list.d"
        (place / name.replace("_", ".")).write_text(text)
    return folder


PLAIN = """
Types: deb
# a comment
URIs: http://mirror.example/all/
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: {key}
"""
DISABLED = """
Types: deb
Enabled: no
URIs: http://old.example
Suites: bookworm
Components: main
"""


@pytest.mark.parametrize("text", [PLAIN, OTHERS + DISABLED + PLAIN])
def test_the_mirror_is_the_machines(tmp_path: Path, text: str) -> None:
    etc = apt(tmp_path, debian_sources=text.format(key=tmp_path / KEY))
    assert mirror(etc) == ("http://mirror.example/all/", tmp_path / KEY)


def test_the_mirror_may_be_on_one_line(tmp_path: Path) -> None:
    line = f"deb [arch=amd64 signed-by={tmp_path / KEY}] http://mirror.example/all stable main # us"
    etc = apt(tmp_path, sources_list="# deb http://old.example stable main\n" + line + "\n")
    assert mirror(etc) == ("http://mirror.example/all", tmp_path / KEY)


def test_a_machine_without_debian_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(CannotBuild, match="no mirror of Debian"):
        mirror(apt(tmp_path, vendor_sources=OTHERS))


def test_programs_of_ones_own_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*CONTROL_PLANE, "kubectl"):
        (tmp_path / name).touch(0o755)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    found = find_binaries()
    assert found is not None
    assert found.folder == tmp_path
    assert found.missing("etcd", "kubemark") == ["kubemark"]
    assert building.main() == 0


def test_what_is_missing_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("etcd", "kube-apiserver", "kubectl"):
        (tmp_path / name).touch(0o755)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    assert find_binaries() is None
    assert building.main() == 1
    said = "KUBEBUILDER_ASSETS has no kube-controller-manager, kube-scheduler"
    assert capsys.readouterr().err == f"no test cluster: {said}\n"


def test_what_was_built_before_is_not_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))  # nothing could be
    assert "make cluster" in why_none()
    assert building.main() == 1
    built_folder().mkdir(parents=True)
    for name in PROGRAMS:
        (built_folder() / name).touch(0o755)
    assert building.main() == 0
