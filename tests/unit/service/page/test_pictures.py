"""What the pictures of the page show can be: each reason and sentence is one that the code says,
and no time and no number is beyond its bounds."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import modelcache
from modelcache.api import ModelReport, ModelState, NodeCacheStatus
from modelcache.api.nodecache import CompileReport, CompileState
from modelcache.compilecache.engines.blaming import MissReason
from modelcache.errors import Reason
from modelcache.planning.trials import MOST_DELAY
from modelcache.planning.wording import Stage, stage, state
from modelcache.service.page import Facts, page
from modelcache.store.sickness import WELL, Sickness
from tests.support import pages

SHOWN = {"well": pages.well(), "busy": pages.busy(), "failing": pages.failing()}
"""The nodes in docs/images, but for the empty one."""


@pytest.fixture(params=SHOWN)
def shown(request: pytest.FixtureRequest) -> Facts:
    return SHOWN[request.param]


def status_of(facts: Facts) -> NodeCacheStatus:
    assert facts.status is not None
    return facts.status


def reports(facts: Facts) -> Iterator[ModelReport | CompileReport]:
    yield from status_of(facts).models
    yield from status_of(facts).compile_caches


# What the code can say


@cache
def texts() -> tuple[frozenset[str], tuple[tuple[str, re.Pattern[str]], ...]]:
    """The texts in the program, and of those that are filled in the longest piece and what they
    may be, where that says enough to tell one from others."""
    plain, filled = set(), {}
    for path in Path(modelcache.__file__).parent.rglob("*.py"):
        for each in ast.walk(ast.parse(path.read_text())):
            if isinstance(each, ast.Constant) and isinstance(each.value, str):
                plain.add(each.value)
            elif isinstance(each, ast.JoinedStr):
                parts = (getattr(part, "value", "") for part in each.values)
                pieces = [part if isinstance(part, str) else "" for part in parts]
                letters = [sum(map(str.isalpha, piece)) for piece in pieces]
                if max(letters) >= 6 and sum(letters) >= 8:
                    pattern = "".join(re.escape(piece) or "(.*)" for piece in pieces)
                    filled[pattern] = (max(pieces, key=len), re.compile(pattern, re.DOTALL))
    return frozenset(plain), tuple(filled.values())


def is_said(sentence: str) -> bool:
    plain, filled = texts()
    if sentence in plain:
        return True
    return any(longest in sentence and form.fullmatch(sentence) for longest, form in filled)


def can_say(sentence: str) -> bool:
    """Whether it is a text of the program, or several of them."""
    return is_said(sentence) or all(map(is_said, sentence.split("; ")))


def sentences(facts: Facts) -> Iterator[str]:
    for each in reports(facts):
        yield each.message or ""
        if isinstance(each, CompileReport):
            yield each.last_start.message or "" if each.last_start else ""
            yield from (withdrawn.message for withdrawn in each.withdrawn)
    yield from (each.message for each in status_of(facts).conditions)
    for happened in facts.happenings:
        named = f"{happened.about}: {happened.note}"  # as the cluster's Events have it
        yield named if can_say(named) else happened.note


def test_each_sentence_is_one_that_the_code_says(shown: Facts) -> None:
    assert [each for each in sentences(shown) if each and not can_say(each)] == []


@pytest.mark.parametrize(
    "sentence",
    [
        "the bundle is signed by no key that this node trusts",
        "2 files could not be read in the last hour (Input/output error): the disk may be failing",
        "mirror.example doesn't answer (timed out after 30 s)",
        "BAAI/bge-m3 was not changed since it was fetched",
        "the engine could not load the bundle: Triton 3.4 is not 3.3",
        "huggingface.co refuses access to org/name (403): accept its licence with the account of t",
        "a file is not what it was",
    ],
)
def test_a_sentence_that_nothing_says_is_noticed(sentence: str) -> None:
    assert not can_say(sentence)


def disk_reasons() -> set[str]:
    """All that a disk can be said to have, by what happens to it."""
    found = {WELL.reason}
    for error in (OSError(5, "EIO"), OSError(30, "EROFS"), None):
        sickness = Sickness(Path("/cache"))
        for now in range(2):
            if error is None:
                sickness.hangs(float(now))
            else:
                sickness.probed(error, float(now))
            found.add(sickness.health(float(now)).reason)
    return found


def test_each_reason_is_of_a_closed_set(shown: Facts) -> None:
    conditions = {each.reason for each in status_of(shown).conditions}
    assert conditions <= disk_reasons()
    assert len(disk_reasons()) == 5
    starts = [each.last_start for each in status_of(shown).compile_caches if each.last_start]
    assert {each.reason for each in starts} <= {None, *MissReason}
    plain, _ = texts()
    failed = {f"Model{each}" for each in Reason} | {f"CompileCache{each}" for each in Reason}
    changed = {f"CompileCache{each}" for each in ("Ready", "Removed", "Withdrawn", "Missed")}
    for each in shown.happenings:
        assert each.reason in failed | changed | plain | disk_reasons(), each


def test_each_state_is_told_in_the_words_of_all(shown: Facts) -> None:
    badges = re.findall(r'class="badge \w+">(?:<span[^>]*>. </span>)?([^<]+)</span>', page(shown))
    words = [state(each) for each in status_of(shown).models]
    known = {each.reason for each in shown.happenings} | {"Hit", "Partial", "Miss", "Unknown"}
    assert {*badges} <= {*words, *CompileState, *known}
    assert {*words} <= {*badges}


# What can be at one time


def test_tries_are_made_as_often_as_they_are(shown: Facts) -> None:
    for each in reports(shown):
        is_moving = isinstance(each, ModelReport) and stage(each) is Stage.ON_THE_WAY
        assert bool(each.retry_at) == bool(each.attempts), each.name
        if each.retry_at is not None:
            assert 0 < (each.retry_at - shown.now).total_seconds() <= MOST_DELAY, each.name
            assert not is_moving
        if isinstance(each, ModelReport) and each.attempts and each.missing_since:
            # None comes sooner than half of a second after the one before.
            missing = (shown.now - each.missing_since).total_seconds()
            assert sum(min(MOST_DELAY, 2.0**n) / 2 for n in range(each.attempts - 1)) <= missing


def test_a_model_is_ready_or_missing(shown: Facts) -> None:
    for each in status_of(shown).models:
        ready = each.state is ModelState.READY
        assert ready == bool(each.finished_at) == bool(each.path), each.name
        assert bool(each.missing_since) == (each.wanted and not ready), each.name
        assert (each.bytes_done == each.bytes_total > 0) or not ready, each.name
        assert each.bytes_done <= each.bytes_total
        assert not (each.used_by and each.last_used_at), each.name
        assert each.name not in shown.rates or each.state is ModelState.DOWNLOADING


def test_the_disk_holds_what_is_on_it(shown: Facts) -> None:
    disk = status_of(shown).disk
    assert disk.used <= disk.taken <= disk.budget <= disk.capacity
    assert disk.taken + disk.free <= disk.capacity
    assert disk.taken + disk.reserved + disk.available <= disk.budget
    here = sum(each.bytes_done for each in status_of(shown).models)
    assert disk.taken >= here


def test_what_happened_happened_since_the_agent_is_there(shown: Facts) -> None:
    times = [each.at for each in shown.happenings]
    assert times == sorted(times, reverse=True)
    assert shown.since == times[-1]
    assert times[0] <= shown.now
    assert shown.happenings[-1].reason == "AgentStarted"
    models = {each.name: each for each in status_of(shown).models}
    for each in shown.happenings:
        if each.reason == "ModelReady":
            assert models[each.about].finished_at == each.at
        elif each.reason == "FetchStarted":
            told = models[each.about]
            assert each.at == told.started_at or (told.finished_at and each.at < told.finished_at)
