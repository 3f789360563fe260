"""Layers over each other, and links in them."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcache.errors import UnsafePath
from modelcache.store import Entry
from modelcache.transfer import layering
from modelcache.transfer.layering import Layers


def f(path: str, size: int = 1) -> Entry:
    return Entry("file", path, size)


def d(path: str) -> Entry:
    return Entry("folder", path)


def gone(path: str) -> Entry:
    return Entry("gone", path)


def opaque(path: str) -> Entry:
    return Entry("opaque", path)


def link(path: str, target: str) -> Entry:
    return Entry("link", path, target=target)


def hard(path: str, target: str) -> Entry:
    return Entry("hard", path, target=target)


def laid(*layers: list[Entry], folder: str = "m") -> dict[str, int | str]:
    """By path a file's size, or what is wrong with it."""
    both = Layers(((str(number), entries) for number, entries in enumerate(layers)), folder)
    return {
        found.path: found.content.entry.size if found.content else found.fault
        for found in both.files()
    }


def test_a_later_layer_hides_an_earlier_one() -> None:
    assert laid([f("m/a", 1), f("m/b", 1)], [f("m/a", 2)]) == {"a": 2, "b": 1}


def test_of_two_entries_of_one_name_the_last_counts() -> None:
    assert laid([f("m/a", 1), f("m/a", 2)]) == {"a": 2}


def test_whiteouts_are_about_lower_layers_only() -> None:
    below = [f("m/a"), f("m/d/x"), f("m/d/y")]
    assert laid(below, [gone("m/a")]) == {"d/x": 1, "d/y": 1}
    assert laid(below, [f("m/a", 2), gone("m/a")]) == {"a": 2, "d/x": 1, "d/y": 1}
    assert laid(below, [gone("m/d")]) == {"a": 1}
    assert laid(below, [gone("m/d"), f("m/d/z", 2)]) == {"a": 1, "d/z": 2}
    assert laid(below, [f("m/d/z", 2), opaque("m/d")]) == {"a": 1, "d/z": 2}
    assert laid(below, [gone("m/d/x"), gone("m/none"), gone("x/y"), opaque("z")]) == {
        "a": 1,
        "d/y": 1,
    }


def test_what_is_around_the_folder_counts() -> None:
    below = [f("m/a")]
    assert laid(below, [gone("m")]) == {}
    assert laid(below, [opaque("")]) == {}
    assert laid(below, [opaque(""), f("m/b")]) == {"b": 1}
    assert laid(below, [f("m")]) == {}
    assert laid(below, [link("m", "/elsewhere")]) == {}
    assert not Layers([("0", [link("m", "n"), f("n/a")])], "m").has_folder
    assert Layers([("0", [d("m")])], "m").has_folder


def test_files_and_folders_replace_each_other() -> None:
    assert laid([f("m/a")], [d("m/a"), f("m/a/b", 2)]) == {"a/b": 2}
    assert laid([f("m/a/b")], [f("m/a", 2)]) == {"a": 2}
    assert laid([f("m/a/b")], [d("m/a")]) == {"a/b": 1}
    assert laid([link("m/l", "a"), f("m/a/x")], [d("m/l"), f("m/l/y", 2)]) == {"a/x": 1, "l/y": 2}


@pytest.mark.parametrize("below", [f("m/a"), link("m/a", "b"), link("m/a", "/etc")])
def test_nothing_lies_below_what_is_no_folder(below: Entry) -> None:
    for layers in ([[below], [f("m/a/b")]], [[below, f("m/a/b")]]):
        with pytest.raises(UnsafePath, match="'m/a/b' below 'm/a', which is no folder"):
            laid(*layers)


# Links


