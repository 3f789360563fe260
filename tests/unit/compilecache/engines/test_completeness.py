"""What files say of a cache: complete, or what is missing."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modelcache.compilecache.engines.completeness import MAX_TOLD, STALE_SECONDS, incomplete
from modelcache.compilecache.engines.table import BUILT_IN
from modelcache.compilecache.trees.scanning import Entry, Tree
from tests.unit.compilecache.engines.caches import (
    AOT,
    ARTIFACT,
    BACKBONE,
    look,
    put,
    put_aot,
    put_jit,
)


def missing(root: Path, engine: str = "vllm", ranks: int = 1, later: float = 0.0) -> str:
    tree = look(root, engine)
    return "\n".join(incomplete(BUILT_IN[engine], root, tree, ranks, now=time.time() + later))


def test_an_empty_tree_is_not_a_complete_one(tmp_path: Path) -> None:
    assert missing(tmp_path) == f"nothing was compiled below {tmp_path}"


def test_what_is_there_before_anything_is_compiled_is_not_a_cache(tmp_path: Path) -> None:
    put(tmp_path, "vllm/modelinfos/x.json", "{}")
    put(tmp_path, "vllm/startup_plan/x.json", "{}")
    assert "nothing was compiled" in missing(tmp_path)


def test_both_trees_of_vllm(tmp_path: Path) -> None:
    put_jit(tmp_path)
    put_aot(tmp_path, "rank_0_0")
    assert missing(tmp_path) == ""


def test_a_model_without_content_is_none_however_old(tmp_path: Path) -> None:
    put_aot(tmp_path, "rank_0_0")
    next(tmp_path.rglob("model")).write_bytes(b"")
    assert "has no model" in missing(tmp_path, later=2 * STALE_SECONDS)


def test_a_tree_that_was_made_elsewhere(tmp_path: Path) -> None:
    put_jit(tmp_path, noted=Path("/var/cache/modelcache"))
    assert missing(tmp_path) == ""


def test_the_oldest_tree_has_no_prefix(tmp_path: Path) -> None:
    rank = "vllm/torch_compile_cache/0d42d4420e/rank_0_0"
    code = f"{tmp_path}/{rank}/inductor_cache/ab/cabc.py"
    put(tmp_path, f"{rank}/inductor_cache/ab/cabc.py")
    put(tmp_path, f"{rank}/vllm_compile_cache.py", f"{{(None, 0, 'inductor'): ('h', {code!r})}}")
    assert "has no computation_graph.py yet" in missing(tmp_path)
    put(tmp_path, f"{rank}/computation_graph.py")
    assert missing(tmp_path) == ""
    Path(code).unlink()
    assert f"lists {code}, which isn't there" in missing(tmp_path)


def test_an_artifact_that_is_a_directory(tmp_path: Path) -> None:
    put_jit(tmp_path)
    (tmp_path / BACKBONE / ARTIFACT).unlink()
    put(tmp_path, f"{BACKBONE}/{ARTIFACT}/ab/cabc.py")
    assert missing(tmp_path) == ""


def test_an_artifact_that_is_a_directory_and_listed_nowhere(tmp_path: Path) -> None:
    put(tmp_path, f"vllm/torch_compile_cache/0d42d4420e/rank_0_0/{ARTIFACT}/ab/cabc.py")
    assert "has artifacts, and no vllm_compile_cache.py that lists them" in missing(tmp_path)


@pytest.mark.parametrize(
    ("gone", "told"),
    [
        ("computation_graph.py", f"{BACKBONE}/ has no computation_graph.py yet"),
        ("vllm_compile_cache.py", "has artifacts, and no vllm_compile_cache.py that lists them"),
        (ARTIFACT, f"lists {ARTIFACT}, which isn't there"),
    ],
)
def test_what_is_missing_of_a_rank(tmp_path: Path, gone: str, told: str) -> None:
    put_jit(tmp_path)
    (tmp_path / BACKBONE / gone).unlink()
    assert told in missing(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "{((1, 8192), 0, 'inductor'): ('artif",
        "",
        "__import__('os').system('touch /tmp/modelcache-was-here')",
        "(" * 1_000_000,
        "-" * 1_000_000 + "1",
        "1+" * 100_000 + "1",
        "9" * 1_000_000,
        "[" * 17 + "]" * 17,
        "1+2j",
        "9" * 100,
        "f'{1}'",
        "{1: 2",
        "{[]: 1}",
        "x" * 5_000_000,
        "\udcff",
    ],
    ids=range(15),
)
def test_an_index_that_is_no_literal(tmp_path: Path, content: str) -> None:
    put_jit(tmp_path)
    (tmp_path / BACKBONE / "vllm_compile_cache.py").write_bytes(os.fsencode(content))
    began = time.process_time()
    assert "vllm_compile_cache.py can't be read: it " in missing(tmp_path)
    assert time.process_time() - began < 1.0
    assert not Path("/tmp/modelcache-was-here").exists()


def test_an_index_that_leads_out_of_the_tree(tmp_path: Path) -> None:
    put_jit(tmp_path)
    put(tmp_path, f"{BACKBONE}/vllm_compile_cache.py", "{1: ('x', '/etc/passwd')}")
    assert "lists /etc/passwd, which isn't there" in missing(tmp_path)


def test_a_rank_whose_model_is_not_saved(tmp_path: Path) -> None:
    put_aot(tmp_path, "rank_0_0")
    put(tmp_path, f"vllm/torch_compile_cache/torch_aot_compile/{AOT}/rank_1_0/x")
    assert "rank_1_0 has no model" in missing(tmp_path, ranks=2)


@pytest.mark.parametrize("make", ["aot", "jit"])
def test_each_rank_has_saved_its_graphs(tmp_path: Path, make: str) -> None:
    def rank(name: str) -> None:
        put_aot(tmp_path, name) if make == "aot" else put_jit(tmp_path, rank=name)

    rank("rank_0_0")
    assert missing(tmp_path, ranks=2) == "only 1 of 2 ranks have saved their graphs"
    rank("rank_1_0")
    assert missing(tmp_path, ranks=2) == ""


def test_graphs_of_all_ranks_are_no_saved_models_of_all_ranks(tmp_path: Path) -> None:
    put_jit(tmp_path)
    put_jit(tmp_path, rank="rank_1_0")
    put_aot(tmp_path, "rank_0_0")
    assert missing(tmp_path, ranks=2) == "only 1 of 2 ranks have saved their graphs"


def test_a_draft_model_may_be_on_one_rank_alone(tmp_path: Path) -> None:
    put_aot(tmp_path, "rank_0_0", "rank_1_0")
    put(tmp_path, f"vllm/torch_compile_cache/torch_aot_compile/{'bb' * 32}/rank_1_0/model")
    assert missing(tmp_path, ranks=2) == ""


def test_without_graphs_of_torch_compile_kernels_are_a_cache(tmp_path: Path) -> None:
    put(tmp_path, "triton/AB/kernel.cubin")
    assert missing(tmp_path, ranks=2) == ""


@pytest.mark.parametrize(
    "path",
    [
        f"vllm/torch_compile_cache/torch_aot_compile/{AOT}/rank_0_0/model.12.tmp",
        "triton/AB/tmp.pid_12_0/kernel.json",
        "inductor/ab/.12.140.tmp",
    ],
)
def test_what_is_being_written(tmp_path: Path, path: str) -> None:
    put_aot(tmp_path, "rank_0_0")
    put(tmp_path, path)
    assert missing(tmp_path) == f"{path} is still being written"
    assert missing(tmp_path, later=STALE_SECONDS) == ""


def test_somebody_elses_temporary_file_does_not_count(tmp_path: Path) -> None:
    put_aot(tmp_path, "rank_0_0")
    put(tmp_path, "elsewhere/x.tmp")
    assert missing(tmp_path) == ""


def test_an_empty_file(tmp_path: Path) -> None:
    put_aot(tmp_path, "rank_0_0")
    put(tmp_path, "inductor/ab/cabc.so", "")
    put(tmp_path, "flashinfer/.cache/flashinfer/generated/__init__.py", "")
    assert missing(tmp_path) == "inductor/ab/cabc.so is empty"
    assert missing(tmp_path, later=STALE_SECONDS) == ""


def test_an_extension_that_is_being_built(tmp_path: Path) -> None:
    put(tmp_path, "torch-extensions/py312/x/x.so")
    put(tmp_path, "torch-extensions/py312/x/lock", "")
    assert "torch-extensions/py312/x/lock is there" in missing(tmp_path)


HOLD = """
import fcntl, sys
file = open(sys.argv[1], "r+")
getattr(fcntl, sys.argv[2])(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("kind", ["flock", "lockf"])
def test_a_lock_that_is_held(tmp_path: Path, kind: str) -> None:
    put(tmp_path, "inductor/ab/cabc.so")
    lock = put(tmp_path, "inductor/locks/abc.lock", "")
    assert missing(tmp_path) == ""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock), kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert "inductor/locks/abc.lock is locked" in missing(tmp_path)
        holder.communicate()
    assert missing(tmp_path) == ""
    with lock.open() as file:  # looking left no lock behind
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    put(tmp_path, "inductor/ab/cabc.so")
    (tmp_path / "inductor/locks").mkdir()
    (tmp_path / "inductor/locks/abc.lock").symlink_to("/etc/passwd")
    assert missing(tmp_path) == ""


