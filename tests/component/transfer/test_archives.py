"""Images and packed artifacts: fetched from a real registry, unpacked, and not fetched again."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import pytest

from modelcache.api import Manifest
from modelcache.errors import (
    BrokenArchive,
    Cancelled,
    ChecksumMismatch,
    InsufficientDisk,
    NotFound,
    UnsafeFormat,
    UnsafePath,
)
from modelcache.origins.protocol import Compression
from modelcache.service.progress import ProgressBook
from modelcache.store import Partial, reservations
from modelcache.transfer import Cancel, layering
from modelcache.transfer.events import BytesReceived, BytesUnpacked, FetchStarted, Unpacking
from tests.component.transfer.conftest import MakeFetching
from tests.support.fetching import Fetching
from tests.support.registry import OCI_LAYER, TITLE, Registry
from tests.support.store import check
from tests.support.tars import entry, files, folder, hard, layer, link, packed, tar

MIB = 1024 * 1024
MODEL = {
    "config.json": b"{}",
    "empty.txt": b"",
    "a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p/deep.txt": b"deep",
    "模型/déjà vu +%20#&=@.json": b"unicode",
    "x" * 200 + "/" + "y" * 200: b"long names",
}


@pytest.fixture
def repository(tmp_path: Path) -> str:
    return f"models/{sha256(str(tmp_path).encode()).hexdigest()[:20]}"


def weights(size: int, seed: int = 0) -> bytes:
    """Content that no compression makes smaller."""
    import random

    return random.Random(seed).randbytes(size)


def shown(fetching: Fetching, name: str = "m") -> dict[str, bytes]:
    """What is in the plain view."""
    view = fetching.store.layout.current(name).resolve()
    paths = [path for path in view.rglob("*") if not path.is_dir()]
    assert not any(path.is_symlink() for path in paths)
    return {str(path.relative_to(view)): path.read_bytes() for path in paths}


def names(manifest: Manifest) -> list[str]:
    return [file.path for file in manifest.files]


def archives_left(fetching: Fetching) -> list[str]:
    """Blobs that no model has."""
    used = {file.sha256 for m in fetching.store.manifests() for file in m.files}
    blobs = [p for p in fetching.store.layout.blobs.glob("*/*") if p.name not in used]
    return [blob.name for blob in blobs]


def promises(fetching: Fetching, most: int | None = None) -> list[int]:
    """The bytes that are asked for from now on; each at most so many, as of a disk with no more."""
    asked: list[int] = []

    def check(needed: int, files: int, what: str) -> None:
        asked.append(needed)
        if most is not None and needed > most:
            raise InsufficientDisk(f"{what} is too large", needed=needed)

    fetching.store.space._check = check  # type: ignore[method-assign]
    return asked


def unfinished(fetching: Fetching) -> list[str]:
    """What is left of work in progress, but for what may be of use."""
    ingest = fetching.store.layout.ingest
    paths = [p for p in ingest.rglob("*") if p.is_file() and p.parent.name != "listings"]
    return [str(path.relative_to(ingest)) for path in paths if path != ingest / "lock"]


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_an_image_is_shown_as_the_files_in_its_models_folder(
    fetching: Fetching, registry: Registry, repository: str, compression: Compression
) -> None:
    model = {**MODEL, "model.safetensors": weights(3 * MIB + 17)}
    outside = entry("etc/passwd", b"root"), entry("models-too/x", b"no"), entry("model", b"no")
    digest = registry.push_image(
        repository,
        layer(tar(*outside), compression),
        layer(files(model), compression),
    )
    manifest = fetching.fetch("m", registry.uri(repository))
    assert shown(fetching) == model
    assert manifest.revision == manifest.snapshot == digest.removeprefix("sha256:")
    by_path = {file.path: file for file in manifest.files}
    assert by_path["config.json"].origin_path == "models/config.json"
    # As for any other file: what `verify` reads back, chunk by chunk.
    assert fetching.store.verify(manifest) == []
    assert len(by_path["model.safetensors"].chunks) == 1
    assert archives_left(fetching) == []
    check(fetching.store)
    assert fetching.fetch("m", registry.uri(repository, f"@{digest}")).revision == manifest.revision


def test_large_files_have_a_checksum_for_each_chunk(
    fetching: Fetching, registry: Registry, repository: str
) -> None:
    registry.push_image(repository, layer(files({"w": weights(33 * MIB + 1)}), "none"))
    (file,) = fetching.fetch("m", registry.uri(repository)).files
    assert len(file.chunks) == 3
    blob = fetching.store.blobs.path(file.sha256)
    blob.chmod(0o644)
    with blob.open("r+b") as damaged:
        damaged.seek(20 * MIB)
        damaged.write(b"rot")
    (damage,) = fetching.store.verify(fetching.store.snapshots("m")[0])
    assert damage.ranges == ((16 * MIB, 32 * MIB),)


def test_later_layers_hide_what_earlier_ones_have(
    fetching: Fetching, registry: Registry, repository: str
) -> None:
    registry.push_image(
        repository,
        layer(files({"a": b"1", "b": b"1", "c/x": b"1", "d/x": b"1", "d/y": b"1", "e": b"1"})),
        layer(
            tar(
                entry("models/d/new", b"2"),  # before the whiteout, and kept all the same
                entry("models/a", b"2"),
                entry("models/.wh.b"),
                entry("models/.wh.c"),
                entry("models/d/.wh..wh..opq"),
                folder("models/e"),
                entry("models/e/f", b"2"),
            )
        ),
    )
    fetching.fetch("m", registry.uri(repository))
    assert shown(fetching) == {"a": b"2", "d/new": b"2", "e/f": b"2"}


@pytest.mark.parametrize("whiteout", [".wh.models", ".wh..wh..opq", "models/.wh..wh..opq"])
def test_a_layer_may_take_all_of_the_models_away(
    fetching: Fetching, registry: Registry, repository: str, whiteout: str
) -> None:
    above = tar(entry("models/new", b"2"), entry(whiteout))
    registry.push_image(repository, layer(files({"old": b"1"})), layer(above))
    fetching.fetch("m", registry.uri(repository))
    assert shown(fetching) == {"new": b"2"}


def test_links_are_shown_as_what_they_lead_to(
    fetching: Fetching, registry: Registry, repository: str
) -> None:
    """As of a Hugging Face cache in an image, whose snapshots are links."""
    big = weights(2 * MIB)
    registry.push_image(
        repository,
        layer(tar(entry("models/blobs/0", big), entry("models/blobs/1", b"{}"))),
        layer(
            tar(
                link("models/snapshots/abc/model.safetensors", "../../blobs/0"),
                link("models/snapshots/abc/config.json", "/models/blobs/1"),
                link("models/latest", "snapshots/abc"),
                hard("models/again", "models/blobs/0"),
            )
        ),
    )
    fetching.fetch("m", registry.uri(repository))
    both = {"model.safetensors": big, "config.json": b"{}"}
    assert shown(fetching) == {
        "blobs/0": big,
        "blobs/1": b"{}",
        "again": big,
        **{f"snapshots/abc/{name}": content for name, content in both.items()},
        **{f"latest/{name}": content for name, content in both.items()},
    }
    assert len(list(fetching.store.layout.blobs.glob("*/*"))) == 2


def test_a_sparse_file_is_whole_again(
    fetching: Fetching, registry: Registry, repository: str, tmp_path: Path
) -> None:
    """GNU tar --sparse: only what isn't zeros is in the archive."""
    sparse = tmp_path / "models" / "sparse"
    sparse.parent.mkdir()
    with sparse.open("wb") as file:
        file.write(b"begin")
        file.seek(20 * MIB)
        file.write(b"end")
    command = ["tar", "-C", str(tmp_path), "--sparse", "-cf", "-", "models"]
    content = subprocess.run(command, capture_output=True, check=True).stdout
    assert len(content) < MIB
    registry.push_image(repository, layer(content, "none"))
    fetching.fetch("m", registry.uri(repository))
    assert shown(fetching) == {"sparse": sparse.read_bytes()}