@pytest.mark.parametrize(
    ("target", "leads"),
    [
        ("a", 7),
        ("./a", 7),
        ("sub/../a", 7),
        ("sub/b", 8),
        ("/m/a", 7),
        ("/m/sub/b", 8),
        ("chain", 7),
        ("none", "is a link to 'none', where no file is"),
        ("a/x", "is a link to 'a/x', where no file is"),
        ("/m/none", "is a link to '/m/none', where no file is"),
        ("../m/a", "is a link to '../m/a', which leads out of the model's folder"),
        ("../../etc", "is a link to '../../etc', which leads out of the model's folder"),
        ("/etc/passwd", "is a link to '/etc/passwd', which leads out of the model's folder"),
        ("/m/../etc/x", "is a link to '/m/../etc/x', which leads out of the model's folder"),
        ("/", "is a link to '/', which leads out of the model's folder"),
        ("round", "is a link to 'round', which leads in a circle"),
        ("out", "is a link to 'out', which leads out of the model's folder"),
        ("sneaky/passwd", "is a link to 'sneaky/passwd', which leads out of the model's folder"),
        ("", "is a link to '', which leads in a circle"),
    ],
)
def test_where_a_link_leads(target: str, leads: int | str) -> None:
    entries = [
        *(f("m/a", 7), f("m/sub/b", 8), f("etc/passwd", 9), link("m/out", "../etc/passwd")),
        *(link("m/sneaky", "../etc"), link("m/chain", "chain2"), link("m/chain2", "/m/a")),
        *(link("m/round", "round2"), link("m/round2", "round"), link("m/l", target)),
    ]
    if target == "":
        # The folder itself, which is a circle and has no files more.
        assert "l" not in laid(entries)
        return
    assert laid(entries)["l"] == leads


def test_a_link_in_a_folder_begins_there() -> None:
    assert laid([f("m/a", 7), link("m/x/y/l", "../../a"), link("m/x/k", "y/l")])["x/k"] == 7


def test_a_link_to_a_folder_shows_its_files_again() -> None:
    entries = [f("m/v1/a", 1), link("m/v1/b", "../c"), f("m/c", 3), link("m/latest", "v1")]
    assert laid(entries) == {"v1/a": 1, "v1/b": 3, "c": 3, "latest/a": 1, "latest/b": 3}


def test_links_to_folders_in_a_circle_end() -> None:
    assert laid([f("m/a"), link("m/self", "."), link("m/s/up", "..")]) == {"a": 1}
    crosswise = [f("m/x/a"), f("m/y/b"), link("m/x/y", "../y"), link("m/y/x", "../x")]
    assert laid(crosswise) == {"x/a": 1, "y/b": 1, "x/y/b": 1, "y/x/a": 1}


def test_links_do_not_make_a_million_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layering, "MAX_FILES", 5000)
    entries = [f("m/d0/a")]
    for level in range(1, 20):
        entries += [link(f"m/d{level}/{n}", f"../d{level - 1}") for n in range(10)]
    with pytest.raises(UnsafePath, match="links make them of fewer"):
        laid(entries)


def test_entries_of_all_layers_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layering, "MAX_FILES", 10)
    read = []

    def layers() -> Iterator[tuple[str, list[Entry]]]:
        for number in range(100):
            read.append(number)
            yield str(number), [f("m/a"), f("m/b"), gone("m/c")]

    with pytest.raises(UnsafePath, match="more than 10 names"):
        Layers(layers(), "m")
    assert read == [0, 1, 2, 3]


def test_folders_are_limited_also_where_they_are_no_entries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(layering, "MAX_FILES", 10)
    assert len(laid([f("m/1/2/3/4/5/6/7/8/9/a")])) == 1
    with pytest.raises(UnsafePath, match="more than 10 folders"):
        laid([f("m/1/2/3/4/5/a"), f("m/b/2/3/4/5/a")])


@pytest.mark.parametrize(
    "entries",
    [
        [f("m/" + "é" * 30), f("m/" + "è" * 30)],
        [link("m/a", "x" * 60), link("m/b", "x" * 60)],
        # Few and short, but shown again and again.
        [f("m/d/" + "x" * 30), *(link(f"m/{n}", "d") for n in range(5))],
    ],
)
def test_names_are_limited_in_sum(monkeypatch: pytest.MonkeyPatch, entries: list[Entry]) -> None:
    laid(entries)
    monkeypatch.setattr(layering, "MAX_NAME_BYTES", 110)
    with pytest.raises(UnsafePath, match="more than 110 bytes"):
        laid(entries)


