"""The class of a processor's instruction set."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelcache.host.processors import processor

V2 = "cx16 lahf_lm pni popcnt sse4_1 sse4_2 ssse3 sse sse2"
V3 = f"{V2} abm avx avx2 bmi1 bmi2 f16c fma movbe xsave"
V4 = f"{V3} avx512bw avx512cd avx512dq avx512f avx512vl"
NEOVERSE_N1 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc"
NEOVERSE_V2 = f"{NEOVERSE_N1} asimddp sve sve2 svebf16 bf16 i8mm"


@pytest.mark.parametrize(
    ("arch", "features", "isa", "more"),
    [
        ("x86_64", "sse sse2", "x86-64", ()),
        ("x86_64", V2, "x86-64-v2", ()),
        ("x86_64", V3, "x86-64-v3", ()),
        ("x86_64", V3.replace("movbe ", ""), "x86-64-v2", ()),
        ("x86_64", V4, "x86-64-v4", ()),
        ("x86_64", V4.replace("bmi2 ", ""), "x86-64-v2", ()),  # each level has those below
        ("x86_64", f"gfni {V4} amx_tile", "x86-64-v4", ("amx_tile", "gfni")),
        ("aarch64", "fp asimd", "armv8", ()),
        # Three-way exclusive or, copying of memory, least and greatest: compilers use them.
        ("aarch64", "fp asimd sha3 mops cssc frint", "armv8", ("cssc", "frint", "mops", "sha3")),
        *(
            ("aarch64", listed, isa, more)
            for listed, isa, more in (
                (NEOVERSE_N1, "armv8", ("asimdhp", "asimdrdm", "atomics", "fphp", "lrcpc")),
                (
                    NEOVERSE_V2,
                    "armv9",
                    (
                        *("asimddp", "asimdhp", "asimdrdm", "atomics", "bf16", "fphp", "i8mm"),
                        *("lrcpc", "sve", "sve2", "svebf16"),
                    ),
                ),
            )
        ),
        ("riscv64", "whatever", "riscv64", ()),
    ],
)
def test_classes(tmp_path: Path, arch: str, features: str, isa: str, more: tuple[str, ...]) -> None:
    file = tmp_path / "cpuinfo"
    name = "Features" if arch == "aarch64" else "flags"
    file.write_text(f"processor\t: 0\nvendor: x\n{name}\t\t: {features}\n\nprocessor\t: 1\n")
    found = processor(file, arch)
    assert (found.arch, found.isa, found.features) == (arch, isa, more)


def test_what_cant_be_read_is_of_the_lowest_class(tmp_path: Path) -> None:
    assert processor(tmp_path / "none", "x86_64").isa == "x86-64"
    (tmp_path / "cpuinfo").write_bytes(b"\xff\xfe no features")
    assert processor(tmp_path / "cpuinfo", "aarch64").isa == "armv8"


def test_this_machines() -> None:
    found = processor()
    assert found.arch in ("x86_64", "aarch64")
    assert found.isa.startswith(("x86-64", "armv"))
