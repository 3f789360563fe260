"""Programs that speak to the API server don't do so through a proxy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Command


class Started(Exception):
    """The program has got as far as its work."""


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("agent", "agentcmd.Agent"),
        ("controller", "controllercmd.Controller"),
        ("webhook", "webhookcmd.Webhook"),
    ],
)
def test_the_api_server_is_spared(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, where: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.test:3128")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    seen: list[str] = []

    def start(*_: object, **__: object) -> None:
        seen.append(os.environ["NO_PROXY"])
        raise Started

    monkeypatch.setattr(f"modelcache.cli.{where}", start)
    root = ("--root", tmp_path) if name == "agent" else ()
    command(name, *root, "--catalog", tmp_path) if root else command(name)
    assert [text.split(",")[-1] for text in seen] == ["10.96.0.1"]
