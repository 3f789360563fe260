"""What `top` draws: it fits, it says what matters first, and it can be read without colour."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from modelcache.api import CatalogReport, Condition
from modelcache.api.nodecache import CompileReport, CompileState
from modelcache.cli.nodes.frames import Frame, Kind, Wish, frame
from modelcache.cli.nodes.rates import Rates
from modelcache.cli.nodes.sums import Order, rows
from modelcache.cli.nodes.views import Look
from modelcache.errors import Reason
from tests.unit.cli.nodes.samples import GIB, failing, fleet, moving, one, ready, status

MIB = 1 << 20


def drawn(
    look: Look,
    wish: Wish | None = None,
    *,
    width: int = 80,
    height: int = 24,
    before: Look | None = None,
    no_color: bool = True,
) -> Frame:
    console = Console(
        file=io.StringIO(), force_terminal=True, no_color=no_color, color_system="256", width=200
    )
    rates = Rates()
    if before is not None:
        rates.note(before.nodes, 0.0)
    rates.note(look.nodes, 2.0)
    found = rows(look, rates)
    wish = wish or Wish()
    return frame(console, look, found, wish, width=width, height=height, time="14:03:22")


def text(picture: Frame) -> str:
    return "\n".join(line.plain.rstrip() for line in picture.lines)


def test_one_node_at_eighty_columns() -> None:
    retry = datetime.now(UTC) + timedelta(seconds=200)
    models = [ready("small"), failing("gated", attempts=3, retry_at=retry)]
    picture = drawn(
        one(moving("large", 500 * MIB), *models), before=one(moving("large", 300 * MIB), *models)
    )
    assert (
        text(picture)
        == """\
modelcache · node n1 · 14:03:22
agent 1.2.3 at 127.0.0.1:8080
1 of 3 models ready, 1 failing, 1 on the way; 100.0 MiB/s, 15s left
disk ━━━━━━·········· 301.0 GiB of 800.0 GiB taken, 1.0 GiB promised

MODEL                STATE        PROGRESS               SIZE         RATE  LEFT
gated                Failed
  AuthFailed, 3 tries failed, next in 3m: the token is refused