def test_the_way_that_links_lead_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is short, and leads to one that is long."""
    long = "d/../" * 400 + "a"
    entries = [
        f("m/a"),
        d("m/d"),
        link("m/long", long),
        *(link(f"m/{n}", "long") for n in range(9)),
    ]
    assert laid(entries)["8"] == 1
    monkeypatch.setattr(layering, "_MAX_STEPS", 4000)
    with pytest.raises(UnsafePath, match="lead over too many folders"):
        laid(entries)


def test_long_links_take_no_time() -> None:
    """In deep folders, where each step back is no new way from the root."""
    deep = "m/" + "x/" * 400
    entries = [f("m/a", 7), f(f"{deep}b")]
    entries += [link(f"{deep}{n}", "../x/" * 380 + "b") for n in range(2000)]
    began = time.process_time()
    assert len(laid(entries)) == 2002
    assert time.process_time() - began < 5


def test_a_name_that_may_lead_elsewhere() -> None:
    assert laid([f("m/a"), f("m/b")], [Entry("unsafe", "m/a")]) == {
        "a": "has a name in an archive that may lead elsewhere",
        "b": 1,
    }


def test_folders_in_each_other_have_an_end() -> None:
    """Of links as well, whose names are short: each shows all that is below the next."""
    entries = [link(f"m/{n}/x", f"../{n + 1}") for n in range(50_000)]
    with pytest.raises(UnsafePath, match="more than 512 deep"):
        laid([f("m/50000/a"), *entries])


def test_a_chain_of_links_that_doubles_each_time() -> None:
    entries = [link(f"m/x/l{n}", f"l{n + 1}/../x/l{n + 1}") for n in range(40)]
    entries += [link("m/x/l40", ".")]
    assert "in a circle" in str(laid(entries)["x/l0"])


# Hard links


def test_a_hard_link_is_the_file_of_that_moment() -> None:
    assert laid([f("m/a", 1), hard("m/h", "m/a"), f("m/a", 2)]) == {"a": 2, "h": 1}
    assert laid([f("m/a", 1)], [hard("m/h", "./m/a"), gone("m/a")]) == {
        "h": "is a hard link to './m/a', where no file is"
    }
    assert laid([f("m/a", 1), hard("m/h", "m/a"), hard("m/h2", "/m/h")]) == {
        "a": 1,
        "h": 1,
        "h2": 1,
    }
    assert laid([f("m/s/a", 1), link("m/s/l", "a"), hard("m/s/h", "m/s/l")])["s/h"] == 1


@pytest.mark.parametrize("target", ["etc/passwd", "/etc/passwd", "m/../etc/passwd", "../m/a", ""])
def test_a_hard_link_out_of_the_folder(target: str) -> None:
    entries = [f("m/a"), f("etc/passwd", 9), hard("m/h", target)]
    assert "leads out" in str(laid(entries)["h"])


def test_without_a_folder_the_root_is_the_model() -> None:
    entries = [f("a", 1), f("x/b", 2), link("l", "/x/b"), link("o", "../a"), hard("h", "a")]
    assert laid(entries, folder="") == {
        "a": 1,
        "x/b": 2,
        "l": 2,
        "h": 1,
        "o": "is a link to '../a', which leads out of the model's folder",
    }


_names = st.sampled_from(["m", "a", "b", "..", ".", "etc"])
_parts = st.sampled_from(["m", "a", "b", "etc"])
_paths = st.lists(_parts, min_size=1, max_size=3).map("/".join)
_targets = st.builds(
    lambda slash, parts: slash + "/".join(parts),
    st.sampled_from(["", "/"]),
    st.lists(_names, max_size=4),
)
_entries = st.one_of(
    st.builds(f, _paths, st.integers(0, 9)),
    st.builds(d, _paths),
    st.builds(gone, _paths),
    st.builds(opaque, _paths),
    st.builds(lambda path: Entry("unsafe", path), _paths),
    st.builds(link, _paths, _targets),
    st.builds(hard, _paths, _targets),
)


@given(st.lists(st.lists(_entries, max_size=8), max_size=3))
def test_whatever_is_found_is_in_the_folder(layers: list[list[Entry]]) -> None:
    numbered = ((str(number), entries) for number, entries in enumerate(layers))
    try:
        found = list(Layers(numbered, "m").files())
    except UnsafePath:
        return
    assert len({file.path for file in found}) == len(found)
    for file in found:
        assert not {"", ".", ".."} & set(file.path.split("/"))
        if file.content is not None:
            assert file.content.entry.path.startswith("m/")
            assert file.content.entry in layers[int(file.content.layer)]
        else:
            assert file.fault
