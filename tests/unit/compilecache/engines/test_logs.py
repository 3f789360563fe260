from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelcache.compilecache.engines.logs import MAX_DIRECTORIES, MAX_LINES, LogReader
from modelcache.compilecache.engines.redacting import MAX_CHARACTERS
from modelcache.compilecache.engines.signs import FORMATS
from modelcache.compilecache.engines.table import BUILT_IN

SAMPLES: Final = [
    tuple(line.split("\t"))
    for line in Path(__file__).with_name("log-lines.tsv").read_text().splitlines()
    if line and not line.startswith("#")
]
AOT: Final = "/c/vllm/torch_compile_cache/torch_aot_compile/" + "ab" * 32


def reader(engine: str = "vllm") -> LogReader:
    return LogReader(BUILT_IN[engine])


def read(text: str, engine: str = "vllm") -> LogReader:
    log = reader(engine)
    for line in text.splitlines():
        log.feed(line)
    return log


def told(log: LogReader) -> dict[str, str]:
    """What was read, in the words of the samples' third column."""
    evidence = log.evidence()
    found = {
        name: f"{value}"
        for name in ("compiled", "loaded", "load_failures", "save_failures")
        if (value := getattr(evidence, name))
    }
    found |= {f"phases.{name}": str(seconds) for name, seconds in log.phases.items()}
    if evidence.compile_seconds is not None:
        found["compile_seconds"] = str(evidence.compile_seconds)
    if evidence.engine_version:
        found["version"] = evidence.engine_version
    if evidence.cache_dirs:
        found["dir"] = evidence.cache_dirs[-1]
    found |= {"ready": ""} if log.ready else {}
    found |= {"ended": ""} if log.ended else {}
    return found or ({"kept": ""} if evidence.lines else {})


def expected(column: str) -> dict[str, str]:
    if column == "-":
        return {}
    pairs = (word.partition("=") for word in column.split(" "))
    return {
        name: str(float(value)) if name.startswith(("phases", "compile_s")) else value
        for name, _, value in pairs
    }


@pytest.mark.parametrize(
    ("version", "column", "line"), [sample[1:] for sample in SAMPLES], ids=[s[3] for s in SAMPLES]
)
def test_a_line_of_a_real_engine(version: str, column: str, line: str) -> None:
    engine = "sglang" if version.startswith("sglang") else "vllm"
    log = read(line.replace("\\x1b", "\x1b"), engine)
    assert told(log) == expected(column)
    assert bool(log.evidence().lines) == (column != "-")


@pytest.mark.parametrize(
    "around",
    [
        "{}",
        "2026-11-22T04:05:06.000000001Z stdout F {}",
        "vllm-1  | {}",
        "\x1b[36m(EngineCore_DP0 pid=12)\x1b[0;0m {}",
        "(RayWorkerWrapper pid=37014, ip=10.0.96.245) {} [repeated 3x across cluster]",
        "[tag] {}",
        "Loading safetensors: 50%|#####     | 1/2\rLoading safetensors: 100%|#| 2/2\r{}",
        "# {}\n",
        "50%" * 5000 + "\r{}",
    ],
)
def test_whatever_stands_around_a_message(around: str) -> None:
    log = reader()
    log.feed(around.format("Compiling a graph for dynamic shape takes 15.52 s"))
    assert told(log) == {"compiled": "1", "compile_seconds": "15.52"}


def test_colours_within_a_message() -> None:
    assert read("Loading weights took \x1b[1m5.38\x1b[0m seconds").phases == {"weights": 5.38}


def test_a_cold_start_of_two_ranks() -> None:
    log = read(f"""
(APIServer pid=1) 11-20 10:00:00 [api_server.py:1] vLLM API server version 0.24.0
(Worker_TP0 pid=10) 11-20 10:00:01 [backends.py:1] Dynamo bytecode transform time: 5.00 s
(Worker_TP1 pid=11) 11-20 10:00:01 [backends.py:1] Dynamo bytecode transform time: 6.00 s
(Worker_TP0 pid=10) Cache the graph of compile range (1, 8) for later use
(Worker_TP0 pid=10) Compiling a graph for compile range (1, 8) takes 9.00 s
(Worker_TP1 pid=11) Compiling a graph for compile range (1, 8) takes 8.00 s
(Worker_TP0 pid=10) saved AOT compiled function to {AOT}/rank_0_0/model
(Worker_TP1 pid=11) saved AOT compiled function to {AOT}/rank_1_0/model
(Worker_TP0 pid=10) 11-20 10:00:04 [monitor.py:1] torch.compile took 20.00 s in total
(Worker_TP1 pid=11) 11-20 10:00:04 [monitor.py:1] torch.compile took 25.00 s in total
(Worker_TP0 pid=10) Graph capturing finished in 3 secs, took 0.48 GiB
(APIServer pid=1) INFO:     Application startup complete.
""")
    evidence = log.evidence()
    assert evidence.source == "log"
    assert evidence.ready
    assert evidence.compiled == 1
    assert evidence.loaded == 0
    assert evidence.compile_seconds == 25.0
    assert evidence.engine_version == "0.24.0"
    assert evidence.cache_dirs == (f"{AOT}/rank_0_0", f"{AOT}/rank_1_0")
    assert log.phases == {"graphs": 3.0}
    assert not log.ended


def test_a_warm_start() -> None:
    log = read(f"""
(Worker pid=10) Directly load AOT compilation from path {AOT}/rank_0_0/model
(Worker pid=11) Directly load AOT compilation from path {AOT}/rank_1_0/model
init engine (profile, create kv cache, warmup model) took 4.20 s (compilation: 0.80 s)
""")
    evidence = log.evidence()
    assert (evidence.compiled, evidence.loaded, evidence.compile_seconds) == (0, 1, 0.8)
    assert not evidence.ready


