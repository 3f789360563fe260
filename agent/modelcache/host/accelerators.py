"""Which accelerators this machine has: NVIDIA's by NVML, others' by sysfs.

AMD: Documentation/gpu/amdgpu (product_name) and kfd's topology (linux/drivers/gpu/drm/amd/amdkfd/
kfd_topology.c). AWS Neuron: /sys/class/neuron_device, and the kind of instance, which Nitro gives
as the product's name in the DMI table. A container sees all of the machine's sysfs: what counts is
whether it was given the device.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Final, Literal

from modelcache.errors import AcceleratorUnknown

NVML_SECONDS: Final = 20.0
"""How long the driver may take to answer. Without persistence mode it wakes the GPUs up first,
which takes seconds for a machine with eight."""

_AMD_VENDOR: Final = 0x1002
_SYS: Final = Path("/sys")
_DEV: Final = Path("/dev")


@dataclass(frozen=True, slots=True)
class Device:
    """One accelerator, or one MIG instance of it.

    Attributes:
        vendor: who makes it.
        product: its name as the driver, and so torch, gives it: `NVIDIA H100 80GB HBM3`.
        compute_capability: `9.0`, `gfx942`; empty where there is no such thing.
        mig: the MIG profile (`1g.10gb`); empty for a whole GPU.
        runtime: the CUDA version of the driver (`12.8`); empty where it isn't known.
        driver: the driver's version (`570.86.15`); empty where it isn't known.
        uuid: what CUDA_VISIBLE_DEVICES may name it by; empty where there is no such thing.
    """

    vendor: Literal["nvidia", "amd", "aws"]
    product: str
    compute_capability: str = ""
    mig: str = ""
    runtime: str = ""
    driver: str = ""
    uuid: str = ""


def devices(*, sys: Path = _SYS, dev: Path = _DEV) -> tuple[Device, ...]:
    """The accelerators of this machine that this process can see; empty: there is none.

    Raises:
        AcceleratorUnknown: there are devices of NVIDIA's, but NVML doesn't say which.
    """
    return (*_nvidia(dev), *_amd(sys, dev), *_neuron(sys, dev))


def _nvidia(dev: Path) -> tuple[Device, ...]:
    """Asks in a thread: a driver that is broken may never answer, and can't be interrupted."""
    found: list[Device] = []
    said = ["NVML did not answer"]

    def ask() -> None:
        try:
            from modelcache.host.nvml import Unreadable, nvidia_devices
        except ImportError:
            said[:] = ["nvidia-ml-py is not installed"]
            return
        try:
            found.extend(nvidia_devices())
        except Unreadable as error:
            said[:] = [str(error)]
        else:
            said[:] = ["NVML sees none"]

    asking = Thread(target=ask, name="nvml", daemon=True)
    asking.start()
    asking.join(NVML_SECONDS)
    if found and not asking.is_alive():
        return tuple(found)
    if (dev / "nvidiactl").exists():
        # It would pass for a machine without a GPU otherwise, with the key of such a one.
        raise AcceleratorUnknown(
            f"there is an NVIDIA driver, but which GPUs there are can't be told: {said[0]}"
        )
    return ()


def _amd(sys: Path, dev: Path) -> tuple[Device, ...]:
    found = []
    if not (dev / "kfd").exists():
        return ()
    for node in _listed(sys / "class/kfd/kfd/topology/nodes"):
        lines = (line.split() for line in _text(node / "properties").splitlines())
        properties = {line[0]: line[1] for line in lines if len(line) == 2}
        minor = properties.get("drm_render_minor", "0")
        if properties.get("vendor_id") != str(_AMD_VENDOR) or minor in ("0", "-1"):
            continue  # a processor
        device = sys / f"class/drm/renderD{minor}/device"
        product = _text(device / "product_name") or _text(device / "device")
        found.append(
            Device(
                vendor="amd",
                product=product,
                compute_capability=_gfx(properties.get("gfx_target_version", "")),
                driver=_text(sys / "module/amdgpu/version"),
                uuid=f"GPU-{int(properties.get('unique_id') or 0):016x}",
            )
        )
    return tuple(found)


def _gfx(version: str) -> str:
    """`gfx942` of 90402, `gfx90a` of 90010: two decimal digits each, written in hex at the end."""
    if not re.fullmatch(r"[0-9]{5,6}", version):
        return ""
    number = int(version)
    return f"gfx{number // 10000}{number // 100 % 100:x}{number % 100:x}"


def _neuron(sys: Path, dev: Path) -> tuple[Device, ...]:
    family, _, _ = _text(sys / "devices/virtual/dmi/id/product_name").partition(".")
    nodes = _listed(sys / "class/neuron_device")
    given = [node for node in nodes if (dev / node.name).exists()]
    return tuple(Device(vendor="aws", product=family) for _ in given if family)


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
