"""Two ways to write the same command line are one, and no secret is in it."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcache.compilecache.keys.arguments import program_of, read_arguments
from modelcache.compilecache.keys.parts import ParallelLayout

ENGINES = st.sampled_from(["vllm", "sglang", "torch", "neuron", "mine"])
WORDS = st.text("abcdefgh-_.=/0123 {}[]\":'", min_size=1, max_size=12)
NAMES = st.from_regex(r"--[a-z][a-z0-9-]{0,12}", fullmatch=True)
VALUES = st.one_of(
    st.from_regex(r"[a-zA-Z0-9/_.][a-zA-Z0-9/_.=-]{0,12}", fullmatch=True),
    st.integers(-9, 9).map(str),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=3).map(json.dumps),
)
TOKENS = st.one_of(
    *(WORDS, NAMES, VALUES, st.text(max_size=10)),
    st.sampled_from(["--", "-", "-c", "-m", "-O3", "serve", "vllm", "python", "sh", "-lc", "env"]),
    st.sampled_from(["token=a b", "Bearer x", "hf_abcdefgh1", "key-hf_abcdefgh1", "tini", "A=b"]),
)


def normal_arguments(engine: str, argv: Sequence[str]) -> tuple[str, ...]:
    return read_arguments(engine, argv).normal


def parallel_of(argv: Sequence[str]) -> ParallelLayout:
    return read_arguments("vllm", argv).parallel


@given(ENGINES, st.lists(TOKENS, max_size=8))
def test_the_normal_form_is_its_own_normal_form(engine: str, argv: list[str]) -> None:
    once = normal_arguments(engine, argv)
    assert normal_arguments(engine, once) == once


@given(st.dictionaries(NAMES, st.lists(VALUES, min_size=1, max_size=3), max_size=6), st.data())
def test_the_order_of_options_and_how_they_are_joined_does_not_matter(
    options: dict[str, list[str]], data: st.DataObject
) -> None:
    def written(order: list[str]) -> list[str]:
        argv = ["vllm", "serve", "org/model"]
        for name in order:
            values = options[name]
            is_flag = name.startswith(("--enable-", "--disable-", "--no-", "--show-", "--return-"))
            if len(values) == 1 and (is_flag or data.draw(st.booleans())):
                argv.append(f"{name}={values[0]}")
            else:
                argv += [name, *values]
        return argv

    some = read_arguments("vllm", written(data.draw(st.permutations([*options]))))
    other = read_arguments("vllm", written(data.draw(st.permutations([*options]))))
    assert some == other
    assert some.model in ("org/model", *(v for values in options.values() for v in values))


@pytest.mark.parametrize(
    "line",
    [
        "vllm serve org/model --max-model-len 8192 --dtype=bfloat16",
        "serve org/model --dtype bfloat16 --max_model_len=8192",
        "org/model --max-model-len=8192 --dtype=bfloat16 --port 80",
        "--port 80 --model org/model --dtype bfloat16 --max-model-len 8192",
        "/bin/python3.12 -u -X a -m vllm.cli serve org/model --dtype=bfloat16 --max-model-len=8192",
        "python -m vllm.api_server --model=org/model --dtype=bfloat16 --max-model-len=8192",
        "numactl -N 0 -- timeout 9 vllm serve org/model --dtype=bfloat16 --max-model-len=8192",
        "sh -c 'exec vllm serve org/model --dtype bfloat16 --max-model-len 8192'",
        "-c 'vllm serve \"org/model\" --dtype bfloat16 --max-model-len 8192'",
        "nohup vllm serve org/model --dtype=bfloat16 --max-model-len=8192",
        "tini -- vllm serve --dtype=bfloat16 --max-model-len=8192 --host :: org/model",
        "ddtrace-run vllm serve org/model --dtype=bfloat16 --max-model-len=8192",
        "uv run --with x vllm serve org/model --dtype=bfloat16 --max-model-len=8192",
        "conda run -n e vllm serve org/model --dtype=bfloat16 --max-model-len=8192",
    ],
)
def test_one_engine_begun_in_many_ways(line: str) -> None:
    found = read_arguments("vllm", shlex.split(line))
    assert found.model == "org/model"
    assert found.normal == ("--dtype=bfloat16", "--max-model-len=8192")


@pytest.mark.parametrize("flag", ["--enforce-eager", "--enable-lora", "--no-async", "--headless"])
def test_a_flag_takes_no_value(flag: str) -> None:
    assert read_arguments("vllm", ["serve", flag, "org/model"]).model == "org/model"


def test_what_does_not_matter_is_left_out() -> None:
    argv = ["--host", "0.0.0.0", "--port=1", "--api-key", "a", "b", "--served-model-name", "x", "y"]
    argv += ["--gpu-memory-utilization", "0.5", "--disable-log-requests", "--uvicorn-log-level"]
    argv += ["debug", "--max-num-batched-tokens", "4096", "--enforce-eager"]
    assert normal_arguments("vllm", ["serve", "m", *argv]) == (
        "--enforce-eager",
        "--max-num-batched-tokens=4096",
    )


def test_the_parallel_layout_is_apart() -> None:
    argv = ["serve", "m", "-tp", "4", "--pp=2", "--data_parallel_size", "3", "--ep-size", "8"]
    argv += ["--node-rank", "1", "--enable-expert-parallel"]
    assert parallel_of(argv) == ParallelLayout(tensor=4, pipeline=2, data=3, expert=8, node_rank=1)
    assert normal_arguments("vllm", argv) == ("--enable-expert-parallel",)
    assert parallel_of(["m"]) == ParallelLayout()


@pytest.mark.parametrize("size", ["two", "0", "-1", "", "9999999", "1.5", "1 2"])
def test_a_size_that_is_none_is_left_where_it_is(size: str) -> None:
    argv = ["m", f"--tensor-parallel-size={size}"]
    assert parallel_of(argv) == ParallelLayout()
    assert normal_arguments("vllm", argv) == (argv[1],)


def test_json_is_written_in_one_way() -> None:
    assert (
        normal_arguments("vllm", ["m", "--compilation-config", '{"b": [1, 2],  "a": "x"}'])
        == normal_arguments("vllm", ["m", '-cc={"a":"x","b":[1,2]}'])
        == ('--compilation-config={"a":"x","b":[1,2]}',)
    )
    assert normal_arguments("vllm", ["m", "-O3", "-O.use_inductor=True"]) == (
        "-O=3",
        "-O.use_inductor=True",
    )


def test_the_order_within_what_may_be_a_secret_does_not_matter() -> None:
    """`pass` is a word that secrets have; vLLM's pass_config is none."""
    one, other = (
        normal_arguments("vllm", ["m", "-cc", json.dumps({"pass_config": passes})])
        for passes in (
            {"enable_fusion": True, "enable_noop": True},
            {"enable_noop": True, "enable_fusion": True},
        )
    )
    assert one == other


