"""What is exchanged with GKM's MCV: names in the archive, labels, and images that it made."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import zstandard

from modelcache.compilecache.bundles.manifest import BundleManifest
from modelcache.compilecache.bundles.mcv import labels
from modelcache.compilecache.bundles.mcvimages import read_image
from modelcache.compilecache.bundles.packing import pack
from modelcache.compilecache.bundles.statement import Archive
from modelcache.compilecache.keys.parts import Accelerator
from modelcache.compilecache.trees.scanning import Limits, scan
from modelcache.errors import BrokenBundle, ModelCacheError, NotFound
from tests.support.archives import everything_below, grow, key, statement
from tests.support.mcv import VLLM, below, image
from tests.support.tars import entry, hard, link, tar

TREE = "vllm/torch_compile_cache"
AOT = f"{TREE}/torch_aot_compile/{'a' * 64}"
JIT = f"{TREE}/0123456789"
FILES = {
    f"{AOT}/rank_0_0/model": b"m" * 100,
    f"{AOT}/rank_1_0/model": b"m" * 100,
    f"{AOT}/inductor_cache/x.py": b"x" * 10,
    f"{JIT}/rank_0_0/backbone/artifact_compile_range_1_2_subgraph_0": b"a",
    f"{JIT}/rank_0_0/backbone/artifact_compile_range_1_2_subgraph_1": b"b",
    f"{JIT}/rank_0_0/backbone/computation_graph.py": b"c",
    "vllm/modelinfos/m.json": b"{}",
    "vllm/flashinfer_autotune_cache/a.json": b"{}",
    "triton/K/kernel.cubin": b"k" * 7,
    "inductor/aa/b.py": b"p",
}
H100 = Accelerator(
    vendor="nvidia",
    product="NVIDIA-H100-80GB-HBM3",
    compute_capability="9.0",
    runtime="12.8",
)


def made(root: Path, files: Mapping[str, bytes], **options: Any) -> BundleManifest:
    grow(root, files)
    return pack(root, scan(root), root.parent / "archive", **options).manifest


def labelled(
    root: Path, files: Mapping[str, bytes], accelerator: Accelerator = H100
) -> dict[str, str]:
    manifest = made(root, files)
    said = statement(about(manifest), key=key(accelerator=accelerator))
    return labels(said, manifest)


def about(manifest: BundleManifest) -> Archive:
    from modelcache.compilecache.bundles.statement import Archive

    digest = f"sha256:{'0' * 64}"
    return Archive(
        digest=digest, size=1, manifest=digest, files=len(manifest.files), bytes=manifest.bytes
    )


def test_labels_of_a_vllm_cache(tmp_path: Path) -> None:
    said = labelled(tmp_path / "root", FILES)
    mounts = json.loads(said.pop("io.kserve.km/cache-mounts"))
    assert said == {
        "cache.vllm.image/entry-count": "2",
        # All but modelinfos, which MCV doesn't unpack, and so doesn't count.
        "cache.vllm.image/cache-size-bytes": str(sum(map(len, FILES.values())) - 2),
        "cache.vllm.image/summary": '{"targets":[{"backend":"cuda","arch":"sm_90","warp_size":32,'
        '"cuda_version":"12.8"}]}',
        "cache.vllm.image/format": "binary",
        "io.kserve.km/framework": "vllm",
        "io.kserve.km/cache-type": "torch-compile",
        "io.kserve.km/cache-root-env": "VLLM_CACHE_ROOT=/var/cache/modelcache/vllm",
        "io.kserve.km/cache-mount-subpath": "torch_compile_cache",
        "io.kserve.km/cache-hash": f"0123456789,{'a' * 64}",
    }
    places = {m["subPath"]: (m["absPath"], m.get("env"), m["requiresWritable"]) for m in mounts}
    assert places == {
        "triton": ("/var/cache/modelcache/triton", "TRITON_CACHE_DIR", True),
        "inductor": ("/var/cache/modelcache/inductor", "TORCHINDUCTOR_CACHE_DIR", True),
        "flashinfer_autotune_cache": (
            "/var/cache/modelcache/vllm/flashinfer_autotune_cache",
            None,
            True,
        ),
    }


def test_only_the_newer_tree(tmp_path: Path) -> None:
    files = {path: content for path, content in FILES.items() if path.startswith(AOT)}
    said = labelled(tmp_path / "root", files)
    assert said["io.kserve.km/cache-mount-subpath"] == "torch_compile_cache/torch_aot_compile"
    assert "io.kserve.km/cache-mounts" not in said


@pytest.mark.parametrize(
    ("accelerator", "target"),
    [
        (
            Accelerator(vendor="amd", product="AMD-Instinct-MI300X", compute_capability="gfx942"),
            {"backend": "hip", "arch": "gfx942", "warp_size": 64},
        ),
        (
            Accelerator(vendor="cpu", product="x86-64-v3"),
            {"backend": "cpu", "arch": "x86-64-v3", "warp_size": 1},
        ),
    ],
)
def test_a_triton_cache(tmp_path: Path, accelerator: Accelerator, target: dict[str, Any]) -> None:
    files = {"triton/A/k.json": b"{}", "triton/A/k.hsaco": b"xyz", "triton/B/l.json": b"{}"}
    said = labelled(tmp_path / "root", files, accelerator)
    assert json.loads(said.pop("cache.triton.image/summary")) == {"targets": [target]}
    assert said == {
        "cache.triton.image/entry-count": "2",
        "cache.triton.image/cache-size-bytes": "7",
    }


def test_a_cache_that_mcv_has_no_format_for(tmp_path: Path) -> None:
    assert labelled(tmp_path / "root", {"inductor/a": b""}) == {}


def test_mounts_that_are_too_long_for_a_label_are_left_out(tmp_path: Path) -> None:
    many = {f"{'n' * 200}{number}/f": b"" for number in range(20)}
    said = labelled(tmp_path / "root", {**FILES, **many})
    assert "io.kserve.km/cache-mounts" not in said
    assert said["cache.vllm.image/entry-count"] == "2"


def test_the_archive_is_one_that_mcv_unpacks(tmp_path: Path) -> None:
    """As its extract does: gzip, tar, what is below io.vllm.cache/, and its manifest."""
    made(tmp_path / "root", FILES, compression="gzip")
    with tarfile.open(tmp_path / "archive", "r:gz") as archive:
        names = archive.getnames()
        found = archive.extractfile("io.vllm.manifest/manifest.json")
        assert found is not None
        document = json.load(found)
    below = {name.removeprefix("io.vllm.cache/") for name in names if "vllm.cache" in name}
    assert below == {path.removeprefix("vllm/") for path in FILES}
    assert [entry["cacheFormat"] for entry in document["vllm"]] == ["binary", "binary"]
    jit, aot = document["vllm"]
    assert jit == {
        "vllmHash": "0123456789",
        "cacheFormat": "binary",
        "binary": [
            {
                "rank": "rank_0_0",
                "prefix": "backbone",
                "artifact_count": 2,
                "artifact_names": [
                    "artifact_compile_range_1_2_subgraph_0",
                    "artifact_compile_range_1_2_subgraph_1",
                ],
                "cache_save_format": "binary",
            }
        ],
    }
    assert [item["rank"] for item in aot["binary"]] == ["rank_0_0", "rank_1_0"]
    assert {item["cache_save_format"] for item in aot["binary"]} == {"mega-aot"}


def test_what_else_lies_in_vllms_tree(tmp_path: Path) -> None:
    """Artifacts that are directories, and Triton's cache of the oldest versions."""
    files = {
        f"{JIT}/rank_0_0/backbone/artifact_shape_None_subgraph_0/aa/b.py": b"",
        f"{TREE}/fedcba9876/rank_0_0/triton_cache/K/k.json": b"",
    }
    manifest = made(tmp_path / "root", files, compression="gzip")
    with tarfile.open(tmp_path / "archive", "r:gz") as archive:
        found = archive.extractfile("io.vllm.manifest/manifest.json")
        assert found is not None
        first, second = json.load(found)["vllm"]
    assert first["binary"][0]["cache_save_format"] == "unpacked"
    assert second == {"vllmHash": "fedcba9876", "cacheFormat": "triton"}
    assert labels(statement(about(manifest)), manifest)["cache.vllm.image/format"] == (
        "binary,triton"
    )


