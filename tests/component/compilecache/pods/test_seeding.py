"""The init container: a process, a node's bundles, a pod's cache directory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelcache.compilecache.bundles.signing import envelope_bytes, unsigned
from modelcache.compilecache.pods import seeding
from modelcache.compilecache.pods.seeding import read_report
from modelcache.compilecache.starts import using
from tests.support.agent import COMMAND, modelcache
from tests.support.podcaches import NAME, SEED, Pod
from tests.support.trees import content


def engines_files(pod: Pod) -> dict[str, bytes]:
    found = content(pod.cache_dir).items()
    return {path: data for path, data in found if not path.startswith(".modelcache")}


def test_a_pod_is_seeded(pod: Pod) -> None:
    bundle = pod.holds(SEED)
    before = content(pod.bundles)
    said = pod.seed()
    assert bundle.digest in said
    assert engines_files(pod) == SEED
    report = read_report(pod.work)
    assert report is not None
    assert (report.how, report.digest, report.files) == ("unpacked", bundle.digest, 2)
    # A container that is started again finds it there, with what the engine added.
    pod.engine.compiles({"new": b"n"})
    assert "before" in pod.seed()
    assert engines_files(pod) == {**SEED, "new": b"n"}
    assert content(pod.bundles) == before


def test_by_its_variables_alone(pod: Pod) -> None:
    pod.holds(SEED)
    env = {
        "MODELCACHE_COMPILE_NAME": NAME,
        "MODELCACHE_COMPILE_BUNDLES": str(pod.bundles),
        "MODELCACHE_COMPILE_CACHE_DIR": str(pod.cache_dir),
        "MODELCACHE_COMPILE_WORK": str(pod.work),
    }
    ended = modelcache("compile", "seed", "-o", "json", env=env)
    assert ended.returncode == 0
    assert json.loads(ended.stdout)["how"] == "unpacked"
    assert engines_files(pod) == SEED


def damaged(pod: Pod) -> None:
    bundle = pod.holds(SEED)
    content = bytearray(bundle.archive.read_bytes())
    content[len(content) // 2] ^= 1
    bundle.archive.chmod(0o644)
    bundle.archive.write_bytes(content)


def cut(pod: Pod) -> None:
    archive = pod.holds(SEED).archive
    archive.chmod(0o644)
    archive.write_bytes(archive.read_bytes()[:-1])


def of_another_name(pod: Pod) -> None:
    pod.holds(SEED, says="other")


def leading_nowhere(pod: Pod) -> None:
    pod.holds(SEED)
    current = pod.bundles / NAME / "current"
    current.unlink()
    current.symlink_to("b/c")


def leading_out(pod: Pod) -> None:
    pod.holds(SEED, name="other")
    (pod.bundles / NAME).mkdir()
    (pod.bundles / NAME / "current").symlink_to("../other/current")


def without_an_archive(pod: Pod) -> None:
    pod.holds(SEED).archive.unlink()


def with_a_broken_envelope(pod: Pod) -> None:
    (pod.holds(SEED).directory / "bundle.json").write_text("{")


def leading_in_circles(pod: Pod) -> None:
    (pod.bundles / NAME).mkdir()
    (pod.bundles / NAME / "current").symlink_to("current")


def with_a_file_for_a_bundle(pod: Pod) -> None:
    (pod.bundles / NAME).mkdir()
    (pod.bundles / NAME / "current").write_bytes(b"")


def with_a_fifo_for_an_envelope(pod: Pod) -> None:
    envelope = pod.holds(SEED).directory / "bundle.json"
    envelope.unlink()
    os.mkfifo(envelope)


def with_a_link_for_an_archive(pod: Pod) -> None:
    archive = pod.holds(SEED).archive
    archive.rename(archive.with_name("elsewhere"))
    archive.symlink_to("elsewhere")


def without_bundles(pod: Pod) -> None:
    pod.bundles.rmdir()


def nothing(pod: Pod) -> None:
    pass


@pytest.mark.parametrize(
    "wrong",
    [
        nothing,
        without_bundles,
        damaged,
        cut,
        of_another_name,
        leading_nowhere,
        leading_out,
        without_an_archive,
        with_a_broken_envelope,
        with_a_fifo_for_an_envelope,
        with_a_link_for_an_archive,
        with_a_file_for_a_bundle,
        leading_in_circles,
    ],
)
def test_whatever_is_wrong_the_pod_starts(pod: Pod, wrong: Callable[[Pod], None]) -> None:
    wrong(pod)
    report = pod.seeding.run()
    assert report.how == "nothing"
    assert report.why
    assert content(pod.cache_dir) == {}
    assert read_report(pod.work) == report


@pytest.mark.parametrize("odd", ["a file", "a fifo"])
def test_a_cache_directory_that_is_none(pod: Pod, odd: str) -> None:
    pod.holds(SEED)
    shutil.rmtree(pod.cache_dir)
    if odd == "a file":
        pod.cache_dir.write_bytes(b"")
    else:
        os.mkfifo(pod.cache_dir)
    report = pod.seeding.run()
    assert (report.how, bool(report.why)) == ("nothing", True)
    assert "defect" not in report.why


def test_a_bundle_of_so_many_files_that_the_container_would_be_killed_is_left(pod: Pod) -> None:
    """For its memory: and then the pod would never start."""
    bundle = pod.holds(SEED)
    archive = bundle.statement.archive.model_copy(update={"files": 50_001})
    envelope = unsigned(bundle.statement.model_copy(update={"archive": archive}))
    (bundle.directory / "bundle.json").write_bytes(envelope_bytes(envelope))
    report = pod.seeding.run()
    assert report.how == "nothing"
    assert "more than 50000 files" in report.why


def test_a_process_says_so_and_ends_well(pod: Pod) -> None:
    damaged(pod)
    assert "starts without a compile cache" in pod.seed()


def test_what_is_not_ours_is_left_alone(pod: Pod) -> None:
    pod.holds(SEED)
    pod.engine.compiles({"mine": b"m"})
    assert "not empty" in pod.seed()
    assert engines_files(pod) == {"mine": b"m"}
    report = read_report(pod.work)
    assert report is not None
    assert (report.how, report.digest) == ("left", None)


def test_a_bundle_that_is_too_large_for_the_volume_is_not_unpacked(pod: Pod) -> None:
    pod.holds(SEED)
    assert "too many" in pod.seed("--size", "7000")
    assert content(pod.cache_dir) == {}
    assert "seeded" in pod.seed("--size", "1Mi")


def test_a_bundle_that_lies_there_itself(pod: Pod) -> None:
    """Baked into a root, or on shared storage, `current` may be a directory."""
    bundle = pod.holds(SEED)
    current = pod.bundles / NAME / "current"
    current.unlink()
    bundle.directory.rename(current)
    assert "seeded with" in pod.seed()
    assert engines_files(pod) == SEED


def test_one_that_is_replaced_while_it_is_opened(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    first = pod.holds(SEED)
    replaced: list[Any] = []

    def in_use(directory: Path) -> Any:
        if not replaced:
            replaced.append(pod.holds({"other": b"o"}))
            first.archive.unlink()
            (first.directory / "bundle.json").unlink()
        return using.in_use(directory)

    monkeypatch.setattr(seeding, "in_use", in_use)
    report = pod.seeding.run()
    assert report.digest == replaced[0].digest
    assert engines_files(pod) == {"other": b"o"}


def test_a_defect_of_ours_keeps_no_pod_from_starting(
    pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod.holds(SEED)
    monkeypatch.setattr(seeding, "seed", lambda *_, **__: 1 / 0)
    report = pod.seeding.run()
    assert report.how == "nothing"
    assert "ZeroDivisionError" in report.why


def test_it_takes_no_longer_than_it_may(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    pod.holds(SEED)

    def hanging(*_: Any, cancel: Any, **__: Any) -> None:
        cancel.wait(60)

    monkeypatch.setattr(seeding, "seed", hanging)
    began = time.monotonic()
    report = replace(pod.seeding, seconds=0.2).run()
    assert report.how == "nothing"
    assert time.monotonic() - began < 10


def test_what_hangs_for_ever_is_left(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read that never returns can't be cancelled: the process ends, and ends well."""
    pod.holds(SEED)
    child = os.fork()
    if not child:
        monkeypatch.setattr(seeding, "_PATIENCE_SECONDS", 0.1)
        monkeypatch.setattr(seeding, "seed", lambda *_, **__: time.sleep(60))
        replace(pod.seeding, seconds=0.1).run()
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_without_a_place_for_the_report_it_is_seeded_all_the_same(pod: Pod) -> None:
    pod.holds(SEED)
    pod.work.rmdir()
    assert "seeded with" in pod.seed()
    assert read_report(pod.work) is None