def test_an_image_that_buildah_made(
    fetching: Fetching, registry: Registry, repository: str, tmp_path: Path
) -> None:
    """The tool that most modelcars are made with; Docker's types, and OCI's."""
    model = {"config.json": b"{}", "a/model.safetensors": weights(MIB), "Ünïcödé": b"x"}
    for path, content in model.items():
        place = tmp_path / "models" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    # Its paths are not to be long.
    with tempfile.TemporaryDirectory(prefix="b-") as folder:
        storage = ["--root", f"{folder}/root", "--runroot", f"{folder}/run"]

        def run(*command: str) -> str:
            return subprocess.run(
                ["buildah", "--storage-driver", "vfs", *storage, *command],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            ).stdout.strip()

        container = run("from", "scratch")
        run("copy", "--quiet", container, str(tmp_path / "models"), "/models")
        for form in ("oci", "docker"):
            run("commit", "--quiet", "--format", form, container, form)
            where = registry.uri(repository, f":{form}").replace("oci://", "docker://")
            run("push", "--quiet", "--tls-verify=false", form, where)
            fetching.fetch(form, registry.uri(repository, f":{form}"))
            assert shown(fetching, form) == model


# Selection


def test_include_and_exclude_are_about_names_in_the_archive(
    fetching: Fetching, registry: Registry, repository: str
) -> None:
    left_out = weights(MIB, seed=1)
    given = {"a.safetensors": b"a", "b.safetensors": left_out, "sub/c.safetensors": b"c", "d": b""}
    registry.push_image(repository, layer(files(given)))
    uri = registry.uri(repository)
    some = fetching.fetch("m", uri, include=("*.safetensors",), exclude=("b*",))
    assert names(some) == ["a.safetensors", "sub/c.safetensors"]
    assert not fetching.store.blobs.has(sha256(left_out).hexdigest(), MIB)
    others = fetching.fetch("m", uri, include=("b*",))
    assert names(others) == ["b.safetensors"]
    every = fetching.fetch("m", uri)
    # Of each selection a snapshot of its own, known by its name before the files are.
    assert len({some.snapshot, others.snapshot, every.snapshot}) == 3
    assert every.snapshot == every.revision
    assert all(m.snapshot.startswith(f"{every.revision}-") for m in (some, others))
    with pytest.raises(NotFound, match=r"has no file that include 'nothing\*' leave"):
        fetching.fetch("m", uri, include=("nothing*",))
    assert archives_left(fetching) == []


