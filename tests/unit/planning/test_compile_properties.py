"""What holds of every plan for compile caches, and that plans that are carried out arrive."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from modelcache.planning.compileactions import Discard, Fetch, Hide, Look, Publish, Show, Stop
from modelcache.planning.compilebudget import Limits, Running
from modelcache.planning.compilecaches import plan
from modelcache.planning.compilechoosing import HeldBundle, Need, best, idle
from modelcache.planning.compiletrials import CompileTrial, Offer

NAMES = ("a", "b", "c")
KEYS = ("k1", "k2")
DIGESTS = ("d1", "d2", "d3", "d4")
AGES = {digest: float(number) for number, digest in enumerate(DIGESTS)}
KEY_OF = dict(zip(DIGESTS, ("k1", "k1", "k2", "k1"), strict=True))
NOW = 1000.0

needs = st.builds(
    Need,
    spec=st.sampled_from(["s1", "s2"]),
    place=st.sampled_from(["p1", "p2"]),
    key=st.sampled_from([*KEYS, None]),
    published=st.frozensets(st.sampled_from(DIGESTS)),
    withdrawn=st.frozensets(st.sampled_from(DIGESTS), max_size=2),
)


@st.composite
def bundles(draw: st.DrawFn) -> list[HeldBundle]:
    digests = draw(st.lists(st.sampled_from(DIGESTS), unique=True))
    shown = draw(st.sampled_from([None, *digests]))
    return [
        HeldBundle(
            KEY_OF[digest],
            digest,
            AGES[digest],
            usable=draw(st.booleans()),
            shown=digest == shown,
            outgoing=draw(st.booleans()),
        )
        for digest in digests
    ]


trials = st.builds(
    CompileTrial,
    spec=st.sampled_from(["s1", "s2"]),
    key=st.sampled_from(KEYS),
    offers=st.lists(st.sampled_from(DIGESTS), unique=True).map(
        lambda found: tuple(Offer(digest, AGES[digest]) for digest in found)
    ),
    looked_at=st.sampled_from([None, 0.0, NOW]),
    refused=st.dictionaries(st.sampled_from(DIGESTS), st.just("why"), max_size=2),
    retry_at=st.sampled_from([0.0, NOW + 5]),
)
works = st.sampled_from([Look("a"), Fetch("a", "d1"), Publish("a", "d2")])
runnings = st.builds(
    Running,
    work=works,
    spec=st.sampled_from(["s1", "s2"]),
    key=st.sampled_from(KEYS),
    place=st.sampled_from(["p1", "p2"]),
    stuck=st.booleans(),
)


@given(
    st.dictionaries(st.sampled_from(NAMES), needs),
    st.dictionaries(st.sampled_from(NAMES), bundles()),
    st.dictionaries(st.sampled_from(NAMES), trials),
    st.dictionaries(st.sampled_from(NAMES), runnings),
    st.builds(Limits, moving=st.integers(1, 3), all=st.integers(3, 6), place=st.integers(1, 3)),
)
def test_laws(
    wanted: dict[str, Need],
    held: dict[str, list[HeldBundle]],
    tried: dict[str, CompileTrial],
    running: dict[str, Running],
    limits: Limits,
) -> None:
    found = plan(wanted, held, tried, running, NOW, limits)
    begun = [each for each in found.actions if isinstance(each, Look | Fetch | Publish)]
    # At most one thing for each object, and none beside what runs.
    assert len({each.name for each in begun}) == len(begun)
    assert not {each.name for each in begun} & running.keys()
    assert not {each.name for each in begun} & found.waiting
    places = [wanted[each.name].place for each in begun]
    for place in set(places):
        there = sum(what.place == place for what in running.values()) + places.count(place)
        assert there <= limits.place
    if begun:
        assert len(begun) + len(running) <= limits.all
    for action in found.actions:
        match action:
            case Show(name, key, digest):
                bundle = next(h for h in held[name] if h.digest == digest)
                assert bundle.usable
                assert key == bundle.key == wanted[name].key
                assert digest not in wanted[name].withdrawn
            case Fetch(name, digest):
                assert digest not in wanted[name].withdrawn
                assert digest not in {h.digest for h in held.get(name, ())}
                assert digest not in tried[name].refused
            case Discard(name, _, digest):
                assert not next(h for h in held[name] if h.digest == digest).shown
    # Nothing that may not be seeded stays shown.
    for name, need in wanted.items():
        shown = next((h for h in held.get(name, ()) if h.shown), None)
        if shown is None or (need.key is None and shown.usable):
            continue
        may_be = shown.usable and shown.key == need.key and shown.digest not in need.withdrawn
        turned = any(isinstance(a, Show | Hide) and a.name == name for a in found.actions)
        assert may_be or turned
    # What is wanted is never idle.
    for name, need in wanted.items():
        chosen = best(need, held.get(name, ()))
        assert chosen is None or chosen.digest not in idle(need, held[name])


@given(
    needs.filter(lambda need: need.key is not None),
    bundles(),
    st.frozensets(st.sampled_from(DIGESTS)),
    st.frozensets(st.sampled_from(DIGESTS), max_size=2),
)
def test_plans_that_are_carried_out_arrive_at_the_newest_that_may_be_used(
    need: Need, here: list[HeldBundle], placed: frozenset[str], untrusted: frozenset[str]
) -> None:
    held = [replace(h, usable=h.digest not in untrusted) for h in here]
    made = [h.digest for h in held if h.outgoing and h.usable and h.digest not in need.withdrawn]
    trial: CompileTrial | None = None
    for _ in range(30):
        found = plan({"c": need}, {"c": held}, {"c": trial} if trial else {}, {}, NOW)
        if not found.actions:
            break
        trial = trial or CompileTrial(need.spec, need.key or "")
        for action in found.actions:
            match action:
                case Look():
                    offers = [Offer(d, AGES[d]) for d in placed if KEY_OF[d] == need.key]
                    trial = trial.looked(offers, need.published, "", NOW)
                case Fetch(_, digest) if digest in untrusted:
                    trial = trial.refuse(digest, "untrusted")
                case Fetch(_, digest):
                    held.append(HeldBundle(KEY_OF[digest], digest, AGES[digest]))
                case Publish(_, digest):
                    placed |= {digest}
                    held = [replace(h, outgoing=h.outgoing and h.digest != digest) for h in held]
                case Show(_, _, digest):
                    held = [replace(h, shown=h.digest == digest) for h in held]
                case Hide():
                    held = [replace(h, shown=False) for h in held]
                case Stop():
                    raise AssertionError(action)
    else:
        raise AssertionError("it never comes to rest")
    assert set(made) <= placed
    usable = {h.digest for h in held} | placed
    usable = {d for d in usable if KEY_OF[d] == need.key} - untrusted - need.withdrawn
    shown = [h.digest for h in held if h.shown]
    assert shown == ([max(usable, key=AGES.__getitem__)] if usable else [])
