from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from modelcache.catalog import Catalog, FileCatalog, ObjectKey, Severity, files
from tests.unit.catalog.samples import compile_cache, model, stream


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "catalog"
    path.mkdir()
    return path


def uris(catalog: Catalog) -> dict[str, str]:
    """What is in force, by name."""
    return {name: found.spec.source.uri for name, found in catalog.models.items()}


def configmap(folder: Path, generation: str, content: dict[str, str]) -> None:
    """What kubelet's AtomicWriter does (kubernetes/pkg/volume/util/atomic_writer.go)."""
    old = os.readlink(folder / "..data") if (folder / "..data").is_symlink() else None
    (folder / generation).mkdir()
    for name, text in content.items():
        (folder / generation / name).write_text(text)
    (folder / "..data_tmp").symlink_to(generation)
    (folder / "..data_tmp").rename(folder / "..data")
    for name in content:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    for link in folder.iterdir():
        if not link.name.startswith("..") and link.name not in content:
            link.unlink()
    if old is not None:
        for file in (folder / old).iterdir():
            file.unlink()
        (folder / old).rmdir()


def test_one_file(tmp_path: Path) -> None:
    path = tmp_path / "any.name"
    path.write_text(stream(model("a"), compile_cache("c")))
    catalog = FileCatalog(path).read()
    assert list(catalog.models) == ["a"]
    assert list(catalog.compile_caches) == ["c"]
    assert catalog.problems == ()
    assert catalog.complete
    assert catalog.documents[ObjectKey("CachedModel", "a")].file == str(path)


def test_a_directory_without_what_is_hidden_or_of_another_kind(folder: Path) -> None:
    for name in ("b.yaml", "a.yml", "c.json", "D.YAML"):
        (folder / name).write_text(model(name[0].lower()))
    for name in (".hidden.yaml", "README.md", "a.yaml~", "a.yaml.swp", "#a.yaml#"):
        (folder / name).write_text("rubbish: [")
    (folder / "deeper.yaml").mkdir()
    elsewhere = folder.parent / "elsewhere"
    elsewhere.write_text(model("linked"))
    (folder / "link.yaml").symlink_to(elsewhere)
    catalog = FileCatalog(folder).read()
    assert set(catalog.models) == {"a", "b", "c", "d", "linked"}
    assert catalog.problems == ()


def test_nothing_changed_is_the_same_catalog_and_reads_no_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "a.yaml").write_text(model("a"))
    (folder / "b.yaml").write_text("broken: [")
    catalog = FileCatalog(folder)
    first = catalog.read()
    now = time.time_ns() + 3_600_000_000_000
    monkeypatch.setattr(time, "time_ns", lambda: now)
    assert catalog.read() is first

    def unexpected(name: str) -> None:
        raise AssertionError(name)

    monkeypatch.setattr(files, "_content", unexpected)
    assert catalog.read() is first