def test_totals_of_several_models_are_added_where_each_has_its_own() -> None:
    took = "(EngineCore pid=1) INFO [monitor.py:1] torch.compile took {} s in total\n"
    takes = "(EngineCore pid=1) INFO [monitor.py:1] torch.compile takes {} s in total\n"
    assert read(took.format("20.0") + took.format("5.0")).evidence().compile_seconds == 25.0
    assert read(takes.format("20.0") + takes.format("25.0")).evidence().compile_seconds == 25.0


def test_parts_are_better_than_compiling_and_a_first_run_together() -> None:
    log = read("""
(EngineCore pid=1) Dynamo bytecode transform time: 9.29 s
(EngineCore pid=1) Compiling a graph for compile range (1, 16384) takes 20.00 s
(EngineCore pid=1) torch.compile and initial profiling/warmup run together took 55.27 s
""")
    assert log.evidence().compile_seconds == pytest.approx(29.29)


def test_a_server_that_fails_after_it_said_it_starts_is_not_ready() -> None:
    log = read(
        "Starting vLLM server on http://0.0.0.0:8000\nERROR: Application startup failed. Exiting."
    )
    assert not log.ready
    assert log.ended


def test_a_server_that_stops_was_ready() -> None:
    log = read("INFO:     Application startup complete.\nINFO:     Application shutdown complete.")
    assert log.evidence().ready
    assert log.ended


def test_the_users_own_message_of_an_engine_that_serves() -> None:
    log = read("it serves now", "torch")
    assert not log.ready
    assert read("INFO:     Application startup complete.", "torch").ready


@pytest.mark.parametrize(
    ("reason", "secret"),
    [
        ("args --api-key sk1234567890", "sk1234567890"),
        ("{'api_key': ['abc123def456']}", "abc123def456"),
        ("HF_TOKEN=qwertzuiop", "qwertzuiop"),
        ("Authorization: Bearer qwertzuiop", "qwertzuiop"),
        ("see hf_abcdefghijklmnopqrst", "hf_abcdefghijklmnopqrst"),
        ("s3 AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLE"),
        ("https://me:geheim@host/x", "geheim"),
        ("https://host/x?X-Amz-Signature=0123abcd", "0123abcd"),
        ("password: hunter2", "hunter2"),
        ("https://host/x?a=0123abcd", "0123abcd"),
    ],
)
def test_no_secret_of_a_failure_is_kept(reason: str, secret: str) -> None:
    log = reader()
    log.feed(f"Compiling model again due to a load failure from {AOT}/model, reason: {reason}")
    (line,) = log.evidence().lines
    assert secret not in line
    assert "***" in line


def test_nothing_of_a_line_but_its_message_is_kept() -> None:
    log = reader()
    log.feed("prefix-secret Initializing a V1 LLM engine (v0.24.0) with config: model='secret'")
    assert log.evidence().lines == ("LLM engine (v0.24.0) with config",)


def test_few_lines_of_a_kind_are_kept_and_failures_always() -> None:
    log = reader()
    for number in range(1000):
        log.feed(f"Loading weights took {number} seconds")
    for number in range(100):
        log.feed(f"Using cache directory: /c/{number} for vLLM's torch.compile")
    evidence = log.evidence()
    weights = [line for line in evidence.lines if line.startswith("Loading weights")]
    assert weights == [f"Loading weights took {number} seconds" for number in range(3)]
    assert len(evidence.cache_dirs) == MAX_DIRECTORIES


def test_a_failure_pushes_out_another_line() -> None:
    log = reader()
    for _, _, column, line in SAMPLES:
        if "failures" not in column and "ended" not in column:
            log.feed(line)
            log.feed(line.replace("1", "2"))
    before = log.evidence().lines
    assert len(before) == MAX_LINES
    log.feed(f"Compiling model again due to a load failure from {AOT}/model, reason: x")
    after = log.evidence().lines
    assert len(after) == MAX_LINES
    assert "load failure" in after[-1]
    assert after[:-1] == before[1:]


pieces = st.one_of(
    st.text(max_size=40),
    st.sampled_from([form.literal for form in FORMATS]),
    st.sampled_from(
        ["12.5 s", " takes ", " from the cache", "\x1b[", "\r", "pid=", "://", "'", "("]
    ),
)


@given(st.lists(st.lists(pieces, max_size=12).map("".join), max_size=12))
@settings(deadline=None)
def test_any_text_is_read(lines: list[str]) -> None:
    log = reader()
    for line in lines:
        log.feed(line)
    evidence = log.evidence()
    assert all(len(line) <= MAX_CHARACTERS and line.isprintable() for line in evidence.lines)
    assert len(evidence.to_document()["lines"]) <= MAX_LINES


@pytest.mark.parametrize(
    "piece",
    [
        *(form.literal for form in FORMATS),
        "Compiling a graph for " + "x" * 119,
        "FileNotFoundError: [Errno 2] No such file or directory: '",
        "\x1b[", "\x1b]", "\r", "(", "pid=", " TP1", "https://", "https://a@",
        "api_key ", "hf_", "?", " ",
    ],
)  # fmt: skip
def test_a_line_of_megabytes_takes_no_time(piece: str) -> None:
    log = reader()
    began = time.process_time()
    log.feed(piece * (4_000_000 // len(piece)))
    log.feed(f"Compiling model again due to a load failure {piece * 1000}")
    assert time.process_time() - began < 1.0
