"""Each flag of what fetches is the setting of its name."""

from __future__ import annotations

from typing import Any

import pytest

from modelcache.errors import UsageError
from modelcache.settings import FetchSettings
from tests.unit.cli.conftest import Command

FLAGS = {
    "secrets_dir": "/secrets",
    "keep_free": "7%",
    "capacity": "70%",
    "connections": "3",
    "bandwidth": "1000",
    "origin_bandwidth": "hf=200",
    "host_connections": "2",
    "io_priority": "idle",
    "mirrors": "oci=https://b",
    "ca_bundle": "/ca.pem",
    "private_redirects": "10.0.0.0/8,cdn.example.com",
}


@pytest.mark.parametrize(
    ("program", "where"),
    [
        (("prefetch", "hf://org/a"), "modelcache.cli.prefetch._Fetching"),
        (("agent", "--once"), "modelcache.cli.agentcmd.Agent"),
    ],
    ids=["prefetch", "agent"],
)
def test_each_flag_arrives(
    command: Command,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    program: tuple[str, ...],
    where: str,
) -> None:
    root = tmp_path_factory.mktemp("root")
    taken: list[FetchSettings] = []

    def take(*given: Any, **_: Any) -> None:
        taken.extend(each for each in given if isinstance(each, FetchSettings))
        raise UsageError("that is enough")

    monkeypatch.setattr(where, take)
    assert {"root", *FLAGS} == FetchSettings.model_fields.keys()
    flags = [
        part for name, value in FLAGS.items() for part in (f"--{name.replace('_', '-')}", value)
    ]
    assert command(*program, "--root", root, *flags).mistake.endswith("that is enough")
    (found,) = taken
    given: dict[str, Any] = {"root": root, **FLAGS}
    wanted = FetchSettings(**given)
    assert {n: getattr(found, n) for n in FetchSettings.model_fields} == {
        n: getattr(wanted, n) for n in FetchSettings.model_fields
    }
    assert wanted.model_fields_set == FetchSettings.model_fields.keys()
