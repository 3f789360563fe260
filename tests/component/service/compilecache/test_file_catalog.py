"""An agent without a cluster: a CompileCache in a file, bundles in a directory, to the end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from modelcache.api.nodecache import CompileState
from modelcache.compilecache.bundles.signing import SigningKey
from tests.component.service.compilecache.place import Bench, compile_cache, run


def shown(bench: Bench, name: str = "tiny") -> Path | None:
    current = bench.root / "compile" / name / "current"
    return current.resolve() if current.is_symlink() else None


def test_a_trusted_bundle_for_this_nodes_key_is_fetched_shown_and_told(bench: Bench) -> None:
    cache = compile_cache(bench.uri)
    key = bench.key(cache)
    bundle = bench.publish(key)

    report = run(bench, cache)["tiny"]

    assert report.state is CompileState.READY
    assert report.model == "m"
    assert (report.key, report.digest) == (key.digest, bundle.digest)
    assert report.bytes == bundle.statement.archive.size
    assert shown(bench) == bench.root / "compile" / "tiny" / key.digest / bundle.digest[7:]
    envelope = (bench.root / "compile" / "tiny" / "current" / "bundle.json").read_bytes()
    assert envelope == bundle.envelope_bytes
    document = json.loads((bench.root / "node.json").read_text())
    label = document["status"]["labels"]["modelcache.dev/compile.tiny"]
    assert label == key.digest[:12]


def test_nothing_is_published_yet(bench: Bench) -> None:
    report = run(bench, compile_cache(bench.uri))["tiny"]
    assert report.state is CompileState.MISSING
    assert report.message == "nothing was published for this node's key"
    assert shown(bench) is None


def test_a_bundle_for_another_gpu_is_never_taken_and_the_report_names_the_part(
    bench: Bench,
) -> None:
    cache = compile_cache(bench.uri)
    other = bench.key(cache).model_copy(
        update={
            "accelerator": bench.key(cache).accelerator.model_copy(
                update={"vendor": "nvidia", "product": "NVIDIA-H100-80GB-HBM3"}
            )
        }
    )
    bench.publish(other)
    report = run(bench, cache)["tiny"]
    assert report.state is CompileState.MISSING
    assert "NVIDIA-H100-80GB-HBM3" in (report.message or "")
    assert shown(bench) is None


@pytest.mark.parametrize("how", ["unsigned", "by a stranger"])
def test_what_nobody_vouches_for_is_not_fetched(bench: Bench, how: str) -> None:
    cache = compile_cache(bench.uri)
    if how == "unsigned":
        bench.publish(bench.key(cache), signed=False)
    else:
        bench.publish(bench.key(cache), signed_by=SigningKey.generate())
    report = run(bench, cache)["tiny"]
    assert report.state is CompileState.FAILED
    assert "is not taken" in (report.message or "")
    assert not list((bench.root / "compile").rglob("bundle.json"))
    assert not list((bench.root / "blobs").rglob(bundle_blob(bench)))


def bundle_blob(bench: Bench) -> str:
    (envelope,) = bench.place.rglob("archive.tar.zst")
    from hashlib import sha256

    return sha256(envelope.read_bytes()).hexdigest()


def test_a_bundle_of_another_object_with_the_same_key_is_not_taken(bench: Bench) -> None:
    """Who may publish for one object, and who may write to a place, are not publishers of all."""
    mine, strange = compile_cache(bench.uri), compile_cache(bench.uri, name="second")
    key = bench.key(mine)
    assert bench.key(strange) == key
    bundle = bench.publish(key)
    assert bundle.statement.name == "tiny"
    reports = run(bench, mine, strange)
    assert reports["tiny"].state is CompileState.READY
    assert reports["second"].state is CompileState.FAILED
    assert "is a bundle of tiny, not of second" in (reports["second"].message or "")
    assert shown(bench, "second") is None
    # Nor where it lies on the node already.
    shutil.copytree(bench.root / "compile" / "tiny", bench.root / "compile" / "second", True)
    run(bench, mine, strange)
    assert shown(bench, "second") is None


def test_what_nobody_vouches_for_hides_no_good_bundle_behind_it(bench: Bench) -> None:
    """Who may write to a place, and can't sign, keeps nobody from what is good there."""
    cache = compile_cache(bench.uri)
    good = bench.publish(bench.key(cache))
    for number in range(12):
        bench.publish(bench.key(cache), f"junk {number}".encode(), signed=number % 2 > 0, name="x")
    assert run(bench, cache)["tiny"].digest == good.digest