def test_what_a_selected_link_leads_to_is_unpacked_too(
    fetching: Fetching, registry: Registry, repository: str
) -> None:
    content = [entry("models/blobs/0", b"weights"), entry("models/blobs/1", b"other")]
    registry.push_image(
        repository, layer(tar(*content, link("models/model.safetensors", "blobs/0")))
    )
    fetching.fetch("m", registry.uri(repository), include=("*.safetensors",))
    assert shown(fetching) == {"model.safetensors": b"weights"}
    assert not fetching.store.blobs.has(sha256(b"other").hexdigest(), 5)


def test_formats_that_can_run_code_are_left_out_or_refused(
    fetching: Fetching, registry: Registry, repository: str
) -> None:
    registry.push_image(repository, layer(files({"a.bin": b"pickle", "a.safetensors": b"safe"})))
    fetching.fetch("m", registry.uri(repository))
    assert shown(fetching) == {"a.safetensors": b"safe"}
    registry.push_image(repository, layer(files({"a.bin": b"pickle"})), tag="v2")
    with pytest.raises(UnsafeFormat, match=r"a\.bin"):
        fetching.fetch("m", registry.uri(repository, ":v2"))
    allowed = fetching.fetch("m", registry.uri(repository, ":v2"), allow_unsafe_formats=True)
    assert names(allowed) == ["a.bin"]


# Artifacts


@pytest.mark.parametrize("prefix", ["application/vnd.cncf.model.", "application/vnd.cnai.model."])
def test_a_modelpack_artifact_of_raw_and_packed_layers(
    fetching: Fetching, registry: Registry, repository: str, prefix: str
) -> None:
    maker = prefix.removeprefix("application/vnd.").removesuffix(".model.")
    named = f"org.{maker}.model.filepath"
    raw = weights(MIB)
    code = tar(entry("code/run.py", b"print()"), entry("code/.wh.x", b"no"))
    registry.push_artifact(
        repository,
        (raw, f"{prefix}weight.v1.raw", {named: "weights/model.safetensors"}),
        (packed(code, "gzip"), f"{prefix}code.v1.tar+gzip", {named: "code"}),
        (packed(files({"README.md": b"#"}, ""), "zstd"), f"{prefix}doc.v1.tar+zstd", {}),
        (files({"config.json": b"{}"}, "./"), f"{prefix}weight.config.v1.tar", {named: "c"}),
        artifact_type=f"{prefix}manifest.v1+json",
    )
    fetching.fetch("m", registry.uri(repository))
    assert shown(fetching) == {
        "weights/model.safetensors": raw,
        "code/run.py": b"print()",
        "README.md": b"#",
        "config.json": b"{}",
    }
    assert archives_left(fetching) == []


