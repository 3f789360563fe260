from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcache.compilecache.engines.table import BUILT_IN, Engine, table
from modelcache.errors import UsageError

CACHE_DIR = Path("/var/cache/modelcache")
AOT = "vllm/torch_compile_cache/torch_aot_compile/" + "3" * 64


def write(folder: Path, text: str) -> Path:
    path = folder / "engines.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("engine", BUILT_IN.values(), ids=BUILT_IN)
def test_every_cache_lies_below_the_cache_directory(engine: Engine) -> None:
    environment = engine.environment(CACHE_DIR)
    for root in engine.roots:
        if root.variable:
            assert PurePosixPath(environment[root.variable]).is_relative_to(CACHE_DIR)
            assert environment[root.variable] == str(CACHE_DIR / root.subdirectory)


def test_the_variables_of_vllm() -> None:
    assert BUILT_IN["vllm"].environment(CACHE_DIR) == {
        "VLLM_CACHE_ROOT": "/var/cache/modelcache/vllm",
        "TORCHINDUCTOR_CACHE_DIR": "/var/cache/modelcache/inductor",
        "TRITON_CACHE_DIR": "/var/cache/modelcache/triton",
        "FLASHINFER_WORKSPACE_BASE": "/var/cache/modelcache/flashinfer",
        "TILELANG_CACHE_DIR": "/var/cache/modelcache/tilelang",
        "TVM_FFI_CACHE_DIR": "/var/cache/modelcache/tvm-ffi",
        "CUTE_DSL_CACHE_DIR": "/var/cache/modelcache/cute-dsl",
        "TORCH_EXTENSIONS_DIR": "/var/cache/modelcache/torch-extensions",
        "DG_JIT_CACHE_DIR": "/var/cache/modelcache/deep-gemm",
        "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0",
    }


def test_torch_is_told_to_keep_its_graphs() -> None:
    environment = BUILT_IN["torch"].environment(CACHE_DIR)
    assert environment["TORCHINDUCTOR_FX_GRAPH_CACHE"] == "1"
    assert environment["TORCHINDUCTOR_CACHE_DIR"] == "/var/cache/modelcache/inductor"
    assert environment["TRITON_CACHE_DIR"] == "/var/cache/modelcache/triton"


def test_sglang_is_told_twice_where_deepgemm_is() -> None:
    environment = BUILT_IN["sglang"].environment(CACHE_DIR)
    assert environment["SGLANG_DG_CACHE_DIR"] == environment["DG_JIT_CACHE_DIR"]


@pytest.mark.parametrize(
    "path",
    [
        f"{AOT}/rank_0_0/model",
        f"{AOT}/inductor_cache/ab/cabc.py",
        "vllm/torch_compile_cache/0123456789/rank_0_0/backbone/vllm_compile_cache.py",
        "vllm/torch_compile_cache/0123456789/rank_1_0/inductor_cache/x/y.so",
        "vllm/torch_aot_compile/" + "a" * 64 + "/rank_0_0/model",
        "vllm/modelinfos/abc.json",
        "vllm/flashinfer_autotune_cache/0.6/120f/abc/autotune_configs.json",
        "triton/ABCDEF/__grp__kernel.json",
        "inductor/fxgraph/ab/cd/ef",
        "flashinfer/.cache/flashinfer/0.6.1/90a/cached_ops/x/x.so",
        "flashinfer/.cache/flashinfer/0.6.1/90a/cached_ops/x/.ninja_log",
        "deep-gemm/cache/kernel.abc/kernel.cubin",
        "torch-extensions/py312_cu128/x/x.so",
    ],
)
def test_captured_of_vllm(path: str) -> None:
    assert BUILT_IN["vllm"].wanted(path)


@pytest.mark.parametrize(
    "path",
    [
        "vllm/startup_plan/plan.json",
        "vllm/assets/model.tar",
        "vllm/gpu_p2p_access_cache_for_0,1.json",
        f"{AOT}/rank_0_0/model.812.tmp",
        "vllm/torch_compile_cache/0123456789/rank_0_0/backbone/cache_key_factors.json",
        "triton/ABCDEF/tmp.pid_12_34/kernel.json",
        "triton/ABCDEF/kernel.tmp.pid_12_34",
        "inductor/locks/abc.lock",
        "inductor/ab/.12.140.tmp",
        "torch-extensions/py312_cu128/x/lock",
        "flashinfer/.cache/flashinfer/0.6.1/90a/flashinfer_jit.lock",
        "flashinfer/something else",
        "flashinfer/else/.cache/flashinfer/x",
        "vllm/else/torch_compile_cache/x",
        "inductor/ab/__pycache__/cabc.cpython-312.pyc",
        "inductor/ab/.nfs000000000001",
        "deep-gemm/tmp/0f",
        "elsewhere/x",
        ".modelcache-seed.json",
        "vllm",
    ],
)
def test_not_captured_of_vllm(path: str) -> None:
    assert not BUILT_IN["vllm"].wanted(path)


