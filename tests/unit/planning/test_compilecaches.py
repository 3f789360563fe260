"""What is to be done for compile caches, case by case."""

from __future__ import annotations

from dataclasses import replace

import pytest

from modelcache.api import CompileCache
from modelcache.errors import AuthFailed, ChecksumMismatch, NotFound, OriginUnavailable
from modelcache.planning.compileactions import (
    Discard,
    Fetch,
    Hide,
    Look,
    Publish,
    Remove,
    Show,
    Stop,
)
from modelcache.planning.compilebudget import Limits, Running
from modelcache.planning.compilecaches import plan
from modelcache.planning.compilechoosing import HeldBundle, Need, idle, spec_digest
from modelcache.planning.compiletrials import CompileTrial, Offer
from modelcache.planning.removing import Removal
from modelcache.transfer import delay

KEY, OTHER = "a" * 64, "b" * 64
OLD, NEW = "sha256:" + "1" * 64, "sha256:" + "2" * 64
NOW = 10_000.0


def need(key: str | None = KEY, **fields: object) -> Need:
    return Need("spec", "file:///place", key, **fields)  # type: ignore[arg-type]


def looked(*digests: str, at: float = NOW, **fields: object) -> CompileTrial:
    offers = [Offer(digest, float(index)) for index, digest in enumerate(digests)]
    trial = CompileTrial("spec", KEY, **fields)  # type: ignore[arg-type]
    return trial.looked(offers, frozenset(), "", at)


def held(digest: str = OLD, at: float = 0.0, key: str = KEY, **fields: bool) -> HeldBundle:
    return HeldBundle(key, digest, at, **fields)


def actions(
    asked: Need | None, *here: HeldBundle, trial: CompileTrial | None = None, **more: object
) -> list[object]:
    needs = {"c": asked} if asked is not None else {}
    trials = {"c": trial} if trial is not None else {}
    found = plan(needs, {"c": here} if here else {}, trials, {}, NOW, **more)  # type: ignore[arg-type]
    return list(found.actions)


def test_who_knows_nothing_looks() -> None:
    assert actions(need()) == [Look("c")]


def test_without_a_key_nothing_is_done() -> None:
    assert actions(need(None)) == []


def test_the_newest_offer_is_fetched_and_then_shown() -> None:
    assert actions(need(), trial=looked(OLD, NEW)) == [Fetch("c", NEW)]
    assert actions(need(), held(NEW, 1.0), trial=looked(OLD, NEW)) == [Show("c", KEY, NEW)]
    assert actions(need(), held(NEW, 1.0, shown=True), trial=looked(OLD, NEW)) == []


def test_a_newer_generation_is_fetched_while_the_old_one_is_shown() -> None:
    here = held(OLD, 0.0, shown=True)
    assert actions(need(), here, trial=looked(OLD, NEW)) == [Fetch("c", NEW)]


def test_an_older_one_than_what_is_here_is_not() -> None:
    here = held(NEW, 5.0, shown=True)
    assert actions(need(), here, trial=looked(OLD)) == []


def test_a_bundle_for_another_key_is_hidden_at_once() -> None:
    assert actions(need(OTHER), held(shown=True)) == [Hide("c"), Look("c")]


def test_a_key_that_is_not_known_for_a_moment_hides_nothing() -> None:
    assert actions(need(None), held(shown=True)) == []
    assert actions(need(None), held(shown=True, usable=False)) == [Hide("c")]


@pytest.mark.parametrize(
    "here", [held(shown=True, usable=False), held(shown=True)], ids=["untrusted", "withdrawn"]
)
def test_what_may_not_be_seeded_is_hidden(here: HeldBundle) -> None:
    withdrawn = frozenset({OLD}) if here.usable else frozenset()
    assert Hide("c") in actions(need(withdrawn=withdrawn), here, trial=looked(OLD))


def test_where_the_newest_is_withdrawn_the_one_before_it_is_shown() -> None:
    here = (held(OLD, 0.0), held(NEW, 1.0, shown=True))
    found = actions(need(withdrawn=frozenset({NEW})), *here, trial=looked(OLD, NEW))
    assert found == [Show("c", KEY, OLD)]


def test_a_withdrawn_offer_is_not_fetched() -> None:
    withdrawn = need(withdrawn=frozenset({NEW}))
    assert actions(withdrawn, trial=looked(OLD, NEW)) == [Fetch("c", OLD)]
    assert actions(withdrawn, trial=looked(NEW)) == []