def test_json_of_what_pods_say_to_each_other_is_left_out() -> None:
    argv = ["m", "--ec-transfer-config", '{"engine_id": "pod-1"}', "--lora-modules", "a=/x", "b=/y"]
    assert normal_arguments("vllm", argv) == ()


def test_a_flag_that_is_told_its_value_is_one_however_it_is_told() -> None:
    for value in ("True", "false"):
        said = read_arguments("vllm", ["serve", "--enable-chunked-prefill", value, "org/model"])
        assert said == read_arguments("vllm", ["org/model", f"--enable-chunked-prefill={value}"])


def test_a_program_of_ones_own() -> None:
    argv = ["python", "-u", "serve.py", "--layers", "4", "--", "x"]
    assert normal_arguments("torch", argv) == ("--layers=4", "--", "serve.py", "x")
    assert normal_arguments("torch", ["python", "-m", "mine.serve", "--layers=4"]) == (
        "--layers=4",
        "-m=mine.serve",
    )


def test_a_script_that_is_more_than_a_command_counts_as_a_whole() -> None:
    some = normal_arguments("vllm", ["sh", "-c", "cd /x; vllm serve org/model --api-key=s3cret"])
    other = normal_arguments("vllm", ["sh", "-c", "cd /y; vllm serve org/model --api-key=s3cret"])
    assert some != other
    assert "s3cret" not in str(some)
    assert read_arguments("vllm", ["sh", "-c", "vllm serve $MODEL"]).model == ""


@pytest.mark.parametrize(
    ("line", "program"),
    [
        ("vllm serve x", "vllm"),
        ("env A=b /opt/venv/bin/python x.py", "/opt/venv/bin/python"),
        ("numactl -N 0 nice -n 5 python3 x.py", "python3"),
        ("tini -- ./serve --x", "./serve"),
        ("nohup ./serve --x", "./serve"),
        ("sh -c 'exec ./serve --x'", "./serve"),
        ("nice sh -c 'cd /x; ./serve'", "sh"),
        ("opentelemetry-instrument vllm serve x", "vllm"),
        ("env A=b uv run vllm serve x", "uv"),
        ("", ""),
    ],
)
def test_the_program(line: str, program: str) -> None:
    assert program_of(shlex.split(line)) == program


@pytest.mark.parametrize("words", [["env"], ["nice"], ["sh", "-c", "nice"], ["env", "A=b"]])
def test_programs_that_begin_each_other_for_ever_take_no_time(words: list[str]) -> None:
    """Whoever may make a pod says what stands in its command: a mebibyte of it, too."""
    argv = [*words * 10_000, "vllm"]
    began = time.process_time()
    read_arguments("vllm", argv)
    program_of(argv)
    assert time.process_time() - began < 2.0


