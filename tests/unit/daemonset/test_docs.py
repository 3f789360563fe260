"""docs/install.md says what there is, and no page leads nowhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import modelcache.settings
from modelcache.catalog import FileCatalog
from modelcache.metrics import documenting
from modelcache.metrics.contract import FAMILIES
from tests.support.manifests import COMPONENTS, FOLDER, OVERLAYS
from tests.support.rules import ALERTS, alerting, recorded

ROOT = FOLDER.parent
PAGES = [
    page
    for pages in ("docs/*.md", "docs/runbooks/*.md", "*.md")
    for page in sorted(ROOT.glob(pages))
]
PAGE = ROOT / "docs" / "install.md"
TEXT = PAGE.read_text()
PROGRAMS = {
    "AgentSettings": "agent",
    "ControllerSettings": "controller",
    "WebhookSettings": "webhook",
    "PrepareSettings": "prepare-root",
    "TuneSettings": "tune",
    "CleanupSettings": "cleanup",
    "WarmSettings": "warm",
    "SeedSettings": "compile seed",
    "CaptureSettings": "compile capture",
}


def shown(default: Any) -> str:
    if isinstance(default, tuple):
        default = ", ".join(map(str, default))
    if isinstance(default, float) and default == int(default):
        default = int(default)
    return "" if default in (None, "", False) else f"`{default}`"


def table() -> str:
    """Every setting of the programs that run in a cluster, with the help text of its flag."""
    programs: dict[str, list[str]] = {}
    fields: dict[str, Any] = {}
    defaults: dict[str, dict[str, list[str]]] = {}
    for name, program in PROGRAMS.items():
        if not hasattr(modelcache.settings, name):
            continue
        for field, info in getattr(modelcache.settings, name).model_fields.items():
            if program not in programs.setdefault(field, []):
                programs[field].append(program)
            fields.setdefault(field, info)
            default = shown(info.default) if info.default_factory is None else ""
            defaults.setdefault(field, {}).setdefault(default, []).append(program)
    # These have those of all that know a root; they look at the root alone.
    for field in ("capacity", "keep_free", "secrets_dir"):
        for program in ("prepare-root", "warm"):
            programs[field].remove(program)
    lines = ["| variable | read by | default | |", "|---|---|---|---|"]
    for field, info in sorted(fields.items()):
        usual, *others = defaults[field].items()
        default = "; ".join([usual[0], *(f"{', '.join(who)}: {each}" for each, who in others)])
        cells = (f"`MODELCACHE_{field.upper()}`", ", ".join(programs[field]), default)
        lines.append(f"| {' | '.join(cells)} | {info.description} |")
    return "\n".join(lines)


def test_the_table_of_settings_is_whole() -> None:
    expected = table()
    assert expected in TEXT, f"put this into {PAGE}:\n\n{expected}"


def test_every_folder_is_named() -> None:
    for name in (*COMPONENTS, *OVERLAYS):
        assert name in TEXT


def test_every_folder_that_is_named_is_there() -> None:
    for path in re.findall(r"daemonset/[a-z/-]+[a-z]", TEXT):
        assert (FOLDER.parent / path).exists(), path
    for name in re.findall(r"`components/([a-z-]+)`", TEXT):
        assert name in COMPONENTS


def anchors(page: Path) -> set[str]:
    """A page's headings, as links name them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each).strip().lower().replace(" ", "-") for each in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_page_that_is_linked_is_there(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not target.startswith("https://"):
            name, _, anchor = target.partition("#")
            other = page.parent / name if name else page
            assert other.exists(), target
            assert not anchor or anchor in anchors(other), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_cached_model_that_is_shown_is_valid(page: Path, tmp_path: Path) -> None:
    for block in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL):
        if "\nkind: CachedModel\n" in block:
            (tmp_path / "model.yaml").write_text(block)
            snapshot = FileCatalog(tmp_path / "model.yaml").read()
            assert len(snapshot.documents) == 1
            assert not snapshot.problems


def test_every_page_is_linked_from_the_first() -> None:
    linked = re.findall(r"\]\(docs/([a-z-]+\.md)\)", (ROOT / "README.md").read_text())
    assert {page.name for page in (ROOT / "docs").iterdir() if page.is_file()} <= {*linked}


def test_every_runbook_is_linked_from_the_table_of_alerts() -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text()
    rows = re.findall(r"^\| \[(\w+)\]\(runbooks/(\w+)\.md\) \| ([a-z, ]+) \|", page, re.MULTILINE)
    assert [(name, target) for name, target, _ in rows] == [(each, each) for each in ALERTS]
    for name, _, severities in rows:
        told = [rule["labels"]["severity"] for rule in alerting() if rule["alert"] == name]
        assert severities.split(", ") == told


def test_every_picture_is_shown() -> None:
    shown = {
        each for page in PAGES for each in re.findall(r"\]\((images/[^)]+)\)", page.read_text())
    }
    assert {f"images/{picture.name}" for picture in (ROOT / "docs" / "images").iterdir()} == shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_metric_that_is_named_is_there(page: Path) -> None:
    named = {*re.findall(r"(?:\b[a-z_]+:)?\bmodelcache_[a-z_:]+[a-z]\w*\b(?!\*)", page.read_text())}
    there = {name for family in FAMILIES for name in (family.name, *family.exposed)}
    assert named <= there | recorded().keys()


def test_every_metric_has_a_row() -> None:
    """And nothing that is named is written by hand: `make metrics`."""
    written = (ROOT / "docs" / "metrics.md").read_text()
    assert written == documenting.page(), "run `make metrics`"
    rows = re.findall(r"(?m)^\| `(modelcache_[a-z_]+)[{`]", written)
    assert rows == [family.name for family in FAMILIES]


def test_what_prepare_root_says_is_explained() -> None:
    source = (FOLDER.parent / "agent/modelcache/host/rootdir.py").read_text()
    for words in (
        "which is memory",
        "a network file system",
        "a FUSE file system",
        "a read-only mount",
        "nothing is mounted at",
        "belongs to user",
        "can't be written though its mode allows it",
    ):
        assert words in source
        assert words in TEXT