def test_an_offer_that_was_refused_is_not_fetched_again_until_it_was_gone() -> None:
    trial = looked(OLD, NEW).refuse(NEW, "no key that is trusted has signed it")
    assert actions(need(), trial=trial) == [Fetch("c", OLD)]
    again = trial.looked([Offer(OLD, 0.0), Offer(NEW, 1.0)], frozenset(), "", NOW)
    assert actions(need(), trial=again) == [Fetch("c", OLD)]
    gone = again.looked([Offer(OLD, 0.0)], frozenset(), "", NOW)
    assert not gone.refused


def test_what_was_made_here_is_published_before_anything_else() -> None:
    made = held(NEW, 3.0, outgoing=True, shown=True)
    assert actions(need(), made) == [Publish("c", NEW)]


def test_what_was_made_here_is_published_though_this_node_has_another_key_now() -> None:
    made = held(NEW, 3.0, key=OTHER, outgoing=True)
    assert actions(need(), made, trial=looked()) == [Publish("c", NEW)]
    assert idle(need(), [made]) == set()


def test_who_may_not_publish_goes_on_looking_and_tries_again_later() -> None:
    made = held(OLD, 0.0, outgoing=True, shown=True)
    denied = CompileTrial("spec", KEY).not_published(AuthFailed("read-only"), NOW, delay)
    assert actions(need(), made, trial=denied) == [Look("c")]
    seen = denied.looked([Offer(NEW, 9.0)], frozenset(), "", NOW)
    assert seen.unpublished is not None
    assert actions(need(), made, trial=seen) == [Fetch("c", NEW)]
    newest = denied.looked([], frozenset(), "", NOW)
    found = plan({"c": need()}, {"c": [made]}, {"c": newest}, {}, NOW)
    assert (found.actions, found.wake_at) == ((), seen.unpublished.retry_at)
    later = plan({"c": need()}, {"c": [made]}, {"c": newest}, {}, seen.unpublished.retry_at)
    assert later.actions == (Publish("c", OLD),)


def test_what_failed_waits() -> None:
    failed = looked(OLD).failed(OriginUnavailable("away"), NOW, delay)
    found = plan({"c": need()}, {}, {"c": failed}, {}, NOW)
    assert not found.actions
    assert found.wake_at == failed.retry_at > NOW
    later = plan({"c": need()}, {}, {"c": failed}, {}, failed.retry_at)
    assert later.actions == (Fetch("c", OLD),)


def test_what_can_not_be_fetched_is_looked_for_again_when_a_look_is_due() -> None:
    """Its bundle may be gone, or there may be a newer one that can be fetched."""
    failed = looked(OLD, at=NOW - 300).failed(NotFound("gone"), NOW - 60, delay, OLD)
    assert actions(need(), trial=failed) == [Look("c")]
    gone = failed.looked([Offer(NEW, 1.0)], frozenset(), "", NOW)
    assert (gone.failures, gone.unfetched) == (0, None)
    assert actions(need(), trial=gone) == [Fetch("c", NEW)]


def test_where_the_newest_can_not_be_fetched_an_older_one_is_better_than_none() -> None:
    """Who may write to a place, and can't sign, may break what is newest there."""
    trial = looked(OLD, NEW)
    for number in range(3):
        assert actions(need(), trial=replace(trial, retry_at=0.0)) == [Fetch("c", NEW)], number
        trial = trial.failed(ChecksumMismatch("other bytes"), NOW, delay, NEW)
    trial = replace(trial, retry_at=0.0)
    assert actions(need(), trial=trial) == [Fetch("c", OLD)]
    assert actions(need(), trial=replace(trial, offers=trial.offers[1:])) == [Fetch("c", NEW)]
    here = held(OLD, 0.0, shown=True)
    assert actions(need(), here, trial=trial) == [Fetch("c", NEW)]
    turned = trial.failed(ChecksumMismatch("other bytes"), NOW, delay, OLD)
    assert actions(need(), trial=replace(turned, retry_at=0.0)) == [Fetch("c", NEW)]