# Images that MCV made


def refused(tmp_path: Path, *layers: bytes, limits: Limits | None = None, **options: Any) -> str:
    layout = image(tmp_path / "layout", *layers, **options)
    with pytest.raises(ModelCacheError) as caught:
        read_image(layout, tmp_path / "into", limits=limits)
    assert isinstance(caught.value, BrokenBundle | NotFound)
    assert not (tmp_path / "into").exists()
    return str(caught.value)


def test_an_image_of_a_vllm_cache_is_read(tmp_path: Path) -> None:
    layer = below(
        "io.vllm.cache",
        {
            "torch_compile_cache/torch_aot_compile/h/rank_0_0/model": b"m",
            "kernels/K/k.cubin": b"k",
            "modelinfos/i.json": b"{}",
            "more/x": b"x",
            "torch_compile_cache/a": b"again below a directory that was left",
        },
    )
    found = read_image(image(tmp_path / "layout", layer), tmp_path / "into")
    assert {path: data for path, (data, _, _) in everything_below(tmp_path / "into").items()} == {
        "vllm/torch_compile_cache/torch_aot_compile/h/rank_0_0/model": b"m",
        "vllm/torch_compile_cache/a": b"again below a directory that was left",
        "triton/K/k.cubin": b"k",
        "vllm/modelinfos/i.json": b"{}",
        "more/x": b"x",
    }
    assert (found.files, found.cache_dir) == (5, "/home/kserve/.cache")
    assert found.labels == VLLM


