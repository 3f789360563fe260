"""How a start went, and the likely reason where it didn't hit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcache.compilecache.engines.elsewhere import Elsewhere
from modelcache.compilecache.engines.evidence import EngineHashes, Evidence
from modelcache.compilecache.engines.judging import MissReason, Result, Verdict, judge

CACHE_DIR = Path("/var/cache/modelcache")
OUTSIDE = Elsewhere(
    "inductor",
    Path("/tmp/torchinductor_root"),
    3,
    100,
    "TORCHINDUCTOR_CACHE_DIR",
    CACHE_DIR / "inductor",
)


def log(**seen: Any) -> Evidence:
    return Evidence(source="log", ready=True, **seen)


def files(*, ready: bool = True) -> Evidence:
    return Evidence(source="files", ready=ready)


def missed(evidence: Evidence | None = None, **facts: Any) -> Verdict:
    """A seeded start that compiled all the same."""
    known: dict[str, Any] = {"seeded": True, "seeded_files": 10, "new_files": 10, **facts}
    return judge(evidence or log(compiled=2, compile_seconds=40.0), cache_dir=CACHE_DIR, **known)


def factors(**values: str) -> EngineHashes:
    return EngineHashes(factors={name.replace("__", "."): value for name, value in values.items()})


@pytest.mark.parametrize(
    ("evidence", "seeded", "new_files", "result", "reason"),
    [
        (log(loaded=2), True, 0, Result.HIT, None),
        # What is loaded may be unpacked again: the log's word counts.
        (log(loaded=2), True, 7, Result.HIT, None),
        (log(loaded=1, compiled=1), True, 5, Result.PARTIAL, MissReason.GREW),
        (log(compiled=1), False, 9, Result.MISS, MissReason.NOTHING_SEEDED),
        (log(compiled=1), True, 9, Result.MISS, MissReason.UNKNOWN),
        # "Compiles" from Inductor's own cache: what is compiled anew is written.
        (log(compiled=1), True, 0, Result.HIT, None),
        (log(loaded=1, compiled=1), True, 0, Result.HIT, None),
        (log(compiled=1), False, 0, Result.MISS, MissReason.NOTHING_SEEDED),
        (log(load_failures=1, loaded=1), True, 9, Result.PARTIAL, MissReason.LOAD_FAILED),
        (log(load_failures=1, compiled=1), True, 9, Result.MISS, MissReason.LOAD_FAILED),
        # The log says nothing of compiling.
        (log(), True, 0, Result.HIT, None),
        (log(), False, 0, Result.UNKNOWN, MissReason.NOTHING_COMPILED),
        (files(), True, 0, Result.HIT, None),
        (files(), True, 3, Result.PARTIAL, MissReason.GREW),
        (files(), True, 10, Result.MISS, MissReason.UNKNOWN),
        (files(), False, 10, Result.MISS, MissReason.NOTHING_SEEDED),
        (files(), False, 0, Result.UNKNOWN, MissReason.NOTHING_COMPILED),
        (files(ready=False), True, 0, Result.UNKNOWN, MissReason.NOT_READY),
        (files(ready=False), False, 5, Result.UNKNOWN, MissReason.NOT_READY),
    ],
)
def test_the_result(
    evidence: Evidence, seeded: bool, new_files: int, result: Result, reason: MissReason | None
) -> None:
    verdict = judge(evidence, seeded=seeded, seeded_files=10 if seeded else 0, new_files=new_files)
    assert (verdict.result, verdict.reason) == (result, reason)
    assert verdict.message


def test_a_program_that_serves_nobody_is_judged_when_it_has_finished() -> None:
    evidence = Evidence(source="log")
    verdict = judge(evidence, seeded=True, seeded_files=5, new_files=0, finished=True)
    assert verdict.result is Result.HIT
    verdict = judge(evidence, seeded=True, seeded_files=5, new_files=0)
    assert verdict.result is Result.UNKNOWN


def test_files_are_not_called_graphs() -> None:
    seen = Evidence(source="files", ready=True, loaded=300, compiled=2)
    assert "(2 files compiled, 300 loaded)" in missed(seen, new_files=2).message
    seen = Evidence(source="files", ready=True, loaded=300)
    assert "loaded 300 files from" in missed(seen, new_files=0).message
    assert "loaded 1 graph from" in missed(log(loaded=1)).message


def test_seconds_are_the_engines() -> None:
    assert missed().compile_seconds == 40.0


@pytest.mark.parametrize("name", ["VLLM_NIXL_SIDE_CHANNEL_HOST", "VLLM_SOMETHING_NEW"])
def test_the_pods_address(name: str) -> None:
    verdict = missed(
        before=factors(**{f"env__{name}": "a"}),
        after=factors(**{f"env__{name}": "b"}),
        env={name: "10.0.0.7"},
    )
    assert verdict.reason is MissReason.POD_ADDRESS
    assert verdict.message.startswith(f"{name} has the pod's own address")
    assert "10.0.0.7" not in verdict.message


def test_the_pods_address_where_the_factors_of_then_are_not_known() -> None:
    assert missed(env={"VLLM_HOST_IP": "fd00::7"}).reason is MissReason.POD_ADDRESS
    assert missed(env={"VLLM_HOST_IP": "127.0.0.1"}).reason is MissReason.UNKNOWN
    assert missed(env={"POD_IP": "10.0.0.7"}).reason is MissReason.UNKNOWN


def test_the_pods_address_where_the_environment_is_not_known() -> None:
    before, after = factors(env__VLLM_HOST_IP="a"), factors(env__VLLM_HOST_IP="b")
    assert missed(before=before, after=after).reason is MissReason.POD_ADDRESS


def test_factors_that_are_known_to_be_the_same_are_not_suspected() -> None:
    same = factors(config_hash="a")
    for env in ({"VLLM_HOST_IP": "10.0.0.7"}, {"HF_HUB_OFFLINE": "1"}):
        assert missed(before=same, after=same, env=env).reason is MissReason.UNKNOWN


def test_the_home_directory() -> None:
    verdict = missed(
        before=factors(env__VLLM_XLA_CACHE_PATH="a", config_hash="c"),
        after=factors(env__VLLM_XLA_CACHE_PATH="b", config_hash="d"),
    )
    assert verdict.reason is MissReason.HOME_DIRECTORY
    assert "HOME and XDG_CACHE_HOME" in verdict.message


@pytest.mark.parametrize(
    ("argv", "env", "told"),
    [
        (["vllm", "serve", "/models/llama"], {}, "(/models/llama)"),
        (["python", "-m", "vllm", "--model=/models/llama"], {}, "(/models/llama)"),
        (["vllm", "serve", "org/llama"], {"HF_HUB_OFFLINE": "1"}, "(the snapshot of org/llama)"),
        (["vllm", "serve", "--help"], {"HF_HUB_OFFLINE": "true"}, "(its snapshot)"),
    ],
)
def test_the_models_path(argv: list[str], env: dict[str, str], told: str) -> None:
    before, after = factors(config_hash="a"), factors(config_hash="b")
    for verdict in (
        missed(argv=argv, env=env, before=before, after=after),
        missed(argv=argv, env=env),
    ):
        assert verdict.reason is MissReason.MODEL_PATH
        assert told in verdict.message


def test_no_secret_of_the_models_address_is_told() -> None:
    argv = ["vllm", "serve", "https://me:S3cret@host/model.gguf?sig=S3cret"]
    verdict = missed(argv=argv, env={"HF_HUB_OFFLINE": "1"})
    assert verdict.reason is MissReason.MODEL_PATH
    assert "S3cret" not in verdict.message


def test_a_model_by_its_name_is_no_path() -> None:
    before, after = factors(config_hash="a"), factors(config_hash="b")
    verdict = missed(argv=["vllm", "serve", "org/llama"], before=before, after=after)
    assert verdict.reason is MissReason.ENGINE_FACTOR_CHANGED


def test_another_factor() -> None:
    verdict = missed(
        before=factors(env__VLLM_USE_V1="a", compiler_hash="a"),
        after=factors(env__VLLM_USE_V1="b", compiler_hash="b"),
        env={"VLLM_USE_V1": "secret-value"},
    )
    assert verdict.reason is MissReason.ENGINE_FACTOR_CHANGED
    assert "env.VLLM_USE_V1, compiler_hash (GPU, CUDA, Triton" in verdict.message
    assert "secret-value" not in verdict.message


def test_many_factors_are_not_all_named() -> None:
    names = [f"env__VLLM_{number:02}" for number in range(20)]
    verdict = missed(
        before=factors(**dict.fromkeys(names, "a")), after=factors(**dict.fromkeys(names, "b"))
    )
    assert "env.VLLM_07 and 12 more" in verdict.message


@pytest.mark.parametrize(
    "facts",
    [
        {"env": {"VLLM_DISABLE_COMPILE_CACHE": "1"}},
        {"env": {"TORCHINDUCTOR_FX_GRAPH_CACHE": "0"}},
        {"evidence": log(compiled=1, lines=("vLLM's torch.compile cache is disabled.",))},
    ],
)
def test_a_cache_that_is_disabled(facts: dict[str, Any]) -> None:
    assert missed(**facts).reason is MissReason.CACHE_DISABLED
    assert missed(env={"VLLM_DISABLE_COMPILE_CACHE": "0"}).reason is MissReason.UNKNOWN


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"env": {"VLLM_DISABLE_COMPILE_CACHE": "1"}}, MissReason.CACHE_DISABLED),
        ({"elsewhere": (OUTSIDE,)}, MissReason.CACHE_ELSEWHERE),
        ({"evidence": log(compiled=1, cache_dirs=("/root/x",))}, MissReason.CACHE_ELSEWHERE),
    ],
)
def test_nothing_new_is_no_hit_where_nothing_is_written(
    facts: dict[str, Any], reason: MissReason
) -> None:
    verdict = missed(**{"new_files": 0, **facts})
    assert (verdict.result, verdict.reason) == (Result.MISS, reason)


def test_the_engine_says_that_its_cache_is_elsewhere() -> None:
    verdict = missed(log(compiled=1, cache_dirs=("/root/.cache/vllm/torch_compile_cache/ab",)))
    assert verdict.reason is MissReason.CACHE_ELSEWHERE
    assert "/root/.cache/vllm/torch_compile_cache/ab" in verdict.message
    inside = f"{CACHE_DIR}/vllm/torch_compile_cache/ab"
    for directories in ((inside,), (inside, "/root/.cache/flashinfer")):
        verdict = missed(log(compiled=1, cache_dirs=directories))
        assert verdict.reason is MissReason.UNKNOWN


def test_a_cache_elsewhere_by_its_files() -> None:
    verdict = missed(files(), new_files=0, seeded=False, seeded_files=0, elsewhere=(OUTSIDE,))
    assert (verdict.result, verdict.reason) == (Result.MISS, MissReason.CACHE_ELSEWHERE)
    assert "TORCHINDUCTOR_CACHE_DIR=/var/cache/modelcache/inductor" in verdict.message
    verdict = missed(new_files=0, elsewhere=(OUTSIDE,))
    assert verdict.reason is MissReason.CACHE_ELSEWHERE


def test_why_a_graph_could_not_be_loaded() -> None:
    line = "Compiling model again due to a load failure from /x/model, reason:"
    verdict = missed(log(load_failures=2, lines=(f"{line} Source code has changed",)))
    assert "(Source code has changed)" in verdict.message
    assert "pytorch#173556" in missed(log(load_failures=1, lines=(line,))).message
    assert "pytorch" not in missed(log(load_failures=1)).message


counts = st.integers(min_value=0, max_value=20)


@given(counts, counts, counts, counts, counts, st.booleans(), st.booleans(), st.booleans())
def test_any_start_is_judged(
    compiled: int,
    loaded: int,
    failures: int,
    seeded_files: int,
    new_files: int,
    ready: bool,
    from_log: bool,
    is_elsewhere: bool,
) -> None:
    evidence = Evidence(
        source="log" if from_log else "files",
        ready=ready,
        compiled=compiled,
        loaded=loaded,
        load_failures=failures,
    )
    verdict = judge(
        evidence,
        seeded=seeded_files > 0,
        seeded_files=seeded_files,
        new_files=new_files,
        elsewhere=(OUTSIDE,) if is_elsewhere else (),
    )
    assert verdict.message
    assert (verdict.reason is None) == (verdict.result is Result.HIT)
    if failures:
        assert verdict.reason is MissReason.LOAD_FAILED
    if verdict.result is Result.HIT:
        assert not failures
        assert loaded or not new_files