def test_a_look_that_finds_what_can_not_be_fetched_does_not_hasten_the_next_try() -> None:
    failed = looked(OLD, at=NOW - 300).failed(NotFound("half gone"), NOW - 60, delay, OLD)
    same = failed.looked([Offer(OLD, 0.0)], frozenset(), "", NOW)
    assert (same.failures, same.message) == (1, "half gone")
    assert same.failed(NotFound("half gone"), NOW, delay, OLD).failures == 2
    assert same.succeeded().unfetched is None
    away = looked(OLD, at=NOW - 300).failed(OriginUnavailable("away"), NOW - 60, delay)
    assert away.looked([Offer(OLD, 0.0)], frozenset(), "", NOW).failures == 0


def test_what_a_person_has_to_change_is_tried_more_slowly() -> None:
    def steady(attempt: int, *, first: float, most: float, wish: float | None) -> float:
        return first

    assert looked().failed(AuthFailed("x"), NOW, steady).retry_at == NOW + 30
    assert looked().failed(OriginUnavailable("x"), NOW, steady).retry_at == NOW + 5


def test_the_place_is_asked_again_now_and_then() -> None:
    found = plan({"c": need()}, {}, {"c": looked(at=NOW)}, {}, NOW)
    assert (found.actions, found.wake_at) == ((), NOW + Limits().look_seconds)
    assert actions(need(), trial=looked(at=NOW - 300)) == [Look("c")]


def test_a_hint_has_it_asked_soon_but_not_over_and_over() -> None:
    hinted = need(published=frozenset({NEW}))
    assert actions(hinted, trial=looked(at=NOW - 10)) == [Look("c")]
    assert actions(hinted, trial=looked(at=NOW - 9)) == []
    vain = CompileTrial("spec", KEY).looked([], frozenset({NEW}), "", NOW - 200)
    assert actions(hinted, trial=vain) == []
    assert actions(hinted, held(NEW, shown=True), trial=looked(NEW, at=NOW - 200)) == []


def test_another_spec_or_key_begins_anew() -> None:
    failed = looked(OLD).failed(OriginUnavailable("away"), NOW, delay)
    assert actions(need(OTHER), trial=failed) == [Look("c")]


def test_work_for_another_spec_or_key_is_stopped() -> None:
    running = {"c": Running(Look("c"), "spec", OTHER, "file:///place")}
    assert plan({"c": need()}, {}, {}, running, NOW).actions == (Stop("c"),)


def test_work_goes_on_while_the_key_is_not_known_for_a_moment() -> None:
    running = {"c": Running(Fetch("c", NEW), "spec", KEY, "file:///place")}
    assert plan({"c": need(None)}, {}, {}, running, NOW).actions == ()


def test_a_fetch_waits_for_its_permit_and_holds_no_other_up() -> None:
    needs = {"c": need(), "d": need()}
    trials = {"c": looked(NEW), "d": looked(OLD)}
    found = plan(needs, {}, trials, {}, NOW, Limits(moving=1), permitted={OLD})
    assert found.actions == (Fetch("d", OLD),)
    assert found.waiting == {"c"}
    assert found.unpermitted == (NEW,)


def test_permits_are_asked_for_as_far_as_there_is_room() -> None:
    """A permit that is held and not used keeps other nodes waiting; and one that is given back for
    want of room is not to be asked for again at once."""
    digests = {f"c{n}": f"sha256:{n:064x}" for n in range(6)}
    needs, trials = dict.fromkeys(digests, need()), {n: looked(d) for n, d in digests.items()}
    limits = Limits(moving=8, place=4)
    first = plan(needs, {}, trials, {}, NOW, limits, permitted=())
    assert first.actions == ()
    assert set(first.unpermitted) == {*digests.values()}
    assert first.room == 4
    some = plan(needs, {}, trials, {}, NOW, limits, permitted={digests["c3"]})
    assert some.actions == (Fetch("c3", digests["c3"]),)
    assert some.room == 3
    running = {
        name: Running(Fetch(name, digests[name]), "spec", KEY, "file:///place")
        for name in ("c0", "c1", "c2", "c3")
    }
    full = plan(needs, {}, trials, running, NOW, limits, permitted={*digests.values()})
    assert full.actions == ()
    assert (full.unpermitted, full.room) == ((), 0)
    given_back = {digests[name] for name in running}
    full = plan(needs, {}, trials, running, NOW, limits, permitted=given_back)
    assert (full.unpermitted, full.room) == ((), 0)
    assert full.waiting == {"c4", "c5"}