def test_a_script_with_continued_lines_and_quotes() -> None:
    script = "exec vllm serve org/model \\\n  --extra '{\"a\": [1]}' \\\n  --port 80\n"
    found = read_arguments("vllm", ["sh", "-c", script])
    assert (found.model, found.normal) == ("org/model", ('--extra={"a":[1]}',))
    for more in ("\nrm x", " > y", " 'a'$(b)", " '", "\\'$x'"):
        assert read_arguments("vllm", ["sh", "-c", f"vllm serve org/model{more}"]).model == ""


def test_what_the_line_puts_into_the_environment_counts() -> None:
    argv = ["env", "VLLM_X=1", f"HF_TOKEN={SECRET}", "vllm", "serve", "org/model", "--a=b"]
    found = read_arguments("vllm", argv)
    assert found.model == "org/model"
    assert found.normal[:2] == ("--a=b", "--env=VLLM_X=1")
    assert found.normal[2].startswith("--env=HF_TOKEN=sha256:")
    assert normal_arguments("vllm", ["env", "A=b"]) == ("--env=A=b",)
    script = "VLLM_X=1 vllm serve org/model --a=b"
    assert normal_arguments("vllm", ["sh", "-c", script]) == found.normal[:2]


def test_bytes_that_are_no_text() -> None:
    assert normal_arguments("torch", ["--x=\udcff"]) == (r"--x=\udcff",)


SECRET = "S3cretS3cretS3cret"


@pytest.mark.parametrize(
    "argv",
    [
        ["--api-key", SECRET],
        [f"--api-key={SECRET}"],
        ["--my-auth-token", SECRET],
        [f"--db_password={SECRET}"],
        ["--header", f"Authorization: Bearer {SECRET}"],
        ["--header", f"Authorization: Token {SECRET}"],
        ["--header", f"X-Given bearer {SECRET}"],
        ["--header", f"X-Given bearer -{SECRET}"],
        ["--store", f"s3://user:{SECRET}@host/bucket"],
        ["--store", f"https://user:a/{SECRET}@host/bucket"],
        ["--store", f"https://host/x?sig={SECRET}"],
        ["--store", f"s3://host/x?sig={SECRET}"],
        ["--extra", json.dumps({"a": [{"api_key": SECRET, "b": f"https://u:{SECRET}@h"}]})],
        ["--extra", json.dumps({"password": {"is": SECRET}})],
        ["--extra", "{not json, token: " + SECRET],
        ["--extra", f"hf_{SECRET}"],
        ["--extra", "x", f"HF_TOKEN={SECRET}", "y"],
        ["--extra", f'secret="{SECRET} {SECRET}" rest'],
        ["--extra", f"--hf-token {SECRET}"],
        ["--extra", f"serve x -H 'X-Auth-Token: {SECRET}' --api-key '{SECRET}'"],
        ["--extra", json.dumps(["--hf-token", SECRET])],
        ["--", "--api-key", SECRET],
        [f"token={SECRET}"],
        ["--", f"ghp_{SECRET}"],
        ["-c", f"import os; os.environ['K']='{SECRET}'"],
        ["-c", f"MY_TOKEN={SECRET} vllm serve x"],
        ["sh", "-c", f"vllm serve x --y '{SECRET}"],
    ],
)
@pytest.mark.parametrize("engine", ["vllm", "sglang", "torch"])
@pytest.mark.parametrize("place", [0, 1])
def test_no_secret_is_in_it(engine: str, argv: list[str], place: int) -> None:
    line = [argv, ["serve.py", *argv, "--last=1"]][place]
    found = read_arguments(engine, line)
    assert SECRET not in str(found)


@given(
    st.lists(st.sampled_from(["--a", "serve", "x", "--b=1", "--c=d", "-q"]), max_size=4),
    st.lists(st.sampled_from(["--a", "serve", "x", "--b=1", "--c=d", "-q"]), max_size=4),
    st.from_regex(r"[a-z]{0,8}", fullmatch=True),
    ENGINES,
)
def test_wherever_it_stands(before: list[str], after: list[str], name: str, engine: str) -> None:
    for given_as in ([f"--{name}-token={SECRET}"], [f"--{name}-token", SECRET]):
        assert SECRET not in str(read_arguments(engine, [*before, *given_as, *after]))


def test_secrets_can_still_be_told_apart() -> None:
    one, other = (normal_arguments("torch", ["--auth-token", each]) for each in ("a", "b"))
    assert one != other
    assert one[0].startswith("--auth-token=sha256:")
