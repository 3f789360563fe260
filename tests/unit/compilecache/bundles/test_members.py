from __future__ import annotations

import io
import subprocess
import tarfile
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcache.compilecache.bundles.members import (
    END,
    header,
    member_name,
)
from tests.support.archives import good

NAMES = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=300)


def read_back(name: str, size: int, mode: int) -> tarfile.TarInfo:
    with tarfile.open(fileobj=io.BytesIO(header(name, size, mode) + END), mode="r") as archive:
        info = archive.next()
    assert info is not None
    return info


@given(NAMES, st.integers(0, 2**60), st.sampled_from([0o644, 0o755]))
def test_every_tar_reads_the_headers(name: str, size: int, mode: int) -> None:
    name = name.strip("/") or "a"
    info = read_back(name, size, mode)
    assert (info.name, info.size, info.mode, info.type) == (name, size, mode, tarfile.REGTYPE)
    assert (info.uid, info.gid, info.uname, info.gname, info.mtime) == (0, 0, "", "", 0)


@pytest.mark.parametrize("length", [*range(85, 106), 985, 986, 987, 988, 989])
def test_the_length_of_a_long_name_counts_its_own_digits(length: int) -> None:
    assert read_back("n" * length, 1, 0o644).name == "n" * length


def test_headers_are_those_that_tarfile_writes() -> None:
    info = tarfile.TarInfo("io.vllm.cache/a")
    info.size, info.mode = 12, 0o755
    assert header("io.vllm.cache/a", 12, 0o755) == info.tobuf(tarfile.PAX_FORMAT)


def test_headers_never_change() -> None:
    """Bundles of earlier versions have to be read."""
    name = f"io.vllm.cache/{'n' * 200}/é"
    headers = header("a", 0) + header("a/b", 12, 0o755) + header(name, 2**35)
    assert sha256(headers).hexdigest() == (
        "4f5ad7d8d495fe095f4632c86a6eb8f4c13cd1c0713500f47dc9286f1ac977f8"
    )


def test_the_tar_of_the_machine_lists_it(tmp_path: Path) -> None:
    files = {"a/b": b"1", f"a/{'c' * 120}/é": b"2" * 700}
    (tmp_path / "a.tar").write_bytes(good(files) + END)
    listed = subprocess.run(
        ["tar", "--quoting-style=literal", "-tf", tmp_path / "a.tar"],
        check=True,
        capture_output=True,
        text=True,
        env={"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"},
    )
    wanted = ["modelcache/manifest.json", *(member_name("plain", path) for path in files)]
    assert listed.stdout.split() == wanted
    assert not listed.stderr