def test_a_permit_is_kept_while_looks_have_all_turns() -> None:
    needs = {"c": need(), "d": need()}
    looks = {"d": Running(Look("d"), "spec", KEY, "file:///place")}
    limits = Limits(place=1)
    found = plan(needs, {}, {"c": looked(NEW)}, looks, NOW, limits, permitted={NEW})
    assert (found.actions, found.permitted) == ((), (NEW,))
    assert found.waiting == {"c"}
    asked = plan(needs, {}, {"c": looked(NEW)}, looks, NOW, limits, permitted=())
    assert (asked.permitted, asked.unpermitted, asked.room) == ((), (NEW,), 1)
    hung = {"d": replace(looks["d"], stuck=True)}
    found = plan(needs, {}, {"c": looked(NEW)}, hung, NOW, limits, permitted={NEW})
    assert (found.permitted, found.unpermitted, found.room) == ((), (), 0)


def test_one_question_asks_for_so_many_permits() -> None:
    digests = {f"c{n:03}": f"sha256:{n:064x}" for n in range(100)}
    trials = {n: looked(d) for n, d in digests.items()}
    found = plan(dict.fromkeys(digests, need()), {}, trials, {}, NOW, permitted=())
    assert len(found.unpermitted) == 64
    assert len(found.waiting) == 100


def test_what_is_to_be_published_and_nobody_trusts_any_more_is_of_no_use() -> None:
    """It would be kept for ever, and count among those that wait for their place."""
    made = held(OLD, outgoing=True)
    assert idle(need(), [made]) == set()
    assert idle(need(), [replace(made, usable=False)]) == {OLD}


def test_what_is_shown_while_the_key_is_not_known_does_not_grow_old() -> None:
    """When the key is known again, as another one, pods may be about to be seeded from it."""
    assert idle(need(None), [held(OLD, shown=True), held(NEW)]) == {NEW}
    assert idle(need(None), [held(OLD, shown=True, usable=False)]) == {OLD}


def test_what_is_idle_is_deleted_after_a_while_and_never_what_is_shown() -> None:
    here = [held(OLD, 0.0), held(NEW, 1.0, shown=True)]
    assert idle(need(), here) == {OLD}
    found = plan(
        {"c": need()}, {"c": here}, {"c": looked()}, {}, NOW, idle_since={("c", OLD): NOW - 599}
    )
    assert (found.actions, found.wake_at) == ((), NOW + 1)
    found = plan(
        {"c": need()}, {"c": here}, {"c": looked()}, {}, NOW, idle_since={("c", OLD): NOW - 600}
    )
    assert found.actions == (Discard("c", KEY, OLD),)
    shown = plan(
        {"c": need()}, {"c": here}, {"c": looked()}, {}, NOW, idle_since={("c", NEW): NOW - 600}
    )
    assert shown.actions == ()


def test_what_nothing_wants_goes_after_a_while_unless_it_is_kept() -> None:
    removal = Removal(600.0, {"c": NOW - 600})
    assert actions(None, held(), removal=removal) == [Remove("c")]
    assert actions(None, held(), removal=Removal(600.0, {"c": NOW - 599})) == []
    assert actions(None, held(), removal=Removal(600.0, {"c": 0.0}, {"c"})) == []
    assert actions(None, held()) == []


def test_a_place_that_hangs_leaves_the_others_their_room() -> None:
    limits = Limits(moving=2, all=8, place=3)
    hung = {f"h{n}": Running(Look(f"h{n}"), "spec", KEY, "nfs", stuck=n < 3) for n in range(3)}
    needs = {f"h{n}": Need("spec", "nfs", KEY) for n in range(5)}
    needs |= {"x": Need("spec", "s3", KEY), "y": Need("spec", "s3", KEY)}
    found = plan(needs, {}, {}, hung, NOW, limits)
    assert found.actions == (Look("x"), Look("y"))
    assert found.waiting == {"h3", "h4"}


def test_the_same_words_have_the_same_digest() -> None:
    def cache(**more: object) -> CompileCache:
        return CompileCache.from_document(
            {
                "apiVersion": "modelcache.dev/v1alpha1",
                "kind": "CompileCache",
                "metadata": {"name": "c", **more},
                "spec": {
                    "model": "m",
                    "engine": {"name": "vllm", "image": f"r/v@sha256:{'0' * 64}"},
                    "bundles": {"uri": "s3://b/p"},
                },
            }
        )

    assert spec_digest(cache(generation=1)) == spec_digest(cache(generation=3))
