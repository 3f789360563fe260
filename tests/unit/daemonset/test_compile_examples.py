"""The examples of compile caches are injected without a warning, as docs/compile-pods.md says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.manifests import FOLDER
from tests.unit.cli.conftest import Command, command

__all__ = ["command"]  # a fixture

EXAMPLES = FOLDER / "examples" / "compile-caches"


def injected(command: Command, file: Path, *flags: str) -> list[dict[str, Any]]:
    flags = ("--image", "x", "--models", str(EXAMPLES / "cache.yaml"), *flags)
    ended = command("inject", "-f", file, *flags)
    assert (ended.code, ended.err) == (0, "")
    return [each for each in yaml.safe_load_all(ended.out) if each is not None]


def names(spec: dict[str, Any]) -> list[str]:
    return [each["name"] for each in spec["initContainers"]]


def test_the_engine_and_its_compiler(command: Command) -> None:
    _, compiler, engine = injected(command, EXAMPLES / "engine.yaml")
    publish = []
    for each in (compiler, engine):
        spec = each["spec"]["template"]["spec"]
        assert names(spec)[:2] == ["modelcache-compile-seed", "modelcache-compile-capture"]
        env = {e["name"]: e.get("value") for e in spec["initContainers"][1]["env"]}
        publish.append(env["MODELCACHE_COMPILE_PUBLISH"])
        assert env["MODELCACHE_COMPILE_HEALTH"] == "http://:8000/health"
    assert publish == ["true", "false"]


@pytest.mark.parametrize("level", ["privileged", "restricted"])
def test_a_claim(command: Command, level: str) -> None:
    flags = ("--pod-security", level, "--compile-port", "0")
    _, pod = injected(command, EXAMPLES / "claim.yaml", *flags)
    assert names(pod["spec"]) == ["modelcache-compile-seed"]
    assert not [volume for volume in pod["spec"]["volumes"] if "hostPath" in volume]