def test_a_directory_that_oras_packed_and_a_tar_that_is_a_file(
    fetching: Fetching, registry: Registry, repository: str
) -> None:
    directory = packed(files({"x/a": b"1", "x/b": b"2"}, ""), "gzip")
    unpack = {TITLE: "x", "io.deis.oras.content.unpack": "true"}
    data = tar(entry("inner", b""))
    registry.push_artifact(
        repository,
        (directory, f"{OCI_LAYER}+gzip", unpack),
        (data, OCI_LAYER, {TITLE: "data.tar"}),
    )
    fetching.fetch("m", registry.uri(repository))
    assert shown(fetching) == {"x/a": b"1", "x/b": b"2", "data.tar": data}


@pytest.mark.parametrize("order", [("image", "artifact"), ("artifact", "image")])
def test_an_archive_that_is_both_a_layer_of_an_image_and_an_artifact(
    fetching: Fetching, registry: Registry, repository: str, order: tuple[str, str]
) -> None:
    """What an entry is known by doesn't depend on the folder that is looked into."""
    first, shards = weights(1000, 9), {f"shard{n}": weights(1000, n) for n in range(3)}
    entries = [entry("first", first), *(entry(f"models/{n}", c) for n, c in shards.items())]
    both, media_type = layer(tar(*entries))
    registry.push_image(repository, (both, media_type), tag="image")
    unpack = {TITLE: "x", "io.deis.oras.content.unpack": "true"}
    registry.push_artifact(repository, (both, media_type, unpack), tag="artifact")
    for tag in order:
        fetching.fetch(tag, registry.uri(repository, f":{tag}"))
    assert shown(fetching, "image") == shards
    whole = {f"models/{name}": shard for name, shard in shards.items()}
    assert shown(fetching, "artifact") == {"first": first, **whole}


# Nothing twice


def test_what_the_store_has_is_neither_fetched_nor_unpacked_again(
    fetching: Fetching, make_fetching: MakeFetching, registry: Registry, repository: str
) -> None:
    base, big = layer(tar(entry("bin/sh", weights(MIB)))), layer(files({"w": weights(3 * MIB)}))
    registry.push_image(repository, base, big)
    registry.push_image(repository, base, big, layer(files({"config.json": b"{}"})), tag="v2")
    fetching.fetch("m", registry.uri(repository))
    assert fetching.received > 4 * MIB
    # Another program, another image, two layers that are known.
    later = make_fetching()
    later.fetch("other", registry.uri(repository, ":v2"))
    assert later.received < 1000
    assert sum(event.size for event in later.told(BytesUnpacked)) < 1000
    assert shown(later, "other")["config.json"] == b"{}"
    # Evicted and wanted again, while the other still has the content.
    later.store.evict("m")
    before = later.received
    later.fetch("m", registry.uri(repository))
    assert later.received == before


def test_what_was_evicted_comes_again(
    fetching: Fetching, registry: Registry, repository: str
) -> None:
    registry.push_image(repository, layer(files({"w": weights(MIB), "c": b"{}"})))
    for _ in range(2):
        fetching.fetch("m", registry.uri(repository))
        assert sorted(shown(fetching)) == ["c", "w"]
        fetching.store.evict("m")
        assert list(fetching.store.layout.blobs.glob("*/*")) == []
    assert fetching.received > 2 * MIB


def test_two_models_at_once_of_the_same_layers(
    fetching: Fetching, registry: Registry, repository: str
) -> None:
    content = {f"{n}.safetensors": weights(MIB, n) for n in range(4)}
    registry.push_image(repository, *(layer(files({n: c})) for n, c in content.items()))
    uri = registry.uri(repository)
    one = fetching.in_background("one", uri)
    two = fetching.in_background("two", uri)
    some = fetching.in_background("some", uri, include=("0*",))
    for background in (one, two, some):
        background.result()
    assert shown(fetching, "one") == shown(fetching, "two") == content
    assert list(shown(fetching, "some")) == ["0.safetensors"]
    assert archives_left(fetching) == []
    assert unfinished(fetching) == []