def test_neuron_modules(tmp_path: Path) -> None:
    module = "neuron/neuronxcc-2.21/MODULE_12+34"
    put(tmp_path, f"{module}/model.hlo_module.pb")
    put(tmp_path, f"{module}/model.done", "")
    assert missing(tmp_path, "neuron") == f"{module} has no model.neff yet"
    put(tmp_path, f"{module}/model.neff")
    assert missing(tmp_path, "neuron") == ""


def test_sglangs_index_is_only_read(tmp_path: Path) -> None:
    folder = "sglang/torch_compile_cache/0d42d4420e/rank_0_0/main"
    put(tmp_path, f"{folder}/sglang_compile_cache.py", "{1: ('a', '/gone')}")
    assert missing(tmp_path, "sglang", ranks=8) == ""
    put(tmp_path, f"{folder}/sglang_compile_cache.py", "{1: ")
    assert "can't be read" in missing(tmp_path, "sglang", ranks=8)


def test_any_directory_is_complete_when_it_has_something(tmp_path: Path) -> None:
    put(tmp_path, "a")
    assert missing(tmp_path, "other", ranks=4) == ""


def test_few_sentences_are_enough(tmp_path: Path) -> None:
    put_aot(tmp_path, "rank_0_0")
    for number in range(50):
        put(tmp_path, f"inductor/{number}.tmp")
    tree = look(tmp_path)
    sentences = incomplete(BUILT_IN["vllm"], tmp_path, tree, 1)
    assert len(sentences) == MAX_TOLD
    assert sentences[-1] == "and 41 more"


def test_a_tree_of_many_parts_takes_no_time(tmp_path: Path) -> None:
    rank = "vllm/torch_compile_cache/0d42d4420e/rank_0_0"
    names = [f"{rank}/{number}/artifact_x" for number in range(20_000)]
    names += [f"neuron/MODULE_{number}/model.hlo_module.pb" for number in range(20_000)]
    tree = Tree(tuple(Entry(name, 1, 0o644, 0, 0, 0, 0) for name in names))
    began = time.process_time()
    assert incomplete(BUILT_IN["vllm"], tmp_path, tree, 1)[-1] == "and 59991 more"
    assert time.process_time() - began < 2.0
