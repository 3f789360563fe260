from __future__ import annotations

import base64
import hashlib
import re
import time
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelcache.api import ModelReport, ModelState
from modelcache.api.nodecache import CatalogReport
from modelcache.errors import Reason
from modelcache.service.page import Facts, headers, page
from modelcache.service.page.models import MOST_ROWS
from modelcache.service.page.verdict import Level, verdict
from tests.support import pages
from tests.unit.service.page.test_markup import Read


def of_models(*models: ModelReport, **more: Any) -> Facts:
    return pages.facts(pages.node(*models, **more))


def model(state: ModelState, **more: Any) -> ModelReport:
    return ModelReport.model_validate({"name": "m", "state": state, **more})


READY = model(ModelState.READY, revision="r")
NOT_YET = "The cache was not looked at yet. On a large or slow disk that takes a while."
FAILED = model(ModelState.FAILED, attempts=2, reason=Reason.NOT_FOUND)


@pytest.mark.parametrize(
    ("found", "level", "headline", "rest"),
    [
        (of_models(READY), Level.GOOD, "The model is ready", ""),
        (of_models(READY, READY), Level.GOOD, "All 2 models are ready", ""),
        (of_models(READY, FAILED), Level.BAD, "1 of 2 models ready", "1 failing"),
        (
            of_models(model(ModelState.PENDING), model(ModelState.DOWNLOADING)),
            *(Level.BUSY, "0 of 2 models ready", "1 on the way, 1 waiting"),
        ),
        (
            of_models(READY.model_copy(update={"attempts": 1})),
            *(Level.BAD, "The model is ready", "1 update failing"),
        ),
        (
            of_models(READY.model_copy(update={"wanted": False})),
            *(Level.GOOD, "Nothing is asked of this node"),
            "1 model in the cache that nothing asks for",
        ),
        (
            # A fetch that an origin holds up just now.
            of_models(model(ModelState.DOWNLOADING, reason="RateLimited")),
            *(Level.BAD, "0 of 1 model ready", "1 failing"),
        ),
        (pages.EMPTY, Level.GOOD, "Nothing is asked of this node", ""),
        (pages.STARTING, Level.BUSY, "Starting", NOT_YET),
        (
            # Nothing is wrong with the models, but with what is said of them.
            replace(of_models(READY), age=100.0),
            *(Level.BAD, "The model is ready", "1 problem of the node itself"),
        ),
    ],
)
def test_the_first_line(found: Facts, level: Level, headline: str, rest: str) -> None:
    said = verdict(found)
    assert (said.level, said.headline, said.rest) == (level, headline, rest)


def test_an_agent_that_doesnt_get_on_is_told_of() -> None:
    fresh = of_models(READY)
    assert "Old facts" not in page(replace(fresh, age=20.0))
    old = page(replace(fresh, age=200.0))
    assert "last look at its cache was 3m ago" in old
    assert "As of <time" in old
    assert "09:37:47 UTC" in old  # and not the moment of the answer
    hung = replace(pages.STARTING, hung=("report", "sweep"))
    assert "no sign of life from: report, sweep" in page(hung)


def test_what_needs_help_comes_first() -> None:
    names = re.findall(r'<tr role="row" id="model-([^"]*)"', page(pages.failing()))
    assert names == ["deepseek-v3", "llama-3-3-70b", "mistral-small", "bge-m3", "qwen3-32b"]
    names = re.findall(r'<tr role="row" id="model-([^"]*)"', page(pages.busy()))
    moving, ready = ["llama-3-3-70b", "whisper-large-v3"], ["bge-m3", "support-adapters"]
    assert names == [*moving, "mixtral-8x22b", "qwen3-32b", *ready, "qwen2-7b"]


def test_a_node_with_very_many_models_has_a_page_that_ends() -> None:
    found = of_models(*(READY.model_copy(update={"name": f"m{i}"}) for i in range(MOST_ROWS + 7)))
    html = page(found)
    assert html.count('role="rowheader"') == MOST_ROWS
    assert "and 7 more models" in html


def test_two_hundred_models_cost_little() -> None:
    found, spent = pages.many(200), []
    for _ in range(3):
        before = time.thread_time()
        html = page(found)
        spent.append(time.thread_time() - before)
    assert html.count('role="rowheader"') == 200
    assert len(html.encode()) < 250_000
    assert min(spent) < 0.2  # of a core; 0.013 where it was measured


def test_problems_beyond_those_that_are_named_are_counted() -> None:
    catalog = CatalogReport(objects=1, problems=("one",), problem_count=9)
    assert "and 8 more problems" in page(of_models(READY, catalog=catalog))


def test_a_page_is_allowed_its_own_style_and_script_and_nothing_else() -> None:
    html, policy = page(pages.busy()), headers()["Content-Security-Policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    assert rules["default-src"] == "'none'"
    assert "unsafe" not in policy
    read = Read(html)
    assert not [tag for tag, attributes in read.tags if "style" in attributes]
    links = [attributes["href"] or "" for _, attributes in read.tags if "href" in attributes]
    # Relative, so that they hold behind a proxy that adds to the path.
    assert all(re.match(r"(#|v1/|metrics|data:|$)", link) for link in links)


_NAMES = st.one_of(
    st.text(max_size=60),
    st.sampled_from(["</th><script>", "<!--", '"><img src=x onerror=x>', "\u202e", "\udfff", ""]),
)


@settings(max_examples=30)
@given(st.lists(_NAMES, min_size=5, max_size=5))
def test_no_name_changes_what_the_page_is_made_of(names: list[str]) -> None:
    html = page(pages.with_names(pages.failing(), names))
    html.encode()
    plain = Read(page(pages.with_names(pages.failing(), ["x"] * 5)))
    read = Read(html)
    # In any order, as names have one; and a text that is empty has no element of its own.
    of_others = ("bdi", "span", "div")
    tags = sorted(tag for tag, _ in read.tags if tag not in of_others)
    assert tags == sorted(tag for tag, _ in plain.tags if tag not in of_others)
    assert {name for _, found in read.tags for name in found} <= {
        name for _, found in plain.tags for name in found
    }


def test_a_ready_model_whose_update_fails_is_told_as_both() -> None:
    update_fails = READY.model_copy(update={"name": "m", "attempts": 3, "reason": Reason.NOT_FOUND})
    assert "</span>Ready, update failing</span>" in page(of_models(update_fails))


def test_a_cache_that_is_full_is_nothing_bad() -> None:
    found = of_models(READY)
    assert found.node is not None
    assert found.status is not None
    full = found.status.disk.model_copy(update={"taken": found.status.disk.budget})
    status = found.status.model_copy(update={"disk": full})
    found = replace(found, node=found.node.model_copy(update={"status": status}))
    html = page(found)
    assert "<b>100%</b>" in html
    (bar,) = [attributes for tag, attributes in Read(html).tags if tag == "meter"]
    # Browsers colour it by low, high and optimum.
    assert bar.keys() == {"min", "max", "value", "aria-label"}
    assert verdict(found).level is Level.GOOD


def test_times_are_told_from_when_the_page_is_made() -> None:
    later = replace(pages.failing(), now=pages.NOW + timedelta(minutes=30))
    assert ">tried again now</time>" in page(later)
    assert ">next in " not in page(later)
    assert ">next in " in page(pages.failing())
