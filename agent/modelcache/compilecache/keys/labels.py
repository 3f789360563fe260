"""Accelerators as a node's labels name them.

NVIDIA: GPU feature discovery (k8s-device-plugin, internal/lm). AMD: the node labeller of the GPU
Operator and of the device plugin. Neuron has no labels but the kind of instance. TPUs: GKE's.
Intel: the rules for NFD of its GPU plugin.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from modelcache.compilecache.keys.parts import Accelerator
from modelcache.errors import AcceleratorUnknown

_SHARED: Final = re.compile(r"-(?:SHARED|REPLICAS(?:-\d+)?)$")
_MIG: Final = re.compile(r"(?P<product>.+)-MIG-(?P<profile>.+)")
_MIG_TYPE: Final = re.compile(r"nvidia\.com/mig-(?P<profile>[0-9][^/]*)\.product")
_EXTENSION: Final = re.compile(r"(?<=[0-9]gb)(?=[a-z])")
_ODD: Final = re.compile(r"[^A-Za-z0-9-_. ]")
_NEURON: Final = re.compile(r"(?P<family>(?:inf|trn)[0-9][a-z0-9-]*)\..+")
_UNNAMED: Final = (
    *(
        "nvidia.com/gpu.present",
        "cloud.google.com/gke-accelerator",
        "k8s.amazonaws.com/accelerator",
    ),
    "karpenter.k8s.aws/instance-gpu-name",
)
"""Labels that say of a node that it has NVIDIA's GPUs, but not what torch calls them."""

# By PCI device id, since the labels don't say it (libdrm, data/amdgpu.ids; LLVM, AMDGPUUsage).
_GFX: Final = {
    **dict.fromkeys(("738c", "738e"), "gfx908"),
    **dict.fromkeys(("7408", "740c", "740f", "7410"), "gfx90a"),
    **dict.fromkeys(("74a0", "74a1", "74a2", "74a5", "74a8", "74a9", "74b5", "74b9"), "gfx942"),
    **dict.fromkeys(("75a0", "75a3", "75b0", "75b3"), "gfx950"),
}


def labelled(labels: Mapping[str, str]) -> Accelerator | None:
    """The accelerator that a node's labels name; None: they name none.

    Raises:
        AcceleratorUnknown: they say that there is one but not which, or name several.
    """
    named = [_nvidia(labels), _amd(labels), _neuron(labels), _tpu(labels), _intel(labels)]
    found = [each for each in named if each is not None]
    if len(found) > 1:
        raise AcceleratorUnknown(
            "the node's labels name accelerators of several vendors:"
            f" {', '.join(each.product for each in found)}"
        )
    if found:
        return found[0]
    unnamed = next((name for name in _UNNAMED if labels.get(name) not in (None, "", "false")), "")
    if unnamed:
        raise AcceleratorUnknown(
            f"the node's label {unnamed} says that it has GPUs, but no label says which: run"
            " NVIDIA's GPU feature discovery there, or give the agent's container the GPUs"
        )
    return None


def label_form(product: str) -> str:
    """A product's name as GFD writes it into a label: what none may have in it is left out, and
    blanks are hyphens (k8s-device-plugin, internal/lm/resource.go)."""
    return "-".join(_ODD.sub("", product).split())


def _nvidia(labels: Mapping[str, str]) -> Accelerator | None:
    product = labels.get("nvidia.com/gpu.product", "")
    if not product:
        return None
    product = _SHARED.sub("", product)
    mig = _MIG.fullmatch(product)
    if mig:
        # The plus sign of 1g.10gb+me can be in no label, and is a dot in a resource's name.
        product, profile = mig["product"], _EXTENSION.sub(".", mig["profile"])
    else:
        profile = _mixed(labels)
    if profile == "INVALID":
        raise AcceleratorUnknown(
            f"the MIG instances of the node's {product} aren't all alike: divide them alike, or set"
            " the MIG strategy of its device plugin to mixed"
        )
    major, minor = (labels.get(f"nvidia.com/gpu.compute.{part}", "") for part in ("major", "minor"))
    return Accelerator(
        vendor="nvidia",
        product=product,
        compute_capability=f"{major}.{minor}" if major else "",
        mig=profile,
        runtime=_version(labels, "runtime"),
        driver_major=_version(labels, "driver").partition(".")[0],
    )


def _mixed(labels: Mapping[str, str]) -> str:
    """The MIG profile of a node whose device plugin has the strategy `mixed`: that of its only kind
    of instance. Empty where there are none.

    Raises:
        AcceleratorUnknown: there are several kinds, or whole GPUs beside them.
    """
    types = {match["profile"] for name in labels if (match := _MIG_TYPE.fullmatch(name))}
    if not types:
        return ""
    # Of GPUs that are all divided GFD says zero replicas; a whole one would say at least one.
    if len(types) > 1 or labels.get("nvidia.com/gpu.replicas") != "0":
        raise AcceleratorUnknown(
            f"the node has several kinds of GPUs: MIG instances ({', '.join(sorted(types))}) and,"
            " maybe, whole ones. A compile cache can be had on nodes with one kind only"
        )
    return types.pop()


def _version(labels: Mapping[str, str], what: str) -> str:
    """`12.8`: by the labels of GFD since 0.16, else by those before."""
    for prefix in (f"nvidia.com/cuda.{what}-version", f"nvidia.com/cuda.{what}"):
        major, minor = labels.get(f"{prefix}.major", ""), labels.get(f"{prefix}.minor", "")
        if major:
            return f"{major}.{minor}".rstrip(".")
    return ""


def _amd(labels: Mapping[str, str]) -> Accelerator | None:
    products = _amd_values(labels, "product-name")
    ids = {each.lower().removeprefix("0x") for each in _amd_values(labels, "device-id")}
    if len(products) > 1 or len(ids) > 1:
        raise AcceleratorUnknown(
            "the node's labels name several kinds of AMD GPUs:"
            f" {', '.join(sorted(products if len(products) > 1 else ids))}"
        )
    if not products and not ids:
        return None
    drivers = _amd_values(labels, "driver-version") or {""}
    device = next(iter(ids), "")
    return Accelerator(
        vendor="amd",
        product=next(iter(products), f"0x{device}").replace("_", "-").replace(" ", "-"),
        compute_capability=_GFX.get(device, ""),
        driver_major=min(drivers).partition(".")[0],
    )


def _amd_values(labels: Mapping[str, str], what: str) -> set[str]:
    """A property's values: a label's value, or, with how many GPUs have it, part of its name."""
    plain = f"amd.com/gpu.{what}"
    counted = f"{plain}."
    found = set()
    for name, value in labels.items():
        stable = name.removeprefix("beta.")
        if stable == plain:
            found.add(value)
        elif stable.startswith(counted):
            found.add(stable.removeprefix(counted))
    return found


def _neuron(labels: Mapping[str, str]) -> Accelerator | None:
    match = _NEURON.fullmatch(labels.get("node.kubernetes.io/instance-type", ""))
    return Accelerator(vendor="aws", product=match["family"]) if match else None


def _tpu(labels: Mapping[str, str]) -> Accelerator | None:
    product = labels.get("cloud.google.com/gke-tpu-accelerator", "")
    return Accelerator(vendor="google", product=product) if product else None


def _intel(labels: Mapping[str, str]) -> Accelerator | None:
    product = labels.get("gpu.intel.com/product", "")
    return Accelerator(vendor="intel", product=product.replace("_", "-")) if product else None
