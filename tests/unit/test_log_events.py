"""docs/logs.md has the events that the code logs, with their levels and keys."""

from __future__ import annotations

import re
from pathlib import Path

import modelcache
from tests.support.logcalls import logged_events

PACKAGE = Path(modelcache.__file__).parent
PAGE = Path(__file__).parents[2] / "docs" / "logs.md"
IN_CODE = logged_events(PACKAGE)
ROW = re.compile(r"^\| `([a-z_.]+\.[a-z_]+)` \| ([a-z, ]+) \| (.*?) \| (.+) \|$", re.MULTILINE)
WRITTEN = {name: (levels, keys, what) for name, levels, keys, what in ROW.findall(PAGE.read_text())}


def test_each_event_is_on_the_page() -> None:
    assert WRITTEN.keys() - IN_CODE.keys() == set(), "not logged any more"
    assert IN_CODE.keys() - WRITTEN.keys() == set(), "write them down in docs/logs.md"


def test_levels_and_keys_are_as_the_page_says() -> None:
    said = {
        name: (set(levels.split(", ")), set(re.findall(r"`(\w+)`", keys)), "…" in keys)
        for name, (levels, keys, _) in WRITTEN.items()
    }
    assert said == {
        name: (event.levels, event.keys - {"exc_info"}, event.open)
        for name, event in IN_CODE.items()
    }


def test_keys_have_one_meaning() -> None:
    keys = {key for event in IN_CODE.values() for key in event.keys}
    assert all(re.fullmatch(r"[a-z]+(_[a-z0-9]+)*", key) for key in keys)
    # Sentences are `message`, not one word here and another there.
    assert not keys & {"msg", "error", "err", "why", "msgs", "detail", "text"}
    assert not {key for key in keys if key.endswith(("_ms", "_s", "_mb", "_gb", "_secs"))}