large                Downloading  ━━········   24%    2.0 GiB  100.0 MiB/s   15s
small                Ready                            2.0 GiB
"""
        + "\n" * 13
        + "q quit  s sort: urgency"
    )


def test_what_is_wrong_beside_models_is_said_above_them() -> None:
    sick = Condition(
        type="ModelCacheDiskHealthy", status="False", reason="WriteFailed", message="EIO",
        last_transition_time=datetime.now(UTC),
    )  # fmt: skip
    look = one(
        ready("m"),
        conditions=(sick,),
        catalog=CatalogReport(objects=3, problems=("c.yaml:3: no uri",), problem_count=4),
        compile_caches=(
            CompileReport(name="c", state=CompileState.READY),
            CompileReport(name="d", state=CompileState.MISSING),
        ),
    )
    found = text(drawn(look))
    assert "the disk: WriteFailed: EIO" in found
    assert "4 problems in the catalog, such as c.yaml:3: no uri" in found
    assert "1 of 2 compile caches ready, 1 missing" in found


def test_two_hundred_models_scroll_and_the_last_line_says_what_is_not_seen() -> None:
    models = [ready(f"m{n:03}") for n in range(198)]
    look = one(*models, failing("zz-broken"), moving("zz-moving", GIB))
    picture = drawn(look)
    found = text(picture)
    body = found.partition("MODEL")[2].splitlines()[1:]
    assert body[0].startswith("zz-broken")
    assert body[2].startswith("zz-moving")
    assert f"and {200 - picture.shown} more" in found
    assert f"1-{picture.shown} of 200" in found
    further = drawn(look, Wish(skipped=50))
    assert f"51-{50 + further.shown} of 200" in text(further)
    end = drawn(look, Wish(skipped=5000))
    assert "200 of 200" in text(end)
    assert "m197" in text(end)
    assert "more" not in text(end)
    assert end.skipped + end.shown == 200


def test_a_fleet_has_three_views() -> None:
    look = fleet(n1=status(ready("a"), moving("b", GIB)), n2=status(ready("a"), failing("b")))
    pairs, nodes, models = (text(drawn(look, Wish(kind=kind))) for kind in Kind)
    assert "https://api: 2 nodes, 2 agents ready" in pairs
    lines = pairs.partition("MODEL")[2].splitlines()[1:]
    assert [line.split()[:2] for line in lines if line[:1].isalpha()][:4] == [
        ["b", "n2"], ["b", "n1"], ["a", "n1"], ["a", "n2"]
    ]  # fmt: skip
    assert "v view: models on nodes" in pairs
    rows = [line.split() for line in nodes.partition("NODE")[2].splitlines()[1:3]]
    assert rows[0][:3] == ["n2", "1/2", "1"]
    assert rows[1][:3] == ["n1", "1/2", "1"]
    assert "50%" in rows[1]
    rows = [line.split() for line in models.partition("MODEL")[2].splitlines()[1:3]]
    assert rows[0][:4] == ["b", "0/2", "1", "1"]
    assert rows[1][:2] == ["a", "2/2"]


def test_a_cluster_without_nodes_and_a_node_without_models_say_so() -> None:
    assert "nothing is here" in text(drawn(fleet()))
    assert "nothing is here" in text(drawn(one()))


@given(
    st.integers(20, 250),
    st.integers(5, 60),
    st.sampled_from(list(Order)),
    st.sampled_from(list(Kind)),
    st.integers(0, 40),
    st.lists(st.text(max_size=120), max_size=12),
    st.booleans(),
)
def test_whatever_is_said_it_fits(
    width: int,
    height: int,
    order: Order,
    kind: Kind,
    skipped: int,
    messages: list[str],
    several: bool,
) -> None:
    models = [failing(f"m{n}", message) for n, message in enumerate(messages)]
    models += [moving("moves", GIB), ready("a" * 54)]
    trouble = messages[0] if messages else ""
    look = fleet(n1=status(*models), n2=None) if several else one(*models)
    look = Look(look.nodes, look.where, trouble)
    picture = drawn(look, Wish(order, kind, skipped), width=width, height=height)
    assert len(picture.lines) == height
    for line in picture.lines:
        assert cell_len(line.plain) <= width
        assert line.plain.isprintable()


@pytest.mark.parametrize("wide", ["模型" * 60, "e\u0301" * 60, "🙂" * 60])
def test_wide_characters_take_the_room_that_they_take(wide: str) -> None:
    picture = drawn(one(failing("m", wide)), width=41)
    (line,) = (line for line in picture.lines if wide[-1] in line.plain)
    assert 39 <= cell_len(line.plain) <= 41
    assert line.plain.endswith("…")


def test_colours_add_nothing_that_is_not_there_without_them() -> None:
    look = one(ready("small"), failing("gated"), moving("large", GIB))
    plain, coloured = drawn(look), drawn(look, no_color=False)
    strip = str.maketrans(dict.fromkeys("━╺╸·", " "))
    for one_line, other in zip(plain.lines, coloured.lines, strict=True):
        assert one_line.plain.translate(strip) == other.plain.translate(strip)


def test_an_update_that_fails_is_seen_before_what_is_ready() -> None:
    update: dict[str, Any] = {"reason": Reason.NOT_FOUND, "message": "it is gone", "attempts": 2}
    found = text(drawn(one(ready("a"), ready("stale", **update))))
    assert "2 of 2 models ready, 1 update failing" in found
    body = found.partition("MODEL")[2].splitlines()[1:]
    assert body[0].split()[:2] == ["stale", "Ready"]
    assert body[1] == "  update failing, NotFound, 2 tries failed: it is gone"
    assert body[2].startswith("a ")
    fleets = fleet(n1=status(ready("a"), ready("stale", **update)), n2=status(ready("stale")))
    found = text(drawn(fleets, Wish(kind=Kind.MODELS)))
    assert found.partition("MODEL")[2].splitlines()[1].split()[:3] == ["stale", "2/2", "1"]


def test_in_little_room_columns_go_and_the_name_stays() -> None:
    look = one(moving("a-model-of-a-name", GIB), ready("other"))
    narrow = text(drawn(look, width=44))
    assert "a-model-of-" in narrow
    assert "50%" in narrow
    assert "SIZE" not in narrow
    assert "PROGRESS" not in narrow
    assert "PROGRESS" in text(drawn(look, width=66))