def test_two_edits_within_one_tick_of_the_clock_are_both_seen(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "a.yaml"
    path.write_text(model("a", "hf://org/one"))
    tick = path.stat().st_mtime_ns
    monkeypatch.setattr(files, "_signature", lambda s: (s.st_dev, s.st_ino, s.st_size, tick, tick))
    catalog = FileCatalog(folder)
    catalog.read()
    path.write_text(model("a", "hf://org/two"))
    assert uris(catalog.read()) == {"a": "hf://org/two"}


@pytest.mark.parametrize(
    "broken",
    [
        model("a", "x://y"),
        model("a", "hf://org/new", more="unknown: 1"),
        model("A", "hf://org/new"),
        model("x" * 300),
        model("a").replace("CachedModel", "CachedModl"),
        model("a").replace("v1alpha1", "v9"),
        model("a").replace("  name: a\n", ""),
        "kind: [\n",
        "just text\n",
        "",
    ],
)
def test_a_broken_document_leaves_its_last_good_state(folder: Path, broken: str) -> None:
    path = folder / "models.yaml"
    path.write_text(stream(model("a"), model("b")))
    catalog = FileCatalog(folder)
    catalog.read()
    path.write_text(stream(broken, model("b", "hf://org/new")) if broken else "")
    after = catalog.read()
    assert uris(after) == {
        "a": "hf://org/name",
        "b": "hf://org/new" if broken else "hf://org/name",
    }
    assert len(after.problems) == 1
    path.write_text(model("b"))
    corrected = catalog.read()
    assert uris(corrected) == {"b": "hf://org/name"}
    assert corrected.problems == ()


def test_a_document_that_names_itself_holds_nothing_else(folder: Path) -> None:
    path = folder / "models.yaml"
    path.write_text(stream(model("a"), model("b"), compile_cache("a")))
    catalog = FileCatalog(folder)
    catalog.read()
    path.write_text(model("a", "x://y"))
    after = catalog.read()
    assert list(after.documents) == [ObjectKey("CachedModel", "a")]
    assert not after.complete


def test_a_wrong_name_holds_its_kind_only(folder: Path) -> None:
    path = folder / "models.yaml"
    path.write_text(stream(model("a"), compile_cache("c")))
    catalog = FileCatalog(folder)
    catalog.read()
    path.write_text(model("A"))
    assert list(catalog.read().documents) == [ObjectKey("CachedModel", "a")]


def test_broken_again_and_again(folder: Path) -> None:
    path = folder / "models.yaml"
    path.write_text(model("a"))
    catalog = FileCatalog(folder)
    catalog.read()
    for text in ("a: [", model("a", "x://y"), "", "b: [", model("A")):
        path.write_text(text)
        assert uris(catalog.read()) == {"a": "hf://org/name"}


@pytest.mark.parametrize("text", ["", "  \n\n", "# all gone\n"])
def test_a_file_that_is_suddenly_empty_keeps_everything(folder: Path, text: str) -> None:
    path = folder / "models.yaml"
    path.write_text(stream(model("a"), model("b")))
    catalog = FileCatalog(folder)
    catalog.read()
    path.write_text(text)
    after = catalog.read()
    assert set(after.models) == {"a", "b"}
    (problem,) = after.problems
    assert problem.severity is Severity.WARNING
    assert "2 objects read from it before: still in force until" in str(problem)
    path.write_text("apiVersion: v1\nkind: List\nitems: []\n")
    assert not catalog.read().models


def test_a_file_that_is_gone_takes_its_objects_along(folder: Path) -> None:
    (folder / "a.yaml").write_text(model("a"))
    (folder / "b.yaml").write_text(model("b"))
    catalog = FileCatalog(folder)
    catalog.read()
    (folder / "a.yaml").unlink()
    assert set(catalog.read().models) == {"b"}
    (folder / "b.yaml").unlink()
    after = catalog.read()
    assert not after.models
    assert [p.severity for p in after.problems] == [Severity.WARNING]


def _dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def _pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("make", [_dangling, _pipe])
def test_a_file_that_cannot_be_read_keeps_everything(
    folder: Path, make: Callable[[Path], None]
) -> None:
    path = folder / "a.yaml"
    path.write_text(model("a"))
    catalog = FileCatalog(folder)
    catalog.read()
    path.unlink()
    make(path)
    after = catalog.read()
    assert set(after.models) == {"a"}
    assert "can't be read" in str(after.problems[0])
    assert "CachedModel/a read from it before: still in force" in str(after.problems[0])
    assert catalog.read() is after
    path.unlink()
    path.write_text(model("a", "hf://org/new"))
    assert uris(catalog.read()) == {"a": "hf://org/new"}


@pytest.mark.parametrize("as_file", [True, False])
def test_a_path_that_is_gone_keeps_everything(folder: Path, as_file: bool) -> None:
    path = folder / "a.yaml"
    path.write_text(model("a"))
    catalog = FileCatalog(path if as_file else folder)
    catalog.read()
    folder.rename(folder.parent / "away")
    after = catalog.read()
    assert set(after.models) == {"a"}
    assert "No such file or directory" in str(after.problems[0])
    assert catalog.read() is after
    (folder.parent / "away").rename(folder)
    back = catalog.read()
    assert set(back.models) == {"a"}
    assert back.problems == ()


def test_a_path_that_was_never_there(tmp_path: Path) -> None:
    catalog = FileCatalog(tmp_path / "missing").read()
    assert not catalog.documents
    assert not catalog.complete


def test_a_configmap_is_swapped_at_once(folder: Path) -> None:
    configmap(folder, "..2024_01", {"a.yaml": model("a"), "b.yaml": model("b")})
    catalog = FileCatalog(folder)
    assert set(catalog.read().models) == {"a", "b"}
    configmap(folder, "..2024_02", {"a.yaml": model("a", "hf://org/new"), "c.yaml": model("c")})
    assert uris(catalog.read()) == {"a": "hf://org/new", "c": "hf://org/name"}
    one = FileCatalog(folder / "a.yaml")
    assert set(one.read().models) == {"a"}
    configmap(folder, "..2024_03", {"a.yaml": model("d")})
    assert set(one.read().models) == {"d"}


def test_a_configmap_swapped_while_it_is_read_is_read_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configmap(folder, "..2024_01", {"a.yaml": model("a"), "b.yaml": model("b")})
    catalog = FileCatalog(folder)
    read = files._content
    swapped: list[str] = []

    def swapping(name: str) -> tuple[tuple[int, int, int, int, int], bytes]:
        found = read(name)
        if not swapped:
            swapped.append(name)
            configmap(folder, "..2024_02", {"a.yaml": model("b"), "b.yaml": model("a")})
        return found

    monkeypatch.setattr(files, "_content", swapping)
    after = catalog.read()
    assert swapped
    assert after.problems == ()
    assert after.documents[ObjectKey("CachedModel", "b")].file.endswith("a.yaml")


def test_a_configmap_that_leads_nowhere_keeps_everything(folder: Path) -> None:
    configmap(folder, "..2024_01", {"a.yaml": model("a")})
    catalog = FileCatalog(folder)
    catalog.read()
    (folder / "..2024_01").rename(folder / "..elsewhere")
    (folder / "a.yaml").unlink()
    after = catalog.read()
    assert set(after.models) == {"a"}
    assert len(after.problems) == 1


def test_of_two_of_a_name_the_first_is_in_force(folder: Path) -> None:
    (folder / "b.yaml").write_text(model("x", "hf://org/b"))
    (folder / "a.yaml").write_text(stream(model("y"), model("x", "hf://org/a")))
    catalog = FileCatalog(folder).read()
    assert uris(catalog)["x"] == "hf://org/a"
    (problem,) = catalog.problems
    assert str(problem) == (
        f"{folder}/b.yaml: document 1 (CachedModel/x), line 1, metadata.name: there is a "
        f"CachedModel of this name already ({folder}/a.yaml, document 2, line 9): that one is in "
        "force, names are unique within a kind"
    )


def test_of_two_of_a_name_the_one_that_was_in_force_stays(folder: Path) -> None:
    (folder / "b.yaml").write_text(model("x", "hf://org/b"))
    catalog = FileCatalog(folder)
    catalog.read()
    (folder / "a.yaml").write_text(model("x", "hf://org/a"))
    assert uris(catalog.read()) == {"x": "hf://org/b"}
    (folder / "b.yaml").write_text(model("x", "hf://org/edited"))
    assert uris(catalog.read()) == {"x": "hf://org/edited"}
    (folder / "b.yaml").write_text("broken: [")
    assert uris(catalog.read()) == {"x": "hf://org/edited"}
    (folder / "b.yaml").unlink()
    assert uris(catalog.read()) == {"x": "hf://org/a"}


def test_of_two_of_a_name_in_one_file_the_one_that_was_in_force_stays(folder: Path) -> None:
    path = folder / "a.yaml"
    path.write_text(model("x", "hf://org/old"))
    catalog = FileCatalog(path)
    catalog.read()
    path.write_text(stream(model("x", "hf://org/new"), model("x", "hf://org/old")))
    after = catalog.read()
    assert uris(after) == {"x": "hf://org/old"}
    assert [p.document for p in after.problems] == [1]
    path.write_text("broken: [")
    assert uris(catalog.read()) == {"x": "hf://org/old"}


def test_the_same_name_in_two_kinds(folder: Path) -> None:
    (folder / "a.yaml").write_text(stream(model("x"), compile_cache("x")))
    catalog = FileCatalog(folder).read()
    assert len(catalog.documents) == 2
    assert catalog.problems == ()


def test_the_report_is_short(folder: Path) -> None:
    (folder / "a.yaml").write_text(stream(model("a"), *["x\n"] * 200))
    report = FileCatalog(folder).read().report()
    assert (report.objects, len(report.problems), report.problem_count) == (1, 100, 200)
    assert report.problems[0].startswith(f"{folder}/a.yaml: document 2, line 9: ")


def test_a_catalog_does_not_change(folder: Path) -> None:
    path = folder / "a.yaml"
    path.write_text(model("a"))
    catalog = FileCatalog(folder)
    first = catalog.read()
    path.write_text(model("b"))
    catalog.read()
    assert list(first.models) == ["a"]
    with pytest.raises(TypeError):
        first.models["b"] = first.models["a"]  # type: ignore[index]
