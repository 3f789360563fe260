"""What a node compiles for, by its labels and by its devices: the same either way."""

from __future__ import annotations

import pytest

from modelcache.compilecache.keys import facts
from modelcache.compilecache.keys.facts import (
    NodeFacts,
    from_labels,
    from_machine,
    of_devices,
    of_node,
    visible,
)
from modelcache.compilecache.keys.parts import Accelerator
from modelcache.errors import AcceleratorUnknown
from modelcache.host.accelerators import Device
from tests.unit.compilecache.keys.samples import CPU, H100

GFD = {
    "nvidia.com/cuda.driver-version.full": "570.86.15",
    "nvidia.com/cuda.driver-version.major": "570",
    "nvidia.com/cuda.driver-version.minor": "86",
    "nvidia.com/cuda.runtime-version.full": "12.8",
    "nvidia.com/cuda.runtime-version.major": "12",
    "nvidia.com/cuda.runtime-version.minor": "8",
    "nvidia.com/gpu.compute.major": "9",
    "nvidia.com/gpu.compute.minor": "0",
    "nvidia.com/gpu.count": "8",
    "nvidia.com/gpu.present": "true",
    "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3",
    "nvidia.com/gpu.replicas": "1",
}
"""As GPU feature discovery writes them; it left out what no key has."""
BEFORE = {
    name.replace("driver-version", "driver").replace("runtime-version", "runtime"): value
    for name, value in GFD.items()
    if not name.endswith(".full")
}
"""By the names before version 0.16."""
DEVICE = Device(
    vendor="nvidia",
    product="NVIDIA H100 80GB HBM3",
    compute_capability="9.0",
    runtime="12.8",
    driver="570.86.15",
    uuid="GPU-aaaa",
)


def of(labels: dict[str, str]) -> Accelerator:
    return from_labels(labels, CPU).accelerator


@pytest.mark.parametrize("labels", [GFD, BEFORE, GFD | BEFORE])
@pytest.mark.parametrize("suffix", ["", "-SHARED", "-REPLICAS-4"])
def test_labels_and_devices_say_the_same(labels: dict[str, str], suffix: str) -> None:
    product = f"NVIDIA-H100-80GB-HBM3{suffix}"
    assert of({**labels, "nvidia.com/gpu.product": product}) == H100.accelerator
    assert of_devices([DEVICE, DEVICE]) == H100.accelerator


def mig(profile: str, uuid: str = "MIG-a") -> Device:
    return Device(
        vendor="nvidia",
        product=DEVICE.product,
        compute_capability="9.0",
        mig=profile,
        runtime="12.8",
        driver="570.86.15",
        uuid=uuid,
    )


@pytest.mark.parametrize(
    "labels",
    [
        {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb"},
        {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb-SHARED"},
        {
            "nvidia.com/mig.strategy": "mixed",
            "nvidia.com/mig-1g.10gb.product": "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb",
            "nvidia.com/gpu.replicas": "0",
        },
    ],
)
def test_mig(labels: dict[str, str]) -> None:
    found = of({**GFD, **labels})
    assert (found.product, found.mig) == ("NVIDIA-H100-80GB-HBM3", "1g.10gb")
    assert found == of_devices([mig("1g.10gb")])


def test_a_mig_profile_with_media_extensions() -> None:
    found = of({**GFD, "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb.me"})
    assert found == of_devices([mig("1g.10gb+me")])


@pytest.mark.parametrize("profile", ["1g.10gb+me", "1g.10gb+me.all", "1g.10gb-me", "7g.80gb"])
def test_a_mig_profile_as_labels_can_have_it(profile: str) -> None:
    """What no label may have in it GFD leaves out; a resource's name has a dot instead."""
    label = profile.replace("+", "")
    found = of({**GFD, "nvidia.com/gpu.product": f"NVIDIA-H100-80GB-HBM3-MIG-{label}"})
    assert found == of_devices([mig(profile)])
    mixed = f"nvidia.com/mig-{profile.replace('+', '.')}.product"
    assert found == of({**GFD, "nvidia.com/gpu.replicas": "0", mixed: "x"})


@pytest.mark.parametrize(
    ("name", "label"),
    [("Orin (nvgpu)", "Orin-nvgpu"), ("NVIDIA  Graphics Device", "NVIDIA-Graphics-Device")],
)
def test_a_name_that_no_label_can_have(name: str, label: str) -> None:
    found = of_devices([Device(vendor="nvidia", product=name)])
    assert found == of({"nvidia.com/gpu.product": label})


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({**GFD, "nvidia.com/gpu.product": "NVIDIA-A100-MIG-INVALID"}, "aren't all alike"),
        ({**GFD, "nvidia.com/mig-1g.10gb.product": "x"}, "maybe, whole ones"),
        (
            {
                **GFD,
                "nvidia.com/gpu.replicas": "0",
                "nvidia.com/mig-1g.10gb.product": "x",
                "nvidia.com/mig-2g.20gb.product": "x",
            },
            "1g.10gb, 2g.20gb",
        ),
        ({"nvidia.com/gpu.present": "true"}, "nvidia.com/gpu.present says"),
        ({"cloud.google.com/gke-accelerator": "nvidia-l4"}, "GPU feature discovery"),
        ({**GFD, "amd.com/gpu.product-name": "X"}, "several vendors"),
        (
            {"beta.amd.com/gpu.product-name.A": "4", "beta.amd.com/gpu.product-name.B": "4"},
            "several kinds of AMD GPUs: A, B",
        ),
        (
            {"beta.amd.com/gpu.device-id.74a1": "4", "beta.amd.com/gpu.device-id.740c": "4"},
            "several kinds of AMD GPUs: 740c, 74a1",
        ),
    ],
)
def test_what_labels_dont_say(labels: dict[str, str], said: str) -> None:
    with pytest.raises(AcceleratorUnknown, match=said):
        of(labels)


