import re
from contextlib import suppress
from dataclasses import replace

import pytest
from huggingface_hub.utils._paths import filter_repo_objects
from hypothesis import given
from hypothesis import strategies as st

from modelcache.api import Source
from modelcache.errors import NotFound, UnsafeFormat, UnsafePath
from modelcache.origins import RemoteArchive, RemoteFile, Revision, may_be_selected, select
from modelcache.origins.selection import UNSAFE_SUFFIXES

LLAMA = (
    "config.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "original/consolidated.00.pth",
    "original/params.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "training_args.bin",
)


def revision(*paths: str) -> Revision:
    return Revision("a" * 40, tuple(RemoteFile(path, path, 1, f"x:{path}") for path in paths))


def source(
    include: tuple[str, ...] = (), exclude: tuple[str, ...] = (), unsafe: bool = False
) -> Source:
    return Source(
        uri="hf://org/name", include=include, exclude=exclude, allow_unsafe_formats=unsafe
    )


def selected(paths: tuple[str, ...], what: Source) -> list[str]:
    return [file.path for file in select(revision(*paths), what).files]


def test_without_globs_everything_safe_is_wanted() -> None:
    assert selected(LLAMA, source()) == [
        path for path in LLAMA if not path.endswith((".bin", ".pth"))
    ]


def test_include_and_exclude_together() -> None:
    what = source(("*.safetensors", "*.json", "tokenizer*"), ("original/*",))
    assert selected(LLAMA, what) == [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "pytorch_model.bin.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_a_pattern_with_a_trailing_slash_means_everything_below() -> None:
    assert selected(("a/b/c", "a/d", "ab/e"), source(("a/",))) == ["a/b/c", "a/d"]


def test_a_backslash_in_a_pattern_is_a_slash() -> None:
    assert selected(("a/b", "c"), source(("a\\b",))) == ["a/b"]


def test_matching_heeds_case() -> None:
    assert selected(("a.JSON", "b.json"), source(("*.json",))) == ["b.json"]


glob_text = st.text("ab/*?[]!.-\\", min_size=1, max_size=6)
path_text = st.text("ab/.-", min_size=1, max_size=8)


@given(
    st.lists(path_text, min_size=1, max_size=6, unique=True),
    st.lists(glob_text, max_size=3),
    st.lists(glob_text, max_size=3),
)
def test_globs_mean_what_they_mean_to_huggingface_hub(
    paths: list[str], include: list[str], exclude: list[str]
) -> None:
    expected = list(
        filter_repo_objects(paths, allow_patterns=include or None, ignore_patterns=exclude or None)
    )
    try:
        found = selected(tuple(paths), source(tuple(include), tuple(exclude), unsafe=True))
    except NotFound:
        found = []
    except UnsafePath:
        return
    assert found == expected


def test_a_selection_is_partial_and_the_whole_is_not() -> None:
    assert select(revision("a", "b"), source(("a",))).partial
    assert not select(revision("a", "b"), source()).partial


@pytest.mark.parametrize("suffix", sorted(UNSAFE_SUFFIXES))
@pytest.mark.parametrize("safe", ["model.safetensors", "model.gguf", "onnx/model.onnx"])
def test_unsafe_files_are_left_out_beside_safe_weights(suffix: str, safe: str) -> None:
    assert selected((safe, f"x{suffix}", f"Y{suffix.upper()}"), source()) == [safe]


@pytest.mark.parametrize("suffix", sorted(UNSAFE_SUFFIXES))
def test_only_unsafe_weights_are_refused(suffix: str) -> None:
    with pytest.raises(UnsafeFormat, match="allowUnsafeFormats: true") as caught:
        select(revision("config.json", f"x{suffix}"), source())
    assert f"x{suffix}" in str(caught.value)


def test_safe_weights_that_are_not_selected_do_not_count() -> None:
    with pytest.raises(UnsafeFormat):
        select(revision("model.safetensors", "model.bin"), source(("*.bin",)))


def test_excluding_the_unsafe_ones_is_a_way_out() -> None:
    assert selected(("config.json", "training_args.bin"), source((), ("*.bin",))) == ["config.json"]


def test_unsafe_files_are_taken_when_allowed() -> None:
    assert selected(LLAMA, source(unsafe=True)) == list(LLAMA)


def test_nothing_selected_names_the_globs_and_what_is_there() -> None:
    with pytest.raises(NotFound) as caught:
        select(revision(*LLAMA), source(("*.gguf",), ("x/*",)))
    message = str(caught.value)
    for part in ("'*.gguf'", "'x/*'", "config.json", "7 more"):
        assert part in message


def test_a_source_without_files_is_not_found() -> None:
    with pytest.raises(NotFound, match="no files"):
        select(revision(), source())


def test_a_selected_unsafe_name_is_refused() -> None:
    with pytest.raises(UnsafePath):
        select(revision("a.json", "../b.json"), source())


def test_an_unsafe_name_can_be_excluded() -> None:
    assert selected(("a.json", "../b.json"), source((), ("../*",))) == ["a.json"]


# Archives, whose files nobody knows yet


def packed(*paths: str) -> Revision:
    """A revision with an archive, and files beside it."""
    blob = RemoteFile("layer", "layer", 10, "sha256:1", sha256="1" * 64)
    return replace(revision(*paths), archives=(RemoteArchive(blob, "gzip", "models"),))


def test_the_archives_of_a_revision_have_one_folder() -> None:
    revision = packed("a")
    (archive,) = revision.archives
    replace(revision, archives=(archive, archive))
    with pytest.raises(ValueError, match="more than one folder"):
        replace(revision, archives=(archive, replace(archive, folder="")))


def test_a_revision_with_archives_is_selected_from_when_it_is_unpacked() -> None:
    found = select(packed("a.json", "b.bin"), source(("*.json",)))
    assert [file.path for file in found.files] == ["a.json", "b.bin"]
    both = found.unpacked(revision("x.json", "y.txt").files)
    assert [file.path for file in both.files] == ["a.json", "b.bin", "x.json", "y.txt"]
    in_the_end = select(both, source(("*.json",)))
    assert [file.path for file in in_the_end.files] == ["a.json", "x.json"]
    assert in_the_end.snapshot == found.snapshot


def test_the_rules_name_a_snapshot_whose_files_are_not_known() -> None:
    given = [
        source(),
        source(("*.json",)),
        source((), ("*.json",)),
        source(("*.json", "x")),
        source(("x", "*.json")),
        source(unsafe=True),
    ]
    names = [select(packed(), each).snapshot for each in given]
    assert names[0] == packed().id
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(rf"{packed().id}-[0-9a-f]{{8}}", name) for name in names[1:])
    assert [select(packed(), each).snapshot for each in given] == names


@given(
    st.lists(st.sampled_from([*LLAMA, "a.bin", "b/c.pt", "../x", "a\\b", "A.JSON"]), unique=True),
    st.lists(st.sampled_from(["*", "*.json", "original/", "*.bin"]), max_size=2),
    st.lists(st.sampled_from(["*.json", "original/*", "../*"]), max_size=2),
    st.booleans(),
)
def test_what_is_selected_may_be_selected(
    paths: list[str], include: list[str], exclude: list[str], unsafe: bool
) -> None:
    asked = source(tuple(include), tuple(exclude), unsafe)
    with suppress(NotFound, UnsafeFormat, UnsafePath):
        found = select(revision(*paths), asked)
        assert all(map(may_be_selected(asked), (file.path for file in found.files)))