def test_any_directory_has_all_but_what_is_never_captured() -> None:
    other = BUILT_IN["other"]
    assert other.environment(CACHE_DIR) == {}
    assert other.wanted("whatever/it/is")
    assert not other.wanted(".modelcache-seed.json")
    assert not other.wanted("a/b.lock")


@given(st.text(max_size=200))
def test_any_name_is_answered_for(path: str) -> None:
    for engine in BUILT_IN.values():
        assert not engine.wanted(f"{path}/cache_key_factors.json")
        assert engine.wanted(path) in (True, False)


def test_what_is_being_written_is_known_by_its_name() -> None:
    vllm = BUILT_IN["vllm"]
    assert vllm.temporary(f"{AOT}/rank_0_0/model.812.tmp")
    assert vllm.temporary("triton/ABCDEF/tmp.pid_12_34/kernel.json")
    assert not vllm.temporary(f"{AOT}/rank_0_0/model")
    assert not vllm.temporary("somebody.tmp")


def test_without_a_file_the_table_is_the_built_in_one() -> None:
    assert table(None) is BUILT_IN


def test_a_file_adds_a_cache_to_a_known_engine(tmp_path: Path) -> None:
    text = """
engines:
  vllm:
    roots:
      - {name: lmcache, variable: LMCACHE_DIR, drop: [tmp/], defaults: [~/.lmcache]}
      - {name: triton, variable: TRITON_CACHE_DIR, subdirectory: my/triton}
"""
    vllm = table(write(tmp_path, text))["vllm"]
    environment = vllm.environment(CACHE_DIR)
    assert environment["LMCACHE_DIR"] == "/var/cache/modelcache/lmcache"
    assert environment["TRITON_CACHE_DIR"] == "/var/cache/modelcache/my/triton"
    assert environment["VLLM_CACHE_ROOT"] == "/var/cache/modelcache/vllm"
    assert vllm.wanted("lmcache/a")
    assert not vllm.wanted("lmcache/tmp/a")
    assert vllm.ready == BUILT_IN["vllm"].ready
    assert vllm.programs == ("vllm",)


def test_a_file_adds_an_engine_that_extends_another(tmp_path: Path) -> None:
    text = """
engines:
  mine: {extends: torch, programs: [serve-it], settings: {A: '1'}, ready: [it serves]}
"""
    engines = table(write(tmp_path, text))
    mine = engines["mine"]
    assert mine.environment(CACHE_DIR) == {**BUILT_IN["torch"].environment(CACHE_DIR), "A": "1"}
    assert mine.programs == ("serve-it",)
    assert mine.ready == ("it serves",)
    assert set(engines) == {*BUILT_IN, "mine"}


def test_a_cache_within_another_has_its_own_patterns(tmp_path: Path) -> None:
    text = """
engines:
  mine:
    roots:
      - {name: all, subdirectory: "", select: ["*.so"]}
      - {name: inner, subdirectory: a/b, select: ["*.py"]}
"""
    mine = table(write(tmp_path, text))["mine"]
    assert mine.wanted("a/x.so")
    assert mine.wanted("a/b/x.py")
    assert not mine.wanted("a/b/x.so")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is empty"),
        ("[", "is no YAML"),
        ("engines: []", "engines: a mapping is wanted"),
        ("engines: {x: {}}", "engines.x has no caches"),
        ("engines: {x: {extends: torc}}", "did you mean torch?"),
        ("engines: {X: {extends: torch}}", 'engines.X: "X" is not allowed'),
        (
            "engines:\n  x:\n    roots:\n      - {name: a, subdirectory: ../b}",
            "line 4, engines.x.roots[0].subdirectory: must be a relative path",
        ),
        ("engines: {x: {roots: [{name: a, subdirectory: /b}]}}", "must be a relative path"),
        ("engines: {x: {roots: [{name: a, subdirectory: .modelcache-x}]}}", "own"),
        ("engines: {x: {roots: [{name: a, variable: 1A}]}}", "no name of a variable"),
        ("engines: {x: {roots: [{name: a, defaults: [b]}]}}", "must begin with /, ~ or $NAME"),
        ("engines: {x: {extends: torch, ready: ['']}}", "ready[0]: is empty"),
        ("engines: {x: {extends: torch}, x: {}}", "is given twice"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(UsageError, match=re.escape(told)) as error:
        table(write(tmp_path, text))
    assert str(tmp_path) in str(error.value)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can't be read: No such file"):
        table(tmp_path / "none.yaml")


def test_a_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    path = tmp_path / "engines.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="no text in UTF-8"):
        table(path)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="larger than 256 KiB"):
        table(write(tmp_path, "#" * (256 * 1024 + 1)))
