"""Which models are to be in memory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from modelcache.planning.warming import Candidate, choose


def model(name: str, priority: int = 0, **blobs: int) -> Candidate:
    return Candidate(name, priority, blobs or {name: 10})


def names(*models: Candidate, budget: int) -> list[str]:
    return [each.name for each in choose(models, budget).warm]


def test_by_priority_then_the_smaller_then_by_name() -> None:
    models = model("b"), model("a"), model("big", 0, big=50), model("first", 7, f=60)
    assert names(*models, budget=1000) == ["first", "a", "b", "big"]


def test_of_what_does_not_fit_nothing() -> None:
    choice = choose([model("a", 5, a=60), model("b", 4, b=50), model("c", 3, c=40)], 100)
    assert [each.name for each in choice.warm] == ["a", "c"]
    assert choice.missing == {"b": 10}
    assert choose([], 100).warm == ()


def test_what_models_share_counts_once() -> None:
    models = model("base", 2, weights=80, a=5), model("tuned", 1, weights=80, b=15)
    assert names(*models, budget=100) == ["base", "tuned"]
    assert choose(models, 99).missing == {"tuned": 1}


candidates = st.lists(
    st.builds(
        Candidate,
        name=st.text("abcdef", min_size=1, max_size=3),
        priority=st.integers(-3, 3),
        blobs=st.dictionaries(st.sampled_from("uvwxyz"), st.just(10), max_size=4),
    ),
    max_size=8,
    unique_by=lambda c: c.name,
)


@given(candidates, st.integers(0, 100))
def test_it_keeps_to_the_budget_and_leaves_out_nothing_that_fits(
    models: list[Candidate], budget: int
) -> None:
    choice = choose(models, budget)
    taken = {blob: size for each in choice.warm for blob, size in each.blobs.items()}
    assert sum(taken.values()) <= budget
    assert {each.name for each in choice.warm} | set(choice.missing) == {m.name for m in models}
    for each in models:
        if each.name in choice.missing:
            more = sum(size for blob, size in each.blobs.items() if blob not in taken)
            # What was taken after it may be content that it shares.
            assert choice.missing[each.name] > 0
            assert sum(taken.values()) + more > budget or more < each.size
