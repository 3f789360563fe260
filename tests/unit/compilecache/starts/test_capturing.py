"""Capturing a cache: complete, unchanged, with something new in it, or not at all."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelcache.compilecache.bundles.unpacking import unpack
from modelcache.compilecache.engines.evidence import Evidence
from modelcache.compilecache.engines.table import BUILT_IN
from modelcache.compilecache.starts import capturing
from modelcache.compilecache.starts.capturing import Captured, Patience, capture, watch
from modelcache.compilecache.starts.seeding import seed
from modelcache.compilecache.starts.seednotes import write_note
from modelcache.compilecache.trees.scanning import Limits
from modelcache.errors import Cancelled, NotCaptured, NotFound, NotQuiet, TreeTooLarge
from modelcache.transfer.cancelling import Cancel
from tests.support.archives import statement
from tests.support.seeds import bundle_of
from tests.support.trees import content, plant
from tests.unit.compilecache.engines.caches import put, put_aot, put_jit

VLLM, OTHER = BUILT_IN["vllm"], BUILT_IN["other"]
COLD = Evidence(source="log", ready=True, compiled=2)
FILES = Evidence(source="files", ready=True)
SEED = {"inductor/a.py": b"1", "inductor/b.py": b"2"}
IMPATIENT = Patience(quiet=0, look=0.001, ready=5, settle=5)


@pytest.fixture
def cache_dir(tmp_path: Path) -> Path:
    root = tmp_path / "cache"
    put_jit(root)
    put_aot(root, "rank_0_0")
    put(root, "vllm/startup_plan/plan.json")
    return root


@pytest.fixture
def into(tmp_path: Path) -> Path:
    return tmp_path / "staging"


def unpacked(captured: Captured, where: Path) -> dict[str, bytes]:
    unpack(captured.archive, statement(captured.facts), where)
    return content(where)


def test_a_cold_start_is_captured_whole(tmp_path: Path, cache_dir: Path, into: Path) -> None:
    before = content(cache_dir)
    with capture(VLLM, cache_dir, into=into, evidence=COLD) as captured:
        found = unpacked(captured, tmp_path / "out")
        assert captured.archive.name == "archive.tar.zst"
        assert os.listdir(captured.archive.parent) == ["archive.tar.zst"]
    assert found == {
        path: data
        for path, data in before.items()
        if "startup_plan" not in path and "cache_key_factors" not in path
    }
    assert captured.hashes.ranks == ("rank_0_0",)
    assert len(captured.hashes.directories) == 2
    assert "config_hash" in captured.hashes.factors
    assert (captured.seeded, captured.new_files, captured.odd) == (None, len(found), ())
    assert captured.evidence == COLD
    assert captured.facts.files == len(captured.manifest.files) == len(found)
    assert content(cache_dir) == before
    assert os.listdir(into) == []


def test_the_same_tree_gives_the_same_archive(cache_dir: Path, into: Path) -> None:
    with capture(VLLM, cache_dir, into=into, evidence=COLD) as one:
        with capture(VLLM, cache_dir, into=into, evidence=COLD) as other:
            assert one.facts == other.facts
            assert one.archive != other.archive
        assert one.archive.exists()


def test_gzip_is_named_so(cache_dir: Path, into: Path) -> None:
    with capture(VLLM, cache_dir, into=into, evidence=COLD, compression="gzip") as captured:
        assert captured.archive.name == "archive.tar.gz"


@pytest.mark.parametrize(
    ("evidence", "told"),
    [
        (Evidence(source="log", loaded=2), "only loaded"),
        (Evidence(source="log", compiled=1, loaded=1, load_failures=1), "could not load 1"),
        (Evidence(source="log", compiled=1, save_failures=3), "could not save 3"),
    ],
)
def test_a_start_that_only_loaded_or_failed_is_not_captured(
    cache_dir: Path, into: Path, evidence: Evidence, told: str
) -> None:
    with pytest.raises(NotCaptured, match=told):
        capture(VLLM, cache_dir, into=into, evidence=evidence)
    assert not into.exists()


def test_a_start_that_loaded_a_part_and_compiled_the_rest_is(cache_dir: Path, into: Path) -> None:
    evidence = Evidence(source="log", compiled=1, loaded=2)
    with capture(VLLM, cache_dir, into=into, evidence=evidence) as captured:
        assert captured.evidence == evidence


def test_a_cache_that_is_not_complete_is_not_captured(cache_dir: Path, into: Path) -> None:
    with pytest.raises(NotQuiet, match="only 1 of 2 ranks"):
        capture(VLLM, cache_dir, into=into, evidence=COLD, ranks=2)
    (cache_dir / "vllm" / "model.tmp").write_bytes(b"")
    with pytest.raises(NotQuiet, match="still being written"):
        capture(VLLM, cache_dir, into=into, evidence=COLD)
    assert not into.exists()


def test_an_empty_cache_is_never_an_empty_success(tmp_path: Path, into: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotQuiet, match="nothing was compiled"):
        capture(OTHER, tmp_path / "empty", into=into, evidence=FILES)
    with pytest.raises(NotFound):
        capture(OTHER, tmp_path / "none", into=into, evidence=FILES)


def test_links_are_left_out_and_told(cache_dir: Path, into: Path) -> None:
    (cache_dir / "vllm" / "torch_compile_cache" / "latest").symlink_to("x")
    with capture(VLLM, cache_dir, into=into, evidence=COLD) as captured:
        assert [odd.what for odd in captured.odd] == ["link"]
        assert all("latest" not in file.path for file in captured.manifest.files)


@pytest.mark.root
def test_a_cache_with_other_users_files_is_not_captured(cache_dir: Path, into: Path) -> None:
    with pytest.raises(NotCaptured, match=r"belongs to another user than the engine's \(12345\)"):
        capture(VLLM, cache_dir, into=into, evidence=COLD, owner=12345)
    os.chown(next(cache_dir.rglob("model")), 12345, 12345)
    with pytest.raises(NotCaptured, match="model belongs to another user"):
        capture(VLLM, cache_dir, into=into, evidence=COLD)
    for file in cache_dir.rglob("*"):
        os.chown(file, 12345, 12345)
    with capture(VLLM, cache_dir, into=into, evidence=COLD, owner=12345) as captured:
        assert captured.facts.files == 4


def test_a_cache_of_which_a_part_can_be_in_no_bundle_is_not_captured(
    cache_dir: Path, into: Path
) -> None:
    put(cache_dir, "vllm/torch_compile_cache/a\nb")
    with pytest.raises(NotCaptured, match="has a name that can't be used"):
        capture(VLLM, cache_dir, into=into, evidence=COLD)


def test_limits_hold(cache_dir: Path, into: Path) -> None:
    with pytest.raises(TreeTooLarge):
        capture(VLLM, cache_dir, into=into, evidence=COLD, limits=Limits(files=3))
    assert not into.exists()


def _at(monkeypatch: pytest.MonkeyPatch, name: str, act: Callable[[], object]) -> None:
    """Have something done just before a step of a capture."""
    real = getattr(capturing, name)

    def call(*given: Any, **named: Any) -> Any:
        act()
        return real(*given, **named)

    monkeypatch.setattr(capturing, name, call)


@pytest.mark.parametrize("step", ["copy_tree", "hashes_of"])
@pytest.mark.parametrize("path", ["vllm/torch_compile_cache/new", "vllm/model.123.tmp"])
def test_what_changes_meanwhile_is_not_captured(
    cache_dir: Path, into: Path, monkeypatch: pytest.MonkeyPatch, step: str, path: str
) -> None:
    """A new file makes another state; a temporary one is unfinished."""
    _at(monkeypatch, step, lambda: (cache_dir / path).write_bytes(b"new"))
    with pytest.raises(NotQuiet):
        capture(VLLM, cache_dir, into=into, evidence=COLD)
    assert os.listdir(into) == []


def test_a_file_that_changes_while_it_is_copied_is_not_captured(
    cache_dir: Path, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = next(cache_dir.rglob("computation_graph.py"))
    _at(monkeypatch, "copy_tree", lambda: file.write_bytes(b"other"))
    with pytest.raises(NotQuiet, match="changed while it was read"):
        capture(VLLM, cache_dir, into=into, evidence=COLD)
    assert os.listdir(into) == []


def test_a_capture_can_be_cancelled(
    cache_dir: Path, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancel = Cancel()
    _at(monkeypatch, "copy_tree", cancel.set)
    _at(monkeypatch, "hashes_of", lambda: pytest.fail("all of it was copied"))
    with pytest.raises(Cancelled):
        capture(VLLM, cache_dir, into=into, evidence=COLD, cancel=cancel)
    assert os.listdir(into) == []


class TestSeeded:
    """Captures of what was seeded."""

    @pytest.fixture
    def seeded(self, tmp_path: Path) -> tuple[Path, str]:
        bundle = bundle_of(tmp_path / "made", SEED)
        seed(bundle, tmp_path / "seeded")
        return tmp_path / "seeded", bundle.digest

    @pytest.mark.parametrize("evidence", [FILES, COLD])
    def test_without_anything_new_it_is_not_captured(
        self, seeded: tuple[Path, str], into: Path, evidence: Evidence
    ) -> None:
        with pytest.raises(NotCaptured, match="nothing beyond what was seeded"):
            capture(OTHER, seeded[0], into=into, evidence=evidence)

    def test_written_again_with_what_it_had_is_nothing_new(
        self, seeded: tuple[Path, str], into: Path
    ) -> None:
        os.utime(seeded[0] / "inductor" / "a.py", ns=(0, 12345))
        with pytest.raises(NotCaptured):
            capture(OTHER, seeded[0], into=into, evidence=FILES)

    def test_what_grew_is_captured_whole(self, seeded: tuple[Path, str], into: Path) -> None:
        cache_dir, digest = seeded
        put(cache_dir, "inductor/c.py")
        (cache_dir / "inductor" / "a.py").write_bytes(b"other")
        with capture(OTHER, cache_dir, into=into, evidence=FILES) as captured:
            assert (captured.seeded, captured.new_files) == (digest, 2)
            paths = [file.path for file in captured.manifest.files]
        assert paths == ["inductor/a.py", "inductor/b.py", "inductor/c.py"]

    def test_what_was_captured_is_not_captured_again(self, tmp_path: Path, into: Path) -> None:
        cache_dir = plant(tmp_path / "cold", SEED)
        with capture(OTHER, cache_dir, into=into, evidence=FILES) as captured:
            write_note(cache_dir, statement(captured.facts).digest, captured.manifest)
        with pytest.raises(NotCaptured):
            capture(OTHER, cache_dir, into=into, evidence=FILES)


class TestWatch:
    """Waiting for the moment."""

    def watch(self, cache_dir: Path, into: Path, **options: Any) -> Captured:
        given: dict[str, Any] = {"evidence": lambda: COLD, "patience": IMPATIENT}
        return watch(VLLM, cache_dir, into=into, **given | options)

    def test_a_quiet_cache_is_captured(self, cache_dir: Path, into: Path) -> None:
        told = list[str]()
        with self.watch(cache_dir, into, tell=told.append) as captured:
            assert captured.facts.files == 4
        assert told == ["waiting until nothing changes for 0 s"]

    def test_each_reason_why_not_yet_is_told_once(self, cache_dir: Path, into: Path) -> None:
        seen = iter([replace_ready(False)] * 3 + [COLD] * 99)
        model = next(cache_dir.rglob("model"))
        model.unlink()
        (model.parent / "other").write_bytes(b"x")
        told = list[str]()

        def tell(why: str) -> None:
            told.append(why)
            if "has no model" in why:
                model.write_bytes(b"x")

        with self.watch(cache_dir, into, evidence=lambda: next(seen), tell=tell):
            pass
        assert told[0] == "the engine is not ready yet"
        assert "has no model" in told[1]
        assert told[2:] in ([], ["waiting until nothing changes for 0 s"])

    def test_a_directory_that_comes_later_is_waited_for(self, tmp_path: Path, into: Path) -> None:
        def tell(why: str) -> None:
            if "there is no directory" in why:
                put_aot(tmp_path / "later", "rank_0_0")

        with self.watch(tmp_path / "later", into, tell=tell) as captured:
            assert captured.facts.files == 1

    def test_changes_before_it_was_ready_do_not_count(self, cache_dir: Path, into: Path) -> None:
        """The window begins with ready: two looks are needed from then on."""
        seen = iter([COLD, replace_ready(False), COLD, COLD, COLD])
        told = list[str]()
        with self.watch(cache_dir, into, evidence=lambda: next(seen), tell=told.append):
            pass
        assert told == [
            "waiting until nothing changes for 0 s",
            "the engine is not ready yet",
            "waiting until nothing changes for 0 s",
        ]

    def test_a_disturbed_capture_is_tried_again(
        self, cache_dir: Path, into: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        left = 2

        def disturb() -> None:
            nonlocal left
            if left:
                left -= 1
                put(cache_dir, f"vllm/torch_compile_cache/new{left}")

        _at(monkeypatch, "hashes_of", disturb)
        told = list[str]()
        with self.watch(cache_dir, into, tell=told.append) as captured:
            assert captured.facts.files == 6
        assert sum("changed while it was copied" in why for why in told) == 2

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            ({"evidence": lambda: replace_ready(False)}, "within 0 s: the engine is not ready yet"),
            ({"ranks": 2}, "within 0 s: only 1 of 2 ranks"),
        ],
    )
    def test_it_ends_with_the_reason(
        self, cache_dir: Path, into: Path, options: dict[str, Any], told: str
    ) -> None:
        patience = replace(IMPATIENT, ready=0, settle=0)
        with pytest.raises(NotCaptured, match=told):
            self.watch(cache_dir, into, patience=patience, **options)

    def test_once_ready_only_the_second_patience_counts(self, cache_dir: Path, into: Path) -> None:
        now = 0.0

        class Ticking(Cancel):
            def wait(self, seconds: float) -> None:
                nonlocal now
                now += 60

        patience = replace(IMPATIENT, ready=1000, settle=100, quiet=1e9)
        with pytest.raises(NotCaptured, match="within 100 s: waiting until nothing changes"):
            self.watch(
                cache_dir,
                into,
                patience=patience,
                evidence=lambda: replace_ready(now > 300),
                cancel=Ticking(),
                clock=lambda: now,
            )
        assert 400 <= now <= 500

    @pytest.mark.parametrize(("slowness", "pause"), [(0.0, 5.0), (1.0, 20.0), (100.0, 45.0)])
    def test_slow_looks_are_further_apart_but_twice_in_a_window(
        self, cache_dir: Path, into: Path, slowness: float, pause: float
    ) -> None:
        waits = list[float]()

        class Noting(Cancel):
            def wait(self, seconds: float) -> None:
                waits.append(seconds)
                self.set()
                self.check()

        with pytest.raises(Cancelled):
            self.watch(
                cache_dir,
                into,
                evidence=lambda: replace_ready(False),
                patience=Patience(ready=1e9),
                cancel=Noting(),
                clock=itertools.count(0, slowness).__next__,
            )
        assert waits == [pause]

    def test_what_is_slow_to_be_seen_of_the_start_is_a_slow_look(
        self, cache_dir: Path, into: Path
    ) -> None:
        now, waits = 0.0, list[float]()

        class Noting(Cancel):
            def wait(self, seconds: float) -> None:
                waits.append(seconds)
                self.set()
                self.check()

        def evidence() -> Evidence:
            nonlocal now
            now += 1.0  # the files of a large tree, say
            return replace_ready(False)

        with pytest.raises(Cancelled):
            self.watch(
                cache_dir,
                into,
                evidence=evidence,
                patience=Patience(ready=1e9),
                cancel=Noting(),
                clock=lambda: now,
            )
        assert waits == [20.0]

    def test_a_start_that_only_loaded_ends_it_at_once(self, cache_dir: Path, into: Path) -> None:
        loaded = Evidence(source="log", ready=True, loaded=1)
        with pytest.raises(NotCaptured, match="only loaded"):
            self.watch(
                cache_dir,
                into,
                evidence=lambda: loaded,
                patience=replace(IMPATIENT, quiet=1e9, settle=0),
            )

    def test_quiet_without_anything_new_ends_it(self, tmp_path: Path, into: Path) -> None:
        seed(bundle_of(tmp_path / "made", {"inductor/a.py": b"1"}), tmp_path / "seeded")
        with pytest.raises(NotCaptured, match="nothing beyond"):
            watch(
                OTHER,
                tmp_path / "seeded",
                into=into,
                evidence=lambda: FILES,
                patience=IMPATIENT,
            )

    def test_it_can_be_cancelled_while_it_waits(self, cache_dir: Path, into: Path) -> None:
        cancel = Cancel()
        timer = threading.Timer(0.01, cancel.set)
        with pytest.raises(Cancelled):
            self.watch(
                cache_dir,
                into,
                cancel=cancel,
                patience=replace(IMPATIENT, look=60),
                tell=lambda _: timer.start(),
            )
        timer.join()


def replace_ready(ready: bool) -> Evidence:
    return COLD.model_copy(update={"ready": ready})