def test_a_mistake_in_the_settings_is_told(pod: Pod) -> None:
    for flags in ([], ["--name", "A b"], ["--name", "a", "--cache-dir", "relative"]):
        ended = modelcache("compile", "seed", *flags)
        assert ended.returncode == 2
        assert "modelcache:" in ended.stderr


@pytest.mark.root
def test_it_needs_no_more_than_the_engines_user_may(pod: Pod, tmp_path: Path) -> None:
    """As kubelet has it: an `emptyDir` that all may write to, bundles that are somebody else's, and
    a user without any name, home or capability."""
    pod.holds(SEED)
    for path in (pod.cache_dir, pod.work):
        path.chmod(0o777)
    for parent in (pod.folder, *pod.folder.parents):
        if parent.is_relative_to("/tmp"):
            parent.chmod(parent.stat().st_mode | 0o055)
    ended = subprocess.run(
        [
            *("setpriv", "--reuid", "54321", "--regid", "0", "--clear-groups"),
            *("--bounding-set", "-all", "--no-new-privs", "--"),
            *(COMMAND, "compile", "seed", "--name", NAME, "--bundles", pod.bundles),
            *("--cache-dir", pod.cache_dir, "--work", pod.work),
        ],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "seeded with" in ended.stdout, ended.stderr
    found = [path for path in pod.cache_dir.rglob("*") if path.is_file()]
    assert len(found) >= 2
    assert {path.stat().st_uid for path in found} == {54321}
