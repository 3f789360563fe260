"""What an engine says went into its hashes, recorded without its secrets, and compared."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcache.compilecache.engines.evidence import EngineHashes
from modelcache.compilecache.engines.factors import MAX_FACTORS, changed_factors, hashes_of
from tests.unit.compilecache.engines.caches import (
    AOT,
    BACKBONE,
    FACTORS,
    JIT,
    look,
    put,
    put_aot,
    put_jit,
)

FILE = f"{BACKBONE}/cache_key_factors.json"


def hashes(root: Path) -> EngineHashes:
    return hashes_of(root, look(root))


def test_directories_ranks_and_factors(tmp_path: Path) -> None:
    put_jit(tmp_path)
    put_jit(tmp_path, rank="rank_1_0")
    put_aot(tmp_path, "rank_0_0", "rank_1_0")
    found = hashes(tmp_path)
    assert found.directories == (JIT, AOT)
    assert found.ranks == ("rank_0_0", "rank_1_0")
    assert list(found.factors) == [
        "code_hash",
        "compiler_hash",
        "config_hash",
        "env.VLLM_API_KEY",
        "env.VLLM_HOST_IP",
        "env.VLLM_USE_V1",
    ]
    assert "secret" not in str(found)
    assert all(len(value) == 16 for value in found.factors.values())


def test_nothing_is_there_of_an_engine_without_hashes(tmp_path: Path) -> None:
    put(tmp_path, "triton/AB/kernel.cubin")
    assert hashes(tmp_path) == EngineHashes()


def test_a_part_of_a_model_has_factors_of_its_own(tmp_path: Path) -> None:
    put_jit(tmp_path)
    put(tmp_path, FILE.replace("backbone", "eagle_head"), json.dumps({"code_hash": "e"}))
    factors = hashes(tmp_path).factors
    assert factors["eagle_head/code_hash"] != factors["code_hash"]


def test_of_two_directories_the_newer_counts(tmp_path: Path) -> None:
    old = put(tmp_path, FILE, json.dumps({"config_hash": "old"}))
    os.utime(old, (1, 1))
    put(tmp_path, FILE.replace(JIT, "f" * 10), json.dumps({"config_hash": "new"}))
    both = hashes(tmp_path).factors
    old.unlink()
    assert hashes(tmp_path).factors == both


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "1",
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"' + "n" * 300 + '": 1}',
        '{"\\n": 1}',
    ],
    ids=range(8),
)
def test_a_file_that_is_none(tmp_path: Path, content: str) -> None:
    put(tmp_path, FILE, content)
    assert hashes(tmp_path).factors == {}


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    put(tmp_path, FILE, json.dumps({"a": "x" * (1024 * 1024)}))
    assert hashes(tmp_path).factors == {}


def test_factors_are_bounded(tmp_path: Path) -> None:
    put(tmp_path, FILE, json.dumps({f"f{n}": n for n in range(3 * MAX_FACTORS)}))
    assert len(hashes(tmp_path).factors) == MAX_FACTORS


def test_what_changed_is_told_single_variables_first(tmp_path: Path) -> None:
    put_jit(tmp_path)
    before = hashes(tmp_path)
    changed: dict[str, Any] = json.loads(json.dumps(FACTORS))
    changed["env"]["VLLM_HOST_IP"] = "10.0.0.8"
    changed["env"]["VLLM_NEW"] = "1"
    del changed["env"]["VLLM_USE_V1"]
    changed["config_hash"] = "dddd"
    put(tmp_path, FILE, json.dumps(changed))
    names = changed_factors(before, hashes(tmp_path))
    assert names == ["env.VLLM_HOST_IP", "env.VLLM_NEW", "env.VLLM_USE_V1", "config_hash"]
    assert changed_factors(before, before) == []


def test_without_factors_of_one_side_nothing_is_said() -> None:
    assert changed_factors(EngineHashes(), EngineHashes(factors={"a": "1"})) == []


names = st.text(max_size=5)


@given(st.dictionaries(names, names), st.dictionaries(names, names))
def test_comparing_goes_both_ways(ours: dict[str, str], theirs: dict[str, str]) -> None:
    one, other = EngineHashes(factors=ours), EngineHashes(factors=theirs)
    assert changed_factors(one, other) == changed_factors(other, one)
    assert (changed_factors(one, other) == []) == (ours == theirs or not ours or not theirs)
