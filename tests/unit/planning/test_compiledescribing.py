from __future__ import annotations

import pytest

from modelcache.api.nodecache import CompileState, WithdrawnBundle
from modelcache.errors import AuthFailed, Reason
from modelcache.planning.compileactions import Fetch, Look
from modelcache.planning.compilebudget import Running
from modelcache.planning.compilechoosing import HeldBundle, Need
from modelcache.planning.compiledescribing import Known, describe
from modelcache.planning.compiletrials import CompileTrial, Offer
from modelcache.transfer import delay

KEY, ONE = "a" * 64, f"sha256:{'1' * 64}"
NEED = Need("spec", "place", KEY)
SHOWN = HeldBundle(KEY, ONE, 100.0, shown=True)
BLANK = CompileTrial("spec", KEY)
LOOKED = BLANK.looked([], frozenset(), "accelerator.product: L4 here, H100 there", 1.0)
FAILED = BLANK.failed(AuthFailed("wants a token"), 1.0, delay)
REFUSED = BLANK.looked([], frozenset(), "", 1.0, {ONE: "it is not signed"})
BESIDE = BLANK.looked([Offer(f"sha256:{'2' * 64}", 1.0)], frozenset(), "", 1.0, {ONE: "junk"})
GONE = WithdrawnBundle(digest=ONE, key=KEY, message="can't be loaded")


def running(work: Look | Fetch, *, stuck: bool = False) -> Running:
    return Running(work, "spec", KEY, "place", stuck)


@pytest.mark.parametrize(
    ("held", "trial", "at_work", "state", "reason", "words"),
    [
        ((), None, None, CompileState.PENDING, None, ""),
        ((), None, running(Look("c")), CompileState.PENDING, None, ""),
        (
            (),
            None,
            running(Look("c"), stuck=True),
            CompileState.FAILED,
            Reason.ORIGIN_UNAVAILABLE,
            "no answer",
        ),
        ((), LOOKED, None, CompileState.MISSING, None, "L4 here, H100 there"),
        ((), FAILED, None, CompileState.FAILED, Reason.AUTH_FAILED, "wants a token"),
        ((), REFUSED, None, CompileState.FAILED, Reason.UNSAFE_FORMAT, "it is not signed"),
        # What lies beside it and is not taken is no failure: a good one waits for its turn.
        ((), BESIDE, None, CompileState.PENDING, None, ""),
        ((), LOOKED, running(Fetch("c", ONE)), CompileState.DOWNLOADING, None, ""),
        ((SHOWN,), None, None, CompileState.READY, None, ""),
        ((SHOWN,), FAILED, None, CompileState.READY, Reason.AUTH_FAILED, "wants a token"),
    ],
)
def test_how_far_it_is(
    held: tuple[HeldBundle, ...],
    trial: CompileTrial | None,
    at_work: Running | None,
    state: CompileState,
    reason: Reason | None,
    words: str,
) -> None:
    found = describe("c", NEED, held, trial, at_work, Known())
    assert (found.state, found.reason) == (state, reason)
    assert words in (found.message or "")
    assert (found.spec_digest, found.key) == ("spec", KEY)


def test_without_a_key_it_says_why() -> None:
    found = describe("c", Need("spec", "p", None), (), None, None, Known("no model yet"))
    assert (found.state, found.message, found.key) == (CompileState.PENDING, "no model yet", None)


def test_what_was_withdrawn_leaves_it_missing_and_is_told() -> None:
    need = Need("spec", "place", KEY, withdrawn=frozenset({ONE}))
    trial = BLANK.looked([Offer(ONE, 1.0)], frozenset(), "", 1.0)
    found = describe("c", need, (SHOWN,), trial, None, Known(withdrawn=(GONE,)))
    assert found.state is CompileState.MISSING
    assert "withdrawn" in (found.message or "")
    assert found.withdrawn == (GONE,)


def test_tries_for_other_words_say_nothing() -> None:
    other = CompileTrial("before", KEY).failed(AuthFailed("x"), 1.0, delay)
    found = describe("c", NEED, (), other, None, Known())
    assert (found.state, found.attempts) == (CompileState.PENDING, 0)
