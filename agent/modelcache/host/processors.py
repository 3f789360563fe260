"""The machine's processor: which instructions code that was compiled on it may have."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# glibc's levels (x86-64 psABI, 3.1.1 Processor Architecture), by the names that the kernel gives
# their features in /proc/cpuinfo (Linux, arch/x86/include/asm/cpufeatures.h).
_LEVELS: Final = (
    ("x86-64-v2", {"cx16", "lahf_lm", "pni", "popcnt", "sse4_1", "sse4_2", "ssse3"}),
    ("x86-64-v3", {"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"}),
    ("x86-64-v4", {"avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"}),
)
_ARMV9: Final = {"sve2"}

# What compilers emit of themselves when they compile for the very machine (-march=native, as
# Inductor does) and is of no level: code with it ends in an illegal instruction elsewhere.
_X86: Final = """
    amx_bf16 amx_complex amx_fp16 amx_int8 amx_tile avx10 avx512_4fmaps avx512_4vnniw avx512_bf16
    avx512_bitalg avx512_fp16 avx512_vbmi2 avx512_vnni avx512_vp2intersect avx512_vpopcntdq
    avx512er avx512ifma avx512pf avx512vbmi avx_ifma avx_ne_convert avx_vnni avx_vnni_int16
    avx_vnni_int8 fma4 gfni sse4a tbm vaes vpclmulqdq xop"""
_ARM: Final = """
    asimddp asimdfhm asimdhp asimdrdm atomics bf16 cssc fcma fphp frint i8mm ilrcpc lrcpc mops sha3
    sme sme2 sve sve2 sve2p1 svebf16 svei8mm"""
_BEYOND: Final = {"x86_64": {*_X86.split()}, "aarch64": {*_ARM.split()}}


@dataclass(frozen=True, slots=True)
class Processor:
    """The processor.

    Attributes:
        arch: as uname(2) has it: x86_64, aarch64.
        isa: the class of its instruction set: x86-64 (v1) to x86-64-v4, armv8, armv9; else `arch`.
        features: what it has beyond its class and compilers use of themselves, sorted, by the
            kernel's names.
    """

    arch: str
    isa: str
    features: tuple[str, ...] = ()


def processor(cpuinfo: Path = Path("/proc/cpuinfo"), arch: str | None = None) -> Processor:
    """This machine's processor, by what its first core says (proc_cpuinfo(5)).

    Where that can't be read it is of the lowest class of its architecture.
    """
    arch = arch or os.uname().machine
    has = _features(cpuinfo)
    if arch == "aarch64":
        isa = "armv9" if has >= _ARMV9 else "armv8"
    elif arch == "x86_64":
        isa = "x86-64"
        for level, needed in _LEVELS:
            if not has >= needed:
                break
            isa = level
    else:
        isa = arch
    return Processor(arch, isa, tuple(sorted(has & _BEYOND.get(arch, set()))))


def _features(cpuinfo: Path) -> set[str]:
    try:
        with cpuinfo.open(encoding="ascii", errors="replace") as lines:
            for line in lines:
                name, _, value = line.partition(":")
                if name.strip() in ("flags", "Features"):
                    return {*value.split()}
    except OSError:
        pass
    return set()
