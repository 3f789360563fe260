"""docs/install.md says what there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import modelcache.settings
from tests.support.manifests import COMPONENTS, FOLDER, OVERLAYS

PAGE = FOLDER.parent / "docs" / "install.md"
TEXT = PAGE.read_text()
PROGRAMS = {
    "AgentSettings": "agent",
    "ControllerSettings": "controller",
    "WebhookSettings": "webhook",
    "PrepareSettings": "prepare-root",
    "CleanupSettings": "cleanup",
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
    for name, program in PROGRAMS.items():
        if not hasattr(modelcache.settings, name):
            continue
        for field, info in getattr(modelcache.settings, name).model_fields.items():
            if program not in programs.setdefault(field, []):
                programs[field].append(program)
            fields.setdefault(field, info)
    # prepare-root has those of all that know a root; it looks at the root alone.
    for field in ("keep_free", "secrets_dir"):
        programs[field].remove("prepare-root")
    lines = ["| variable | read by | default | |", "|---|---|---|---|"]
    for field, info in sorted(fields.items()):
        default = shown(info.default) if info.default_factory is None else ""
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


def test_every_page_that_is_linked_is_there() -> None:
    for target in re.findall(r"\]\(([a-z./-]+\.md)\)", TEXT):
        assert (PAGE.parent / Path(target)).exists(), target


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