def test_an_archive_stays_as_long_as_another_selection_needs_it(
    fetching: Fetching, registry: Registry, repository: str
) -> None:
    content = {f"{n}.safetensors": weights(MIB, n) for n in range(3)}
    layers = [layer(files({n: c, f"{n}.json": b"{}"})) for n, c in content.items()]
    registry.push_image(repository, *layers)
    fetched, go_on = threading.Event(), threading.Event()

    def follow(event: object) -> None:
        if isinstance(event, Unpacking) and event.model == "slow":
            fetched.set()
            assert go_on.wait(30)

    fetching.on_event = follow
    slow = fetching.in_background("slow", registry.uri(repository), include=("*.safetensors",))
    assert fetched.wait(30)
    fetching.fetch("quick", registry.uri(repository), include=("*.json",))
    go_on.set()
    slow.result()
    assert fetching.received == sum(len(packed) for packed, _ in layers)
    assert shown(fetching, "slow") == content
    assert archives_left(fetching) == []
    assert unfinished(fetching) == []


def test_after_a_kill_in_the_middle_of_unpacking_nothing_is_fetched(
    make_fetching: MakeFetching, tmp_path: Path, registry: Registry, repository: str
) -> None:
    content = {f"{n}.safetensors": weights(2 * MIB, n) for n in range(3)}
    registry.push_image(repository, layer(files(content)))
    command = [sys.executable, "-m", "tests.support.unpackwork"]
    with subprocess.Popen(
        [*command, str(tmp_path / "root"), registry.uri(repository), "1.safetensors"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
        env=dict(os.environ),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "unpacked 1.safetensors\n"
        process.kill()
    later = make_fetching()
    assert later.store.manifests() == []
    digests = [sha256(content[f"{n}.safetensors"]).hexdigest() for n in (0, 1)]
    blobs = [later.store.blobs.path(digest) for digest in digests]
    inodes = [blob.stat().st_ino for blob in blobs]
    promised = promises(later)
    later.fetch("m", registry.uri(repository))
    assert later.received == 0
    # Nor is what was unpacked then written again, or asked for room.
    assert [blob.stat().st_ino for blob in blobs] == inodes
    assert 2 * MIB <= sum(promised) < 3 * MIB
    assert shown(later) == content
    assert archives_left(later) == []
    later.store.sweep(older_than=0)
    assert unfinished(later) == []


def test_an_archive_that_a_kill_left_behind_is_removed(
    fetching: Fetching, registry: Registry, repository: str
) -> None:
    content = layer(files({"w": weights(MIB)}))
    registry.push_image(repository, content)
    fetching.fetch("one", registry.uri(repository))
    # The kill came between its listing and its removal.
    blob = fetching.store.blobs.path(sha256(content[0]).hexdigest())
    blob.parent.mkdir(exist_ok=True)
    blob.write_bytes(content[0])
    fetching.fetch("two", registry.uri(repository))
    assert archives_left(fetching) == []


def test_stopping_while_it_unpacks(fetching: Fetching, registry: Registry, repository: str) -> None:
    registry.push_image(repository, layer(files({"a": b"1", "w": weights(8 * MIB)})))
    cancel = Cancel()
    fetching.on_event = lambda event: cancel.set() if isinstance(event, Unpacking) else None
    with pytest.raises(Cancelled):
        fetching.fetch("m", registry.uri(repository), cancel=cancel)
    before = fetching.received
    fetching.on_event = lambda _: None
    fetching.fetch("m", registry.uri(repository))
    assert fetching.received == before


# Progress


def test_progress_is_of_what_is_fetched_and_then_of_what_is_unpacked(
    fetching: Fetching, registry: Registry, repository: str
) -> None:
    content = layer(files({"w": weights(3 * MIB)}))
    registry.push_image(repository, content)
    size = len(content[0])
    book, seen = ProgressBook(), list[tuple[bool, int, int]]()

    def follow(event: object) -> None:
        book(event)  # type: ignore[arg-type]
        progress = book.of("m")
        if progress is not None and isinstance(event, BytesReceived | BytesUnpacked):
            seen.append((progress.unpacking, progress.done, progress.total))

    fetching.on_event = follow
    fetching.fetch("m", registry.uri(repository))
    assert [event.size for event in fetching.told(FetchStarted)] == [size]
    assert {total for _, _, total in seen} == {size}
    fetched = [done for unpacking, done, _ in seen if not unpacking]
    assert fetched == sorted(fetched)
    assert fetched[-1] == size
    unpacked = [done for unpacking, done, _ in seen if unpacking]
    assert unpacked == sorted(unpacked)
    assert unpacked[-1] == size
    assert book.succeeded("m")


# What is refused


def refused(
    fetching: Fetching, registry: Registry, repository: str, *entries: tuple[object, bytes]
) -> None:
    registry.push_image(repository, layer(tar(*entries)))  # type: ignore[arg-type]
    fetching.fetch("m", registry.uri(repository))


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([entry("models/a/../x", b"evil")], "'x' has a name in an archive that may lead elsewhere"),
        ([entry("x/../../models/x", b"evil")], "'x' has a name in an archive that may lead"),
        ([link("models/x", "../../etc/passwd")], "'x' is a link .* leads out"),
        ([link("models/x", "/etc/passwd")], "'x' is a link .* leads out"),
        ([link("models/x", "gone")], "'x' is a link to 'gone', where no file is"),
        ([hard("models/x", "etc/passwd"), entry("etc/passwd", b"")], "hard link .* leads out"),
        ([entry("models/x", type=b"3", devmajor=1, devminor=3)], "'x' is neither a file"),
        ([entry("models/a\\b", b"evil")], "has the character"),
        ([entry("models/A", b"1"), entry("models/a", b"2")], "one name where case is ignored"),
        ([link("models/x", "/etc"), entry("models/x/y", b"evil")], "which is no folder"),
    ],
)
def test_hostile_images_are_refused_and_leave_nothing(
    fetching: Fetching,
    registry: Registry,
    repository: str,
    tmp_path: Path,
    entries: list[tuple[object, bytes]],
    said: str,
) -> None:
    with pytest.raises(UnsafePath, match=said):
        refused(fetching, registry, repository, *entries, entry("models/good", b"good"))
    assert fetching.store.manifests() == []
    assert not (fetching.root / "models" / "m").exists()
    below = [path for path in tmp_path.rglob("*") if not path.is_relative_to(fetching.root)]
    assert [path for path in below if path.is_file()] == []
    fetching.store.evict("m")
    fetching.store.sweep(older_than=0)
    assert list(fetching.store.layout.blobs.glob("*/*")) == []


