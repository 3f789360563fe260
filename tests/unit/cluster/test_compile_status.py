"""CompileCaches' status: counted as what changed would be anew, and bundles that are remembered."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from modelcache.cluster.client import Object
from modelcache.cluster.compileaggregating import compile_status
from modelcache.cluster.compiletallying import CompileTallies
from modelcache.cluster.reading import read_cache
from modelcache.cluster.tallying import keep_reports
from modelcache.planning.compilechoosing import spec_digest
from tests.unit.cluster.samples import nodes

NOW = datetime(2026, 5, 1, tzinfo=UTC)
DIGESTS = [f"sha256:{digit * 64}" for digit in "1234"]
KEY = "a" * 64


def cache(name: str = "c", *, generation: int = 1, image: str = "0", **spec: Any) -> Object:
    return {
        "metadata": {"name": name, "uid": f"uid-{name}", "generation": generation},
        "spec": {
            "model": "m",
            "engine": {"name": "vllm", "image": f"r/v@sha256:{image * 64}"},
            "bundles": {"uri": "s3://b/p"},
            **spec,
        },
        "status": {},
    }


def digest_of(thing: Object) -> str:
    return spec_digest(read_cache(thing))


def report(thing: Object, state: str = "Ready", digest: str = DIGESTS[0], **more: Any) -> Object:
    said: Object = {"name": thing["metadata"]["name"], "state": state, **more}
    said["specDigest"] = digest_of(thing)
    if state == "Ready":
        said |= {"digest": digest, "key": KEY, "bytes": 7, "createdAt": "2026-01-01T00:00:00Z"}
    return said


def told(**by_node: Object | list[Object]) -> dict[str, Object]:
    return {
        node: keep_reports(
            {
                "metadata": {"name": node, "uid": node},
                "status": {"compileCaches": said if isinstance(said, list) else [said]},
            }
        )
        for node, said in by_node.items()
    }


def status(thing: Object, caches: dict[str, Object], *names: str) -> Any:
    tallies = CompileTallies()
    tallies.update({"c": thing}, nodes(*(names or caches)), caches)
    return compile_status("c", tallies, NOW)


def test_how_far_the_nodes_are() -> None:
    thing = cache()
    failed = report(thing, "Failed", attempts=2, reason="AuthFailed", message="wants a token")
    found = status(
        thing,
        told(n1=report(thing), n2=report(thing, "Missing"), n3=failed, n4=report(thing, "Pending")),
        *("n1", "n2", "n3", "n4", "n5"),
    )
    assert found.ready_nodes == "1/4"
    assert found.nodes.model_dump() == {"desired": 4, "ready": 1, "missing": 1, "failed": 1}
    (condition,) = found.conditions
    assert (condition.status, condition.reason) == ("False", "AuthFailed")
    assert "n3: AuthFailed: wants a token" in condition.message
    assert "no agent has reported yet from n5" in condition.message


def test_nothing_published_and_all_ready() -> None:
    thing = cache()
    (missing,) = status(thing, told(n1=report(thing, "Missing"))).conditions
    assert missing.reason == "NothingPublished"
    (ready,) = status(thing, told(n1=report(thing))).conditions
    assert (ready.status, ready.reason) == ("True", "AllNodesReady")


def test_what_speaks_of_other_words_says_nothing_and_changed_back_it_counts_again() -> None:
    before, other = cache(generation=1), cache(generation=2, image="8")
    back = cache(generation=3)
    caches = told(n1=report(before))
    tallies = CompileTallies()
    for thing, ready in ((before, 1), (other, 0), (back, 1)):
        tallies.update({"c": thing}, nodes("n1"), caches)
        found = compile_status("c", tallies, NOW)
        assert found.nodes.ready == ready
        assert found.observed_generation == thing["metadata"]["generation"]


def test_a_bundle_is_remembered_when_its_node_is_gone() -> None:
    thing = cache()
    (published,) = status(thing, told(n1=report(thing))).bundles
    assert (published.digest, published.state, published.bytes) == (DIGESTS[0], "Published", 7)
    thing["status"] = {"bundles": [published.to_document()]}
    assert status(thing, {}, "n1").bundles == (published,)


def test_verified_by_one_node_and_withdrawn_for_good() -> None:
    thing = cache()
    (verified,) = status(thing, told(n1=report(thing), n2=report(thing, verified=True))).bundles
    assert verified.state == "Verified"
    gone = [{"digest": DIGESTS[0], "key": KEY, "message": "can't be loaded"}]
    caches = told(n1=report(thing, "Missing", withdrawn=gone))
    thing["status"] = {"bundles": [verified.to_document()]}
    (withdrawn,) = status(thing, caches).bundles
    assert (withdrawn.state, withdrawn.message) == ("Withdrawn", "can't be loaded")
    assert withdrawn.bytes == 7
    thing["status"] = {"bundles": [withdrawn.to_document()]}
    assert status(thing, told(n1=report(thing, verified=True))).bundles == (withdrawn,)


def test_what_is_at_no_place_yet_is_nobodys_to_fetch() -> None:
    thing = cache()
    assert status(thing, told(n1=report(thing, outgoing=True))).bundles == ()


def test_newest_first_and_no_more_than_the_schema_takes() -> None:
    thing = cache()
    said = [
        report(thing, digest=f"sha256:{number:064x}")
        | {"createdAt": f"20{number:02}-01-01T00:00:00Z"}
        for number in range(10, 90)
    ]
    found = status(thing, told(**{f"n{number}": each for number, each in enumerate(said)})).bundles
    assert len(found) == 64
    assert found[0].digest == f"sha256:{89:064x}"


def test_what_was_withdrawn_is_not_forgotten_for_what_is_newer() -> None:
    """Nodes would seed it again: the newer ones may be for other keys."""
    thing = cache()
    gone = {"digest": DIGESTS[0], "key": KEY, "state": "Withdrawn"}
    thing["status"] = {"bundles": [{**gone, "createdAt": "2020-01-01T00:00:00Z"}]}
    said = [report(thing, digest=f"sha256:{number:064x}") for number in range(80)]
    found = status(thing, told(**{f"n{number}": each for number, each in enumerate(said)})).bundles
    assert len(found) == 64
    assert [each.digest for each in found if each.state == "Withdrawn"] == [DIGESTS[0]]


def test_a_node_that_says_nonsense_spoils_no_status() -> None:
    thing = cache()
    bad = report(thing, digest="no digest")
    gone = [{"digest": "x", "key": "y"}]
    found = status(thing, told(n1=bad, n2=report(thing, withdrawn=gone)))
    assert [each.digest for each in found.bundles] == [DIGESTS[0]]


reports_ = st.builds(
    lambda name, image, state, digest, more: report(
        cache(name, image=image), state, digest, **more
    ),
    st.sampled_from(["c1", "c2"]),
    st.sampled_from(["0", "8"]),
    st.sampled_from(["Ready", "Missing", "Failed", "Pending", "Downloading"]),
    st.sampled_from(DIGESTS),
    st.fixed_dictionaries(
        {},
        optional={
            "verified": st.booleans(),
            "outgoing": st.booleans(),
            "withdrawn": st.just([{"digest": DIGESTS[3], "key": KEY, "message": "x"}]),
        },
    ),
)
caches_ = st.dictionaries(st.sampled_from(["n1", "n2", "n3"]), st.lists(reports_, max_size=2))
things_ = st.dictionaries(
    st.sampled_from(["c1", "c2"]), st.sampled_from([("0", "a"), ("8", "a"), ("0", "b")])
)
nodes_ = st.dictionaries(
    st.sampled_from(["n1", "n2", "n3"]), st.sampled_from([{"zone": "a"}, {"zone": "b"}])
)


@settings(max_examples=200)
@given(st.lists(st.tuples(things_, nodes_, caches_), min_size=1, max_size=5))
def test_what_changed_counts_as_everything_anew_would(
    states: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]],
) -> None:
    tallies = CompileTallies()
    for wanted, placed, said in states:
        things = {
            name: cache(name, image=image, nodeSelector={"zone": zone})
            for name, (image, zone) in wanted.items()
        }
        reports = {node: keep(each) for node, each in said.items()}
        where = {node: {"labels": labels} for node, labels in placed.items()}
        tallies.update(things, where, reports)
        anew = CompileTallies()
        anew.update(things, where, reports)
        for name in things:
            assert compile_status(name, tallies, NOW) == compile_status(name, anew, NOW)


def keep(said: list[Object]) -> Object:
    (found,) = told(n=said).values()
    return found
