"""Accelerators that sysfs shows. NVIDIA's: tests/component/host/test_nvml.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelcache.errors import AcceleratorUnknown
from modelcache.host import accelerators
from modelcache.host.accelerators import Device, devices

PROPERTIES = """\
cpu_cores_count 0
simd_count 1216
vendor_id 4098
device_id 29857
drm_render_minor {minor}
gfx_target_version {gfx}
unique_id 1234567890
name
"""


class Machine:
    """A sysfs and a /dev."""

    def __init__(self, folder: Path) -> None:
        self.sys, self.dev = folder / "sys", folder / "dev"

    def write(self, path: str, text: str) -> None:
        (self.sys / path).parent.mkdir(parents=True, exist_ok=True)
        (self.sys / path).write_text(text)

    def give(self, name: str) -> None:
        self.dev.mkdir(parents=True, exist_ok=True)
        (self.dev / name).touch()

    def devices(self) -> tuple[Device, ...]:
        return devices(sys=self.sys, dev=self.dev)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """One whose NVML sees no GPU, whatever this one has."""
    monkeypatch.setattr("modelcache.host.nvml.nvidia_devices", tuple)
    return Machine(tmp_path)


def with_amd(machine: Machine) -> Machine:
    nodes = "class/kfd/kfd/topology/nodes"
    machine.write(f"{nodes}/0/properties", "cpu_cores_count 96\ndrm_render_minor 0\nvendor_id 0\n")
    for number, minor in enumerate((128, 136), start=1):
        machine.write(f"{nodes}/{number}/properties", PROPERTIES.format(minor=minor, gfx=90402))
        machine.write(f"class/drm/renderD{minor}/device/product_name", "AMD Instinct MI300X OAM\n")
    machine.write("module/amdgpu/version", "6.10.5\n")
    return machine


def test_a_machine_without_any(machine: Machine) -> None:
    assert machine.devices() == ()


def test_amds(machine: Machine) -> None:
    with_amd(machine).give("kfd")
    found = machine.devices()
    assert [(each.vendor, each.product) for each in found] == [
        ("amd", "AMD Instinct MI300X OAM")
    ] * 2
    assert (found[0].compute_capability, found[0].driver) == ("gfx942", "6.10.5")
    assert found[0].uuid == f"GPU-{1234567890:016x}"


def test_what_a_container_was_not_given_it_has_not(machine: Machine) -> None:
    assert with_amd(machine).devices() == ()


@pytest.mark.parametrize(
    ("version", "gfx"),
    [
        *(("90010", "gfx90a"), ("90008", "gfx908"), ("110000", "gfx1100"), ("120001", "gfx1201")),
        *(("", ""), ("x", "")),
    ],
)
def test_gfx_targets(machine: Machine, version: str, gfx: str) -> None:
    machine.give("kfd")
    properties = PROPERTIES.format(minor=128, gfx=version)
    machine.write("class/kfd/kfd/topology/nodes/1/properties", properties)
    machine.write("class/drm/renderD128/device/device", "0x7550\n")
    (found,) = machine.devices()
    assert (found.compute_capability, found.product) == (gfx, "0x7550")


def test_neurons(machine: Machine) -> None:
    machine.write("devices/virtual/dmi/id/product_name", "trn1.32xlarge\n")
    for number in range(2):
        machine.write(f"class/neuron_device/neuron{number}/core_count", "2")
    assert machine.devices() == ()
    machine.give("neuron0")
    assert machine.devices() == (Device(vendor="aws", product="trn1"),)


def test_gpus_that_cant_be_named_are_not_taken_for_none(machine: Machine) -> None:
    machine.give("nvidiactl")
    with pytest.raises(AcceleratorUnknown, match="can't be told: NVML sees none"):
        machine.devices()


def test_a_driver_that_never_answers(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    from threading import Event

    answered = Event()

    def never() -> tuple[Device, ...]:
        answered.wait()
        return (Device(vendor="nvidia", product="late"),)

    monkeypatch.setattr("modelcache.host.nvml.nvidia_devices", never)
    monkeypatch.setattr(accelerators, "NVML_SECONDS", 0.01)
    machine.give("nvidiactl")
    try:
        with pytest.raises(AcceleratorUnknown, match="NVML did not answer"):
            machine.devices()
    finally:
        answered.set()