def test_what_we_packed_is_read_as_it_was(tmp_path: Path) -> None:
    """There and back again, by way of MCV's format alone."""
    said = labelled(tmp_path / "root", FILES)
    archive = (tmp_path / "archive").read_bytes()
    plain = zstandard.ZstdDecompressor().stream_reader(archive).read()
    layout = image(tmp_path / "layout", plain, labels=said)
    found = read_image(layout, tmp_path / "into")
    assert {
        path: data for path, (data, _, _) in everything_below(tmp_path / "into").items()
    } == FILES
    assert found.cache_dir == "/var/cache/modelcache"


def test_an_image_of_a_triton_cache_is_read(tmp_path: Path) -> None:
    layer = below("io.triton.cache", {"K/k.json": b"{}"})
    layout = image(
        tmp_path / "layout",
        layer,
        labels={"cache.triton.image/summary": "{}"},
        media_type="application/vnd.oci.image.layer.v1.tar+zstd",
        pack=zstandard.compress,
    )
    assert read_image(layout, tmp_path / "into").cache_dir == ""
    assert list(everything_below(tmp_path / "into")) == ["triton/K/k.json"]


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ([link("io.vllm.cache/l", "/etc")], "is no regular file"),
        ([hard("io.vllm.cache/h", "/etc/passwd")], "is no regular file"),
        ([entry("io.vllm.cache/d", type=tarfile.CHRTYPE)], "is no regular file"),
        ([entry("io.vllm.cache/.wh.x")], "is no regular file"),
        ([entry("io.vllm.cache/../../io.vllm.cache/x", b"")], "is no regular file"),
        ([entry("io.vllm.cache/a"), entry("io.vllm.cache/a")], "is there twice"),
        ([entry("io.vllm.cache/a"), entry("io.vllm.cache/a/b")], "is there twice"),
        ([entry("io.vllm.cache/a/b"), entry("io.vllm.cache/a")], "is there twice"),
        ([entry("io.vllm.cache/a\x1b[2J")], "can't be printed"),
        ([entry("io.vllm.cache/" + "d/" * 33 + "f")], "more than 32 directories"),
    ],
)
def test_what_no_image_may_have(tmp_path: Path, entries: list[Any], why: str) -> None:
    assert why in refused(tmp_path, tar(*entries))


def test_names_that_lead_out_lead_nowhere(tmp_path: Path) -> None:
    layer = tar(entry("../../etc/passwd", b"x"), entry("/etc/passwd", b"x"), entry("other", b"x"))
    read_image(image(tmp_path / "layout", layer), tmp_path / "into")
    assert not any((tmp_path / "into").iterdir())


def test_an_image_that_is_too_large(tmp_path: Path) -> None:
    layer = below("io.vllm.cache", {"a": b"12345", "b": b"67890"})
    assert "more than 1 files" in refused(tmp_path, layer, limits=Limits(files=1))
    assert "or 9 bytes" in refused(tmp_path, layer, limits=Limits(bytes=9))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"labels": {}}, "it lacks MCV's labels"),
        ({"labels": None}, "it lacks MCV's labels"),
        ({"labels": ["x"]}, "it lacks MCV's labels"),
        ({"media_type": "application/x"}, "a layer of .* is application/x"),
        ({"pack": lambda _layer: b"no gzip"}, "can't be read"),
    ],
)
def test_what_is_no_image_of_a_cache(tmp_path: Path, options: dict[str, Any], why: str) -> None:

    assert re.search(why, refused(tmp_path, below("io.vllm.cache", {"a": b"1"}), **options))


def test_changed_blobs(tmp_path: Path) -> None:
    layout = image(tmp_path / "layout", below("io.vllm.cache", {"a": b"1"}))
    for path in (layout / "blobs/sha256").iterdir():
        content = path.read_bytes()
        path.write_bytes(content[:-1] + b"!")
        with pytest.raises(BrokenBundle, match="was changed"):
            read_image(layout, tmp_path / "into")
        path.write_bytes(content + b"!")
        with pytest.raises(BrokenBundle, match="size"):
            read_image(layout, tmp_path / "into")
        path.unlink()
        with pytest.raises(NotFound):
            read_image(layout, tmp_path / "into")
        path.write_bytes(content)
    assert not (tmp_path / "into").exists()
    read_image(layout, tmp_path / "into")


@pytest.mark.parametrize(
    "index",
    ["", "{}", "[" * 10_000, '{"manifests": []}', '{"manifests": [{"digest": "sha256:../../x"}]}'],
)
def test_what_is_no_layout(tmp_path: Path, index: str) -> None:
    layout = image(tmp_path / "layout", b"")
    (layout / "index.json").write_text(index)
    with pytest.raises((BrokenBundle, NotFound)):
        read_image(layout, tmp_path / "into")


@pytest.mark.parametrize("mounts", ["", "no", "[" * 10_000, "{}", "[1]", '[{"subPath": 5}]'])
def test_labels_that_make_no_sense_cost_a_place(tmp_path: Path, mounts: str) -> None:
    layout = image(
        tmp_path / "layout",
        below("io.vllm.cache", {"kernels/k": b""}),
        labels={**VLLM, "io.kserve.km/cache-mounts": mounts},
    )
    read_image(layout, tmp_path / "into")
    assert list(everything_below(tmp_path / "into")) == ["kernels/k"]
