from __future__ import annotations

import re
from typing import Any

from modelcache.api import ModelReport, ModelState
from modelcache.api.nodecache import CompileReport, CompileState
from modelcache.planning.labelling import compile_labels, labels
from tests.unit.planning.samples import OLD

LABEL_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


def report(
    name: str, state: ModelState = ModelState.READY, *, priority: int = 0, wanted: bool = True
) -> ModelReport:
    return ModelReport(name=name, state=state, priority=priority, wanted=wanted, revision=OLD)


def test_two_labels_for_what_is_ready() -> None:
    assert labels([report("llama")]) == {
        "modelcache.dev/model.llama": "Ready",
        "modelcache.dev/revision.llama": "a" * 12,
    }


def test_nothing_for_what_is_not_ready_or_not_wanted() -> None:
    others = [report(s.value.lower(), s) for s in ModelState if s is not ModelState.READY]
    assert labels([*others, report("left", wanted=False)]) == {}


def test_the_highest_priorities_have_them_up_to_the_limit() -> None:
    found = labels([report(f"m{n:02}", priority=n % 4) for n in range(40)], 20)
    named = [key.partition("model.")[2] for key in found if "/model." in key]
    assert named == [f"m{n:02}" for p in (3, 2) for n in range(40) if n % 4 == p]
    assert len(found) == 40
    assert labels([report("m")], 0) == {}


def test_thirty_two_models_when_nothing_is_said() -> None:
    assert len(labels([report(f"m{n}") for n in range(100)])) == 64


def test_the_longest_name_makes_a_label_that_kubernetes_takes() -> None:
    for key, value in labels([report("x" * 54)]).items():
        name = key.partition("/")[2]
        assert len(name) <= 63
        assert LABEL_NAME.fullmatch(name)
        assert LABEL_NAME.fullmatch(value)


def compiled(name: str, state: CompileState = CompileState.READY, key: str = "c" * 64) -> Any:
    return CompileReport(name=name, state=state, key=key)


def test_a_ready_compile_cache_has_the_beginning_of_its_key() -> None:
    others = [compiled(s.value.lower(), s) for s in CompileState if s is not CompileState.READY]
    assert compile_labels([*others, compiled("tiny")]) == {"modelcache.dev/compile.tiny": "c" * 12}


def test_compile_caches_have_as_many_labels_as_are_allowed() -> None:
    assert len(compile_labels([compiled(f"c{n}") for n in range(9)], 4)) == 4
