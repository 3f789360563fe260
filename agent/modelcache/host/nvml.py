"""NVIDIA's GPUs as NVML sees them (NVIDIA Management Library, nvml.h).

The library comes with the driver. In a container it is there, with the GPUs' devices, where the
NVIDIA container toolkit put it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pynvml

from modelcache.host.accelerators import Device

_MIG_NAME: Final = re.compile(r"(?P<product>.+) MIG (?P<profile>\S+)")
"""How a MIG device is called: `NVIDIA A100-SXM4-40GB MIG 1g.5gb`."""
_NO_DRIVER: Final = (
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
)


class Unreadable(Exception):
    """There is a driver, and it doesn't say which GPUs there are."""


def nvidia_devices() -> tuple[Device, ...]:
    """The GPUs of this machine, in NVML's order, and of those with MIG their instances.

    Empty without a driver. May hang for as long as the driver does.

    Raises:
        Unreadable: the driver refuses, or isn't the one that the library belongs to.
    """
    try:
        with _library():
            return tuple(_all())
    except pynvml.NVMLError as error:
        if error.value in _NO_DRIVER:
            return ()
        raise Unreadable(str(error)) from error


@contextmanager
def _library() -> Iterator[None]:
    pynvml.nvmlInit()
    try:
        yield
    finally:
        pynvml.nvmlShutdown()


def _all() -> Iterator[Device]:
    driver = pynvml.nvmlSystemGetDriverVersion()
    version = pynvml.nvmlSystemGetCudaDriverVersion_v2()
    runtime = f"{version // 1000}.{version % 1000 // 10}"
    for index in range(pynvml.nvmlDeviceGetCount()):
        gpu = pynvml.nvmlDeviceGetHandleByIndex(index)
        product = pynvml.nvmlDeviceGetName(gpu)
        major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(gpu)
        for handle in _instances(gpu) if _is_divided(gpu) else [gpu]:
            mig = _MIG_NAME.fullmatch(pynvml.nvmlDeviceGetName(handle))
            yield Device(
                vendor="nvidia",
                product=product,
                compute_capability=f"{major}.{minor}",
                mig=mig["profile"] if mig else "",
                runtime=runtime,
                driver=driver,
                uuid=pynvml.nvmlDeviceGetUUID(handle),
            )


def _is_divided(gpu: Any) -> bool:
    try:
        current, _ = pynvml.nvmlDeviceGetMigMode(gpu)
    except pynvml.NVMLError_NotSupported:
        return False
    return bool(current == pynvml.NVML_DEVICE_MIG_ENABLE)


def _instances(gpu: Any) -> Iterator[Any]:
    """Those that this process may see: of a container those that it was given."""
    for index in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
        try:
            yield pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, index)
        except pynvml.NVMLError_NotFound:
            continue
