"""What a node compiles for: its accelerator and its processor, asked or as its labels tell."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from modelcache.compilecache.keys.labels import label_form, labelled
from modelcache.compilecache.keys.parts import Accelerator, Cpu
from modelcache.errors import AcceleratorUnknown
from modelcache.host.accelerators import Device, devices
from modelcache.host.processors import processor

_NOTHING: Final = ("", "-1", "none", "void", "nodevfiles")
"""Values of CUDA_VISIBLE_DEVICES by which a program sees no GPU."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What a node compiles for."""

    accelerator: Accelerator
    cpu: Cpu


def from_machine(environment: Mapping[str, str] | None = None) -> NodeFacts:
    """What a program on this machine compiles for.

    Args:
        environment: the program's: CUDA_VISIBLE_DEVICES (HIP_VISIBLE_DEVICES) may hide GPUs from
            it; None: ours.

    Raises:
        AcceleratorUnknown: the driver doesn't say, or there are several kinds.
    """
    found = visible(devices(), os.environ if environment is None else environment)
    cpu = machine_cpu()
    return NodeFacts(of_devices(found) or without_accelerator(cpu), cpu)


def from_labels(labels: Mapping[str, str], cpu: Cpu) -> NodeFacts:
    """What a node with these labels compiles for; the CPU where they name no accelerator.

    Raises:
        AcceleratorUnknown: they say that there is one but not which, or name several.
    """
    return NodeFacts(labelled(labels) or without_accelerator(cpu), cpu)


def of_node(labels: Mapping[str, str]) -> NodeFacts:
    """What the node that this process runs on compiles for: an agent sees the GPUs of its node only
    where its container was given them.

    Raises:
        AcceleratorUnknown
    """
    try:
        facts = from_machine({})  # what is hidden from an agent isn't from others
    except AcceleratorUnknown:
        named = labelled(labels)
        if named is None:
            raise
        return NodeFacts(named, machine_cpu())
    return from_labels(labels, facts.cpu) if facts.accelerator.vendor == "cpu" else facts


def machine_cpu() -> Cpu:
    """This machine's processor."""
    found = processor()
    return Cpu(arch=found.arch, isa=found.isa, features=found.features)


def without_accelerator(cpu: Cpu) -> Accelerator:
    """What stands for the accelerator where there is none."""
    return Accelerator(vendor="cpu", product=cpu.isa)


def of_devices(found: Iterable[Device]) -> Accelerator | None:
    """The accelerator that all of these are; None: there is none.

    Raises:
        AcceleratorUnknown: they are of several kinds.
    """
    kinds = {}
    for device in found:
        accelerator = Accelerator(
            vendor=device.vendor,
            product=label_form(device.product),
            compute_capability=device.compute_capability,
            mig=device.mig.replace("+", "."),
            runtime=device.runtime,
            driver_major=device.driver.partition(".")[0],
        )
        kinds[f"{accelerator.product} {accelerator.mig}".strip()] = accelerator
    if len(kinds) > 1:
        raise AcceleratorUnknown(
            f"this machine has accelerators of several kinds ({', '.join(sorted(kinds))}): name"
            " those that the engine is to use in CUDA_VISIBLE_DEVICES, by their UUIDs"
        )
    return next(iter(kinds.values()), None)


def visible(found: Sequence[Device], environment: Mapping[str, str]) -> tuple[Device, ...]:
    """The devices that a program with this environment sees, as far as that can be told.

    A plain number counts in CUDA's own order, the fastest first, unless CUDA_DEVICE_ORDER is
    PCI_BUS_ID, which is NVML's order too (CUDA C++ Programming Guide, "Environment Variables").
    """
    kept: list[Device] = []
    for vendor, variable in (("nvidia", "CUDA"), ("amd", "HIP"), ("aws", "")):
        mine = [device for device in found if device.vendor == vendor]
        chosen = environment.get(f"{variable}_VISIBLE_DEVICES") if variable else None
        kept += mine if chosen is None else _chosen(mine, chosen, environment)
    return tuple(kept)


def _chosen(mine: list[Device], chosen: str, environment: Mapping[str, str]) -> list[Device]:
    names = [name.strip() for name in chosen.split(",")]
    if names[0].lower() in _NOTHING:
        return []
    in_order = environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    kept: list[Device] = []
    for name in names:
        if name.isdecimal() and in_order and int(name) < len(mine):
            kept.append(mine[int(name)])
        else:
            kept += [device for device in mine if device.uuid and device.uuid.startswith(name)]
    return kept or mine