def test_what_is_wrong_can_be_excluded(
    fetching: Fetching, registry: Registry, repository: str
) -> None:
    bad = [link("models/x", "/etc/passwd"), entry("models/fifo", type=b"6")]
    bad += [entry("models/a/../odd", b"evil"), entry("models/../../etc/cron.d/x", b"evil")]
    registry.push_image(repository, layer(tar(*bad, entry("models/good", b"good"))))
    fetching.fetch("m", registry.uri(repository), exclude=("x", "fifo", "odd"))
    assert shown(fetching) == {"good": b"good"}


def test_absolute_names_begin_at_the_images_root(
    fetching: Fetching, registry: Registry, repository: str
) -> None:
    content = tar(entry("/models/a", b"a"), hard("/models/b", "/models/a"), folder("/"))
    registry.push_image(repository, layer(content))
    fetching.fetch("m", registry.uri(repository))
    assert shown(fetching) == {"a": b"a", "b": b"a"}


def test_more_names_than_fit_in_memory(
    fetching: Fetching, registry: Registry, repository: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all layers together, before anything is kept of the one that is too much."""
    monkeypatch.setattr(layering, "MAX_FILES", 5)
    layers = [layer(files({f"{n}/{m}": b"" for m in range(3)})) for n in range(3)]
    registry.push_image(repository, *layers)
    with pytest.raises(UnsafePath, match="more than 5 names"):
        fetching.fetch("m", registry.uri(repository))
    listings = [path.stem for path in fetching.store.layout.listings.iterdir()]
    assert listings == [sha256(layers[0][0]).hexdigest()]


def test_an_image_without_models_says_where_they_would_be(
    fetching: Fetching, registry: Registry, repository: str
) -> None:
    registry.push_image(repository, layer(tar(entry("model/x", b""))))
    with pytest.raises(NotFound, match="an image without a folder /models"):
        fetching.fetch("m", registry.uri(repository))


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_layer_that_can_not_be_unpacked(
    fetching: Fetching, registry: Registry, repository: str, compression: Compression
) -> None:
    content, media_type = layer(files({"w": weights(MIB)}), compression)
    registry.push_image(repository, (content[: MIB // 2], media_type))
    with pytest.raises(BrokenArchive):
        fetching.fetch("m", registry.uri(repository))
    assert fetching.store.manifests() == []


def test_a_layer_that_the_registry_has_wrong(
    make_fetching: MakeFetching, registry: Registry, repository: str
) -> None:
    content, media_type = layer(files({"w": weights(MIB)}))
    registry.push_image(repository, (content, media_type))
    digest = sha256(content).hexdigest()
    blobs = registry.storage / "docker" / "registry" / "v2" / "blobs" / "sha256"
    (blobs / digest[:2] / digest / "data").write_bytes(content[:-9] + b"tampered!")
    fetching = make_fetching()
    with pytest.raises(ChecksumMismatch):
        fetching.fetch("m", registry.uri(repository))
    assert not fetching.store.blobs.has(digest, len(content))
    assert fetching.store.manifests() == []


def test_room_is_promised_until_the_bytes_are_on_the_disk(
    fetching: Fetching,
    registry: Registry,
    repository: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And not twice: what is allocated for a large one is promised no more."""
    monkeypatch.setattr(reservations, "_REWRITE_BYTES", 1)
    content = {"small": weights(3 * MIB), "large": weights(20 * MIB), "more": bytes(20 * MIB)}
    seen: list[tuple[int, int]] = []
    write, finish = Partial.write, Partial.finish

    def look(partial: Partial) -> None:
        if threading.current_thread() is threading.main_thread():
            # Not a connection, which brings the archive.
            allocated = os.fstat(partial.fd).st_blocks * 512
            seen.append((fetching.store.space.measure().reserved, allocated))

    def looking_write(partial: Partial, view: memoryview, offset: int) -> None:
        look(partial)
        write(partial, view, offset)

    def looking_finish(partial: Partial, target: Path) -> None:
        look(partial)
        finish(partial, target)

    monkeypatch.setattr(Partial, "write", looking_write)
    monkeypatch.setattr(Partial, "finish", looking_finish)
    for name, data in content.items():
        registry.push_image(repository, layer(files({name: data})), tag=name)
        fetching.fetch(name, registry.uri(repository, f":{name}"))
        size = len(data)
        looks = seen[-size // MIB - 1 :]
        if name == "small":
            assert all(reserved >= size for reserved, _ in looks)
        else:
            assert all(reserved < MIB and allocated >= size for reserved, allocated in looks)
    assert len(seen) == 4 + 21 + 21
    assert fetching.store.space.measure().reserved == 0


def test_unpacking_has_the_manners_of_a_connection(
    fetching: Fetching, registry: Registry, repository: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The least priority on the disk, and buffers that direct writes take."""
    registry.push_image(repository, layer(files({"w": weights(6 * MIB)}), "none"))
    get = {"x86_64": 252, "aarch64": 31}[platform.machine()]
    priorities, aligned = set(), set()
    write, libc = Partial.write, ctypes.CDLL(None)

    def looking(partial: Partial, view: memoryview, offset: int) -> None:
        if threading.current_thread() is threading.main_thread():
            priorities.add(libc.syscall(get, 1, 0))
            aligned.add(ctypes.addressof(ctypes.c_char.from_buffer(view)) % 4096)
        write(partial, view, offset)

    monkeypatch.setattr(Partial, "write", looking)
    before = libc.syscall(get, 1, 0)
    fetching.fetch("m", registry.uri(repository))
    assert priorities == {(2 << 13) | 7}
    assert aligned == {0}
    assert libc.syscall(get, 1, 0) == before


def test_a_bomb_meets_the_disks_limit_before_it_is_written(
    make_fetching: MakeFetching, registry: Registry, repository: str
) -> None:
    """Declared sizes ask for room: a hundred megabytes of zeros in half a one of gzip."""
    registry.push_image(repository, layer(files({"zeros": bytes(100 * MIB)})))
    fetching = make_fetching()
    promised = promises(fetching, most=32 * MIB)
    with pytest.raises(InsufficientDisk, match="m is too large"):
        fetching.fetch("m", registry.uri(repository))
    assert promised[-1] >= 100 * MIB
    sizes: Mapping[Path, int] = {
        path: path.stat().st_blocks * 512 for path in fetching.root.rglob("*") if path.is_file()
    }
    assert sum(sizes.values()) < 8 * MIB
    # With room, what was fetched is taken up.
    before = fetching.received
    fetching.store.space._check = lambda *_: None  # type: ignore[method-assign]
    fetching.fetch("m", registry.uri(repository))
    assert fetching.received == before
