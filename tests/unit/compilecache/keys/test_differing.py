"""In which part two keys differ."""

from __future__ import annotations

import pytest

from modelcache.api.meta import ApiModel
from modelcache.compilecache.keys.differing import Difference, differences, nearest
from modelcache.compilecache.keys.making import key_of_object
from modelcache.compilecache.keys.parts import Key
from tests.unit.compilecache.keys.samples import H100, HOST, MODEL, compile_cache

OURS = key_of_object(
    compile_cache(
        args=["org/model", "--max-model-len=8192", "--a=1", "--a=2", "--enforce-eager"],
        env=[{"name": "VLLM_USE_V1", "value": "1"}, {"name": "TRITON_DEBUG", "value": "1"}],
    ),
    H100,
    MODEL,
)


def changed(part: str, **fields: object) -> Key:
    inner = getattr(OURS, part)
    if isinstance(inner, ApiModel):
        return OURS.model_copy(update={part: inner.model_copy(update=fields)})
    return OURS.model_copy(update={part: fields[part]})


def test_the_same_key_differs_in_nothing() -> None:
    assert differences(OURS, OURS.model_copy()) == ()


@pytest.mark.parametrize(
    ("theirs", "sentence"),
    [
        (
            changed("accelerator", product="NVIDIA-A100-SXM4-80GB"),
            "the accelerator is NVIDIA-H100-80GB-HBM3 here and NVIDIA-A100-SXM4-80GB there",
        ),
        (
            changed("accelerator", mig="1g.10gb"),
            "the MIG profile is nothing here and 1g.10gb there",
        ),
        (
            changed("cpu", isa="x86-64-v3"),
            "the processor's class is x86-64-v4 here and x86-64-v3 there",
        ),
        (
            changed("cpu", arch="aarch64"),
            "the processor's architecture is x86_64 here and aarch64 there",
        ),
        (changed("cpu", features=("x", "y")), "the processor has x y there only"),
        (changed("model", id="hf://a/b"), "the model is hf://org/model here and hf://a/b there"),
        (changed("parallel", tensor=8), "the tensor-parallel size is 1 here and 8 there"),
        (changed("parallel", node_rank=1), "the node's rank is 0 here and 1 there"),
        (changed("trust_domain", trust_domain="b"), "the trust domain is default here and b there"),
        (
            changed("args", args=("--max-model-len=4096", "--a=1", "--a=2", "--enforce-eager")),
            "the argument --max-model-len is 8192 here and 4096 there",
        ),
        (
            changed("args", args=("--max-model-len=8192", "--a=1", "--a=2")),
            "the argument --enforce-eager is given here and nothing there",
        ),
        (
            changed("args", args=(*OURS.args, "--", "x", "y")),
            "the arguments that are no options are nothing here and x y there",
        ),
        (
            changed("env", env={**OURS.env, "VLLM_USE_V1": "0" * 16}),
            "the environment variable VLLM_USE_V1 has another value here than there",
        ),
        (
            changed("env", env={"VLLM_USE_V1": OURS.env["VLLM_USE_V1"]}),
            "the environment variable TRITON_DEBUG is set here only",
        ),
        (
            changed("env", env={**OURS.env, "VLLM_X": "0" * 16}),
            "the environment variable VLLM_X is set there only",
        ),
        (
            changed("paths", paths={**OURS.paths, "HOME": "/root"}),
            "the path in HOME is nothing here and /root there",
        ),
        (
            changed("paths", paths={**OURS.paths, "model": "/m"}),
            "the model's path is org/model here and /m there",
        ),
    ],
)
def test_one_difference(theirs: Key, sentence: str) -> None:
    (found,) = differences(OURS, theirs)
    assert found.sentence == sentence
    (back,) = differences(theirs, OURS)
    assert (back.ours, back.theirs) == (found.theirs, found.ours)


def test_features_are_told_by_what_one_lacks() -> None:
    found = Difference("cpu", "features", "a b d", "b c d")
    assert found.sentence == "the processor has a here only and has c there only"


def test_a_difference_of_each_field_of_a_key_is_found() -> None:
    """Keys with other digests differ in something that can be told."""

    def leaves(document: object, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
        if isinstance(document, dict):
            return [leaf for name, item in document.items() for leaf in leaves(item, (*path, name))]
        return [path]

    document = OURS.to_document()
    for path in leaves(document):
        if path == ("schemaVersion",):
            continue
        other = OURS.to_document()
        inner = other
        for step in path[:-1]:
            inner = inner[step]
        value = inner[path[-1]]
        new = (
            value + 1
            if isinstance(value, int)
            else [*value, "x"]
            if isinstance(value, list)
            else "cpu"
        )
        inner[path[-1]] = new
        assert differences(OURS, Key.from_document(other)), path


def test_the_most_telling_first() -> None:
    theirs = key_of_object(
        compile_cache(
            args=["org/other", "--b=1"], image=f"x@sha256:{'0' * 64}", parallel={"tensor": 2}
        ),
        HOST,
        MODEL.model_copy(update={"id": "hf://org/other"}),
    )
    told = [f"{each.part}.{each.name}".rstrip(".") for each in differences(OURS, theirs)]
    assert told == [
        *("engine.identity", "accelerator.vendor", "accelerator", "accelerator.computeCapability"),
        *("accelerator.runtime", "accelerator.driverMajor", "cpu.features", "model"),
        *("parallel.tensor", "paths.model", "args.--a", "args.--b", "args.--enforce-eager"),
        *("args.--max-model-len", "env.TRITON_DEBUG", "env.VLLM_USE_V1"),
    ]


def test_the_nearest() -> None:
    model = changed("model", id="hf://a/b")
    two = changed("args", args=()).model_copy(update={"env": {}})
    assert nearest(OURS, []) is None
    assert nearest(OURS, [model, two]) == (two, differences(OURS, two))
    assert nearest(OURS, [model]) == (
        model,
        (Difference("model", "", "hf://org/model", "hf://a/b"),),
    )
