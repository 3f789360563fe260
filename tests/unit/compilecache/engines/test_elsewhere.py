"""Caches that a start wrote where nobody captures them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from modelcache.compilecache.engines import elsewhere as module
from modelcache.compilecache.engines.elsewhere import Elsewhere, elsewhere
from modelcache.compilecache.engines.table import BUILT_IN
from tests.unit.compilecache.engines.caches import put


class Machine:
    """A home, a directory for temporary files and a cache directory of one user."""

    def __init__(self, root: Path) -> None:
        self.home = root / "home"
        self.cache_dir = root / "cache"
        self.env = {"HOME": str(self.home), "TMPDIR": str(root / "tmp"), "USER": "somebody"}
        self.began = time.time()
        self.root = root

    def found(self, engine: str = "vllm", **env: str) -> dict[str, Elsewhere]:
        found = elsewhere(BUILT_IN[engine], {**self.env, **env}, self.cache_dir, self.began)
        ours = [cache for cache in found if cache.path.is_relative_to(self.root)]
        return {cache.name: cache for cache in ours}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_nothing_is_elsewhere(machine: Machine) -> None:
    put(machine.cache_dir, "inductor/a.py")
    environment = BUILT_IN["vllm"].environment(machine.cache_dir)
    assert machine.found(**environment) == {}


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("inductor", "tmp/torchinductor_somebody/ab/cabc.py"),
        ("triton", "home/.triton/cache/AB/kernel.cubin"),
        ("vllm", "home/.cache/vllm/torch_compile_cache/x"),
        ("flashinfer", "home/.cache/flashinfer/0.6/x.so"),
        ("deepgemm", "home/.deep_gemm/x.cubin"),
        ("torch-extensions", "home/.cache/torch_extensions/x.so"),
    ],
)
def test_a_cache_at_its_default_place(machine: Machine, name: str, path: str) -> None:
    put(machine.root, path, "12345")
    cache = machine.found()[name]
    assert (cache.files, cache.bytes) == (1, 5)
    assert (machine.root / path).is_relative_to(cache.path)
    setting = f"{cache.variable}={BUILT_IN['vllm'].environment(machine.cache_dir)[cache.variable]}"
    assert cache.sentence.endswith(f"start the engine with {setting}")
    assert "(1 file, 5)" in cache.sentence


def test_a_cache_where_a_variable_moves_it(machine: Machine) -> None:
    place = machine.root / "shared" / "inductor"
    put(place, "a.py")
    assert machine.found(TORCHINDUCTOR_CACHE_DIR=str(place))["inductor"].path == place
    assert machine.found(NEURON_COMPILE_CACHE_URL="s3://bucket/neuron", engine="neuron") == {}


def test_what_was_there_before_is_not_of_this_start(machine: Machine) -> None:
    old = put(machine.home, ".triton/cache/AB/kernel.cubin")
    os.utime(old, (machine.began - 10, machine.began - 10))
    assert machine.found() == {}


def test_other_files_in_the_home_directory_are_no_cache(machine: Machine) -> None:
    put(machine.home, "notes.txt")
    put(machine.home, ".cache/vllm/startup_plan/x")
    assert machine.found() == {}


def test_the_cache_directory_may_lie_within_a_default_place(machine: Machine) -> None:
    machine.cache_dir = machine.home / ".triton" / "cache" / "ours"
    put(machine.cache_dir, "inductor/a.py")
    assert machine.found() == {}


def test_of_any_program_torchs_caches_are_looked_for(machine: Machine) -> None:
    put(machine.root, "tmp/torchinductor_somebody/ab/cabc.py")
    assert list(machine.found("other")) == ["inductor"]


def test_links_are_not_followed(machine: Machine) -> None:
    put(machine.root, "outside/a")
    (machine.home / ".triton" / "cache").mkdir(parents=True)
    (machine.home / ".triton" / "cache" / "link").symlink_to(machine.root / "outside")
    (machine.home / ".triton" / "cache" / "file").symlink_to(machine.root / "outside" / "a")
    assert machine.found() == {}


def test_looking_has_an_end(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(30):
        put(machine.home, f".triton/cache/{number}/x")
    deep = ".triton/cache/" + "d/" * 40
    put(machine.home, f"{deep}x")
    assert machine.found()["triton"].files == 30
    monkeypatch.setattr(module, "MAX_NAMES", 10)
    assert machine.found()["triton"].files == 10
    monkeypatch.setattr(module, "MAX_SECONDS", -1.0)
    assert machine.found() == {}


def test_without_a_home_in_the_environment(tmp_path: Path) -> None:
    assert isinstance(elsewhere(BUILT_IN["vllm"], {}, tmp_path, time.time() + 60), tuple)