def test_what_is_not_there_is_not_invented() -> None:
    assert of({"nvidia.com/gpu.product": "Tesla-T4"}) == Accelerator(
        vendor="nvidia", product="Tesla-T4"
    )
    cpu = Accelerator(vendor="cpu", product="x86-64-v4")
    assert of({"kubernetes.io/arch": "amd64", "nvidia.com/gpu.present": "false"}) == cpu
    assert of_devices([]) is None


AMD = Device(
    vendor="amd",
    product="AMD Instinct MI300X OAM",
    compute_capability="gfx942",
    driver="6.10.5",
    uuid="GPU-0000000000000001",
)


@pytest.mark.parametrize("beta", ["", "beta."])
@pytest.mark.parametrize("counted", [False, True])
def test_amd(beta: str, counted: bool) -> None:
    values = {
        "product-name": "AMD_Instinct_MI300X_OAM",
        "device-id": "74a1",
        "driver-version": "6.10.5",
    }
    labels = {
        f"{beta}amd.com/gpu.{name}{f'.{value}' * counted}": "8" if counted else value
        for name, value in values.items()
    }
    assert of({**labels, f"{beta}amd.com/gpu.vram.192G": "8"}) == of_devices([AMD])


def test_others() -> None:
    instance = "node.kubernetes.io/instance-type"
    assert of({instance: "trn1.32xlarge"}) == of_devices([Device(vendor="aws", product="trn1")])
    assert of({instance: "m7i.large"}).vendor == "cpu"
    tpu = of({"cloud.google.com/gke-tpu-accelerator": "tpu-v6e-slice"})
    assert (tpu.vendor, tpu.product) == ("google", "tpu-v6e-slice")
    assert of({"gpu.intel.com/product": "Max_1550"}).product == "Max-1550"


def test_several_kinds_in_one_machine() -> None:
    with pytest.raises(AcceleratorUnknown, match=r"NVIDIA-H100-80GB-HBM3, .*-HBM3 1g\.10gb"):
        of_devices([DEVICE, mig("1g.10gb")])


OTHER = Device(vendor="nvidia", product="NVIDIA L4", uuid="GPU-bbbb")


@pytest.mark.parametrize(
    ("environment", "seen"),
    [
        ({}, (DEVICE, OTHER)),
        ({"CUDA_VISIBLE_DEVICES": "GPU-bb"}, (OTHER,)),
        ({"CUDA_VISIBLE_DEVICES": "GPU-bbbb, GPU-aaaa"}, (OTHER, DEVICE)),
        ({"CUDA_VISIBLE_DEVICES": "1"}, (DEVICE, OTHER)),
        ({"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, (OTHER,)),
        ({"CUDA_VISIBLE_DEVICES": "7", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, (DEVICE, OTHER)),
        ({"CUDA_VISIBLE_DEVICES": ""}, ()),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, ()),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, ()),
        ({"HIP_VISIBLE_DEVICES": ""}, (DEVICE, OTHER)),
    ],
)
def test_what_a_program_sees(environment: dict[str, str], seen: tuple[Device, ...]) -> None:
    assert visible([DEVICE, OTHER], environment) == seen


def test_this_machine() -> None:
    found = from_machine({"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""})
    assert found.cpu.isa.startswith(("x86-64", "armv"))
    assert found.accelerator.product


def test_an_agent_takes_what_it_sees_before_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "devices", lambda: (DEVICE,))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert from_machine().accelerator.vendor == "cpu"
    assert of_node({"nvidia.com/gpu.product": "other"}).accelerator == H100.accelerator
    monkeypatch.setattr(facts, "devices", lambda: ())
    assert of_node(GFD).accelerator == H100.accelerator
    assert of_node({}).accelerator.vendor == "cpu"

    def fail() -> tuple[Device, ...]:
        raise AcceleratorUnknown("broken")

    monkeypatch.setattr(facts, "devices", fail)
    assert of_node(GFD) == NodeFacts(H100.accelerator, facts.machine_cpu())
    with pytest.raises(AcceleratorUnknown, match="broken"):
        of_node({})
