"""NVIDIA's GPUs, by an NVML in C that a process of its own loads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ASK = """
import json
from dataclasses import asdict
from pathlib import Path
from modelcache.errors import AcceleratorUnknown
from modelcache.host.accelerators import devices
try:
    print(json.dumps([asdict(device) for device in devices(sys=Path("/none"), dev=Path({dev!r}))]))
except AcceleratorUnknown as error:
    print(json.dumps(str(error)))
"""
H100 = {
    "vendor": "nvidia",
    "product": "NVIDIA H100 80GB HBM3",
    "compute_capability": "9.0",
    "mig": "",
    "runtime": "12.8",
    "driver": "570.86.15",
}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nvml")
    source = Path(__file__).with_name("nvml.c")
    library = folder / "libnvidia-ml.so.1"
    subprocess.run(["gcc", "-shared", "-fPIC", "-Wall", "-o", library, source], check=True)
    return folder


def ask(library: Path | None, machine: str, *, dev: Path) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", ASK.format(dev=str(dev))],
        env={**os.environ, "LD_LIBRARY_PATH": str(library or "/none"), "FAKE_NVML": machine},
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
    )
    return json.loads(done.stdout)


def test_two_alike(library: Path, tmp_path: Path) -> None:
    expected = [{**H100, "uuid": "GPU-1"}, {**H100, "uuid": "GPU-2"}]
    assert ask(library, "alike", dev=tmp_path) == expected


def test_of_a_divided_gpu_the_instances_that_were_given(library: Path, tmp_path: Path) -> None:
    assert ask(library, "mig", dev=tmp_path) == [
        {**H100, "mig": "1g.10gb", "uuid": "MIG-201"},
        {**H100, "mig": "1g.10gb", "uuid": "MIG-501"},
        {**H100, "uuid": "GPU-2"},
    ]


def test_two_kinds_without_mig(library: Path, tmp_path: Path) -> None:
    found = ask(library, "mixed", dev=tmp_path)
    assert [(each["product"], each["compute_capability"]) for each in found] == [
        ("NVIDIA H100 80GB HBM3", "9.0"),
        ("NVIDIA L4", "8.9"),
    ]


@pytest.mark.parametrize("machine", ["no-driver", "mismatch", "none"])
def test_without_a_driver_or_a_device(library: Path, machine: str, tmp_path: Path) -> None:
    assert ask(library, machine, dev=tmp_path) == []
    assert ask(None, machine, dev=tmp_path) == []


def test_a_driver_that_refuses_is_no_machine_without_gpus(library: Path, tmp_path: Path) -> None:
    (tmp_path / "nvidiactl").touch()
    said = ask(library, "mismatch", dev=tmp_path)
    assert said.startswith("there is an NVIDIA driver, but which GPUs there are can't be told")
    assert "mismatch" in said
