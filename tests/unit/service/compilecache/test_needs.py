from __future__ import annotations

from typing import Any

import pytest

from modelcache.api import CompileCache
from modelcache.compilecache.keys.facts import NodeFacts
from modelcache.compilecache.keys.making import key_of_object
from modelcache.compilecache.keys.parts import Accelerator, Cpu, Key
from modelcache.errors import UsageError
from modelcache.service.compilecache import needs
from modelcache.service.compilecache.needs import Needs
from tests.component.service.compilecache.place import compile_cache
from tests.unit.planning.samples import manifest

FACTS = NodeFacts(Accelerator(vendor="cpu", product="x"), Cpu(arch="x86_64", isa="x86-64-v3"))
MODELS = {"m": manifest()}


def cache(name: str, **spec: Any) -> CompileCache:
    return CompileCache.from_document(compile_cache("s3://b/p", name, **spec))


def test_a_key_is_made_once_for_the_same_words_model_and_facts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[CompileCache] = []
    real = key_of_object

    def counted(thing: CompileCache, *arguments: object) -> Key:
        made.append(thing)
        return real(thing, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(needs, "key_of_object", counted)
    found, wanted = Needs(), {"c": cache("c")}
    first = found.of(wanted, FACTS, "", MODELS)["c"]
    assert first.key is not None
    assert found.of(wanted, FACTS, "", MODELS)["c"] is first
    assert len(made) == 1
    other = found.of(wanted, FACTS, "", {"m": manifest(snapshot="b" * 40)})["c"]
    assert other.key is not None
    assert other.key.digest != first.key.digest


@pytest.mark.parametrize("error", [UsageError("such an argument"), ValueError("nobody thought of")])
def test_what_can_have_no_key_is_its_own_failure_alone(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = key_of_object

    def picky(thing: CompileCache, *arguments: object) -> Key:
        if thing.name == "bad":
            raise error
        return real(thing, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(needs, "key_of_object", picky)
    wanted = {"bad": cache("bad"), "good": cache("good")}
    found = Needs().of(wanted, FACTS, "", MODELS)
    assert found["good"].key is not None
    assert found["bad"].key is None
    assert str(error) in found["bad"].why


def test_without_its_model_or_facts_there_is_no_key_and_a_reason() -> None:
    wanted = {"c": cache("c")}
    assert "m is not on this node" in Needs().of(wanted, FACTS, "", {})["c"].why
    assert Needs().of(wanted, None, "two GPUs", MODELS)["c"].why == "two GPUs"
