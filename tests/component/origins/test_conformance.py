"""What every origin does alike."""

from pathlib import Path

import pytest

from modelcache.api import Source
from modelcache.errors import AuthFailed, NotFound, UnsafePath
from modelcache.origins import RemoteFile, select
from tests.component.origins.conftest import Guarded, Site, checksum, fetched
from tests.support.secrets import with_secret

MODEL = {
    "config.json": b"{}",
    "model.safetensors": b"weights" * 1000,
    "original/params.json": b"[]",
    "a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p/deep.txt": b"deep",
    "empty.txt": b"",
    "empty.safetensors": b"",
    "模型/déjà vu +%20#&=@.json": b"unicode",
}


def by_path(files: tuple[RemoteFile, ...]) -> dict[str, RemoteFile]:
    return {file.path: file for file in files}


def test_resolving_lists_all_files_by_path(site: Site) -> None:
    site.put(MODEL)
    revision = site.origin().resolve()
    assert [file.path for file in revision.files] == sorted(MODEL)
    assert {file.path: file.size for file in revision.files} == {
        path: len(data) for path, data in MODEL.items()
    }
    assert not revision.partial


def test_each_location_has_the_bytes_and_true_checksums(site: Site) -> None:
    site.put(MODEL)
    origin = site.origin()
    for file in origin.resolve().files:
        location = origin.locate(file)
        data = fetched(location)
        assert data == MODEL[file.path]
        assert file.sha256 in (None, checksum("sha256", data))
        for algorithm, value in {**file.checksums, **location.checksums}.items():
            assert value == checksum(algorithm, data), algorithm


def test_a_file_can_be_located_without_resolving_again(site: Site) -> None:
    site.put(MODEL)
    file = by_path(site.origin().resolve().files)["model.safetensors"]
    assert fetched(site.origin().locate(file)) == MODEL["model.safetensors"]


def test_the_revision_is_a_name_for_the_content(site: Site) -> None:
    site.put(MODEL)
    first = site.origin().resolve()
    assert site.origin().resolve() == first
    assert len(first.id) in (40, 64)
    assert int(first.id, 16)
    site.put({"config.json": b"other"})
    second = site.origin().resolve()
    assert second.id != first.id
    assert site.origin().resolve().id == second.id


def test_identities_tell_contents_apart(site: Site) -> None:
    site.put(MODEL)
    before = by_path(site.origin().resolve().files)
    site.put({"config.json": b"other"})
    after = by_path(site.origin().resolve().files)
    changed = [path for path in before if before[path].identity != after[path].identity]
    assert changed == ["config.json"]


def test_a_folder_gives_paths_relative_to_it(site_with_paths: Site) -> None:
    site_with_paths.put(
        {"llama/a.json": b"1", "llama/x/b.json": b"22", "llama-2/c.json": b"", "llama.json": b""}
    )
    origin = site_with_paths.origin("llama")
    files = by_path(origin.resolve().files)
    assert sorted(files) == ["a.json", "x/b.json"]
    assert fetched(origin.locate(files["x/b.json"])) == b"22"


def test_a_file_gives_its_base_name(site_with_paths: Site) -> None:
    site_with_paths.put({"llama/a.json": b"1", "llama/a.json2": b"2"})
    origin = site_with_paths.origin("llama/a.json")
    (file,) = origin.resolve().files
    assert file.path == "a.json"
    assert fetched(origin.locate(file)) == b"1"


def test_a_missing_path_is_not_found(site_with_paths: Site) -> None:
    site_with_paths.put(MODEL)
    with pytest.raises(NotFound):
        site_with_paths.origin("original/par").resolve()


def test_more_than_a_thousand_files_are_paged(site: Site) -> None:
    site.put({f"{n // 100:02}/{n:04}.txt": b"%d" % n for n in range(1001)})
    origin = site.origin()
    files = origin.resolve().files
    assert len(files) == 1001
    assert fetched(origin.locate(files[-1])) == b"1000"


@pytest.mark.parametrize("name", ["a\\b", "x\x01y", "nul", "a:b", "q?"])
def test_unsafe_names_arrive_and_are_refused_before_any_byte(site: Site, name: str) -> None:
    site.put({"config.json": b"{}", name: b"evil"})
    revision = site.origin().resolve()
    with pytest.raises(UnsafePath):
        select(revision, Source(uri=site.uri()))


def test_nothing_that_is_printed_holds_a_credential(guarded: Guarded, tmp_path: Path) -> None:
    guarded.site.put(MODEL)
    origin = with_secret(tmp_path, guarded.site.uri(), **guarded.keys)
    revision = origin.resolve()
    locations = [origin.locate(file) for file in revision.files]
    assert [fetched(where) for where in locations] == [MODEL[f.path] for f in revision.files]
    printed = repr((origin, revision, locations))
    assert not [planted for planted in guarded.planted if planted in printed]


@pytest.mark.parametrize("guarded", ["hf", "gs", "oci", "https"], indirect=True)
@pytest.mark.parametrize("known", [True, False])
def test_who_may_not_is_told_so(guarded: Guarded, tmp_path: Path, known: bool) -> None:
    guarded.site.put(MODEL)
    uri = guarded.site.uri()
    with pytest.raises(AuthFailed) as caught:
        (with_secret(tmp_path, uri, **guarded.wrong) if known else guarded.site.origin()).resolve()
    assert not [planted for planted in guarded.planted if planted in str(caught.value)]