def test_a_pinned_digest_is_enough(bench: Bench) -> None:
    cache = compile_cache(bench.uri)
    bundle = bench.publish(bench.key(cache), signed=False)
    pinned = compile_cache(bench.uri, bundles={"digests": [bundle.digest]})
    assert run(bench, pinned, trusted_keys=None)["tiny"].digest == bundle.digest
    # And no longer: what was trusted by its pin is not shown any more.
    report = run(bench, cache, trusted_keys=None)["tiny"]
    assert report.state is CompileState.FAILED
    assert shown(bench) is None


def test_what_only_a_pin_vouched_for_is_not_seeded_when_its_object_is_gone(bench: Bench) -> None:
    bundle = bench.publish(bench.key(compile_cache(bench.uri)), signed=False)
    run(bench, compile_cache(bench.uri, bundles={"digests": [bundle.digest]}))
    assert shown(bench) is not None
    run(bench)
    assert shown(bench) is None


def test_without_its_object_a_bundle_needs_a_key_that_is_trusted_still(bench: Bench) -> None:
    bench.publish(bench.key(compile_cache(bench.uri)))
    run(bench, compile_cache(bench.uri))
    run(bench)
    assert shown(bench) is not None  # pods may be about to start
    run(bench, trusted_keys=None)
    assert shown(bench) is None


def test_a_newer_generation_takes_over(bench: Bench) -> None:
    cache = compile_cache(bench.uri)
    bench.publish(bench.key(cache), b"old", day=1)
    run(bench, cache)
    newer = bench.publish(bench.key(cache), b"new", day=2)
    assert run(bench, cache)["tiny"].digest == newer.digest


def test_another_image_hides_what_was_for_the_old_one(bench: Bench) -> None:
    cache = compile_cache(bench.uri)
    bench.publish(bench.key(cache))
    run(bench, cache)
    assert shown(bench) is not None
    other = compile_cache(bench.uri, engine={"image": f"r.example/e@sha256:{'8' * 64}"})
    report = run(bench, other)["tiny"]
    assert report.state is CompileState.MISSING
    assert "image" in (report.message or "") or "identity" in (report.message or "")
    assert shown(bench) is None
    # Changed back: what is here is shown again, with nothing fetched.
    bench.place.rename(bench.folder / "away")
    assert run(bench, cache)["tiny"].state is CompileState.READY


def test_one_object_that_can_have_no_key_ends_no_round(bench: Bench) -> None:
    good = compile_cache(bench.uri)
    bundle = bench.publish(bench.key(good))
    bad = compile_cache(
        bench.uri,
        "bad",
        engine={"name": "vllm", "args": ["vllm", "serve", "m", "--tensor-parallel-size", "x"]},
    )
    away = compile_cache(bench.uri, "away", model="no-such-model")
    gone = compile_cache(f"file://{bench.folder}/no-such-place", "gone")
    reports = run(bench, good, bad, away, gone)
    assert reports["tiny"].digest == bundle.digest
    assert reports["away"].state is CompileState.PENDING
    assert "no-such-model" in (reports["away"].message or "")
    assert reports["gone"].state is CompileState.FAILED
    assert reports["gone"].reason is not None
    assert reports["bad"].state in (CompileState.PENDING, CompileState.MISSING)
