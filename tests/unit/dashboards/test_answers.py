"""What Prometheus answers to the queries that matter most, of a small fleet that is made up: two
nodes, and on the first an agent that takes over from another, so that all is said twice."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

import yaml

from dashboards.queries import STAGES
from modelcache.api import ModelReport, ModelState
from modelcache.errors import Reason
from modelcache.planning.wording import Stage, stage
from tests.support.dashboards import queries
from tests.support.promql import as_grafana_asks

AT = 10
"""Minutes; samples are one a minute."""

OLD = 'node="one",pod="old"'
NEW = 'node="one",pod="new"'
TWO = 'node="two",pod="two"'


Expected = tuple[str, Mapping[str, float]]
"""A query, and the value of each series in the answer by its labels."""


def series() -> dict[str, str]:
    """What is scraped, in the notation of promtool: `a+bxn` grows by b, n times."""
    found: dict[str, str] = {}
    for agent in (OLD, NEW):
        found |= {
            f'modelcache_model_wanted{{{agent},model="here"}}': "1x10",
            f'modelcache_model_state{{{agent},model="here",state="Ready"}}': "1x10",
            f'modelcache_model_state{{{agent},model="here",state="Downloading"}}': "0x10",
            f'modelcache_model_size_bytes{{{agent},model="here"}}': "4000x10",
            f'modelcache_model_resident_bytes{{{agent},model="here"}}': "1000x10",
            f'modelcache_model_wanted{{{agent},model="coming"}}': "1x10",
            f'modelcache_model_state{{{agent},model="coming",state="Ready"}}': "0x10",
            f'modelcache_model_state{{{agent},model="coming",state="Downloading"}}': "1x10",
            f'modelcache_model_size_bytes{{{agent},model="coming"}}': "3600x10",
            # A minute brings 120 bytes: two a second.
            f'modelcache_model_done_bytes{{{agent},model="coming"}}': "0+120x10",
            f"modelcache_disk_taken_bytes{{{agent}}}": "60x10",
            f"modelcache_disk_budget_bytes{{{agent}}}": "80x10",
            f'modelcache_read_ahead_bytes{{{agent},device="nvme0"}}': "131072x10",
            f'modelcache_read_ahead_wanted_bytes{{{agent},device="nvme0"}}': "4194304x10",
            f'modelcache_model_uses_total{{{agent},model="here"}}': "0+1x10",
            f'modelcache_saved_seconds_total{{{agent},model="here"}}': "0+30x10",
        }
    return found | {
        f'modelcache_model_wanted{{{TWO},model="here"}}': "1x10",
        f'modelcache_model_state{{{TWO},model="here",state="Ready"}}': "0x10",
        f'modelcache_model_state{{{TWO},model="here",state="Failed"}}': "1x10",
        f'modelcache_model_state{{{TWO},model="here",state="Downloading"}}': "0x10",
        f'modelcache_model_failing{{{TWO},model="here",reason="AuthFailed"}}': "1x10",
        f'modelcache_model_failed_attempts{{{TWO},model="here"}}': "7x10",
        f'modelcache_model_missing_timestamp_seconds{{{TWO},model="here"}}': "0x10",
        f'modelcache_model_wanted{{{TWO},model="refused"}}': "1x10",
        f'modelcache_model_state{{{TWO},model="refused",state="Ready"}}': "0x10",
        f'modelcache_model_state{{{TWO},model="refused",state="Failed"}}': "1x10",
        # Of no catalog any more, and still there.
        f'modelcache_model_wanted{{{TWO},model="left"}}': "0x10",
        f'modelcache_model_state{{{TWO},model="left",state="Ready"}}': "1x10",
        f'modelcache_model_state{{{TWO},model="left",state="Downloading"}}': "0x10",
        f"modelcache_disk_taken_bytes{{{TWO}}}": "20x10",
        f"modelcache_disk_budget_bytes{{{TWO}}}": "80x10",
        f'modelcache_read_ahead_bytes{{{TWO},device="nvme0"}}': "131072x10",
        f'modelcache_read_ahead_wanted_bytes{{{TWO},device="nvme0"}}': "131072x10",
        f"modelcache_scrub_damaged_files_total{{{TWO}}}": "_x5 2x5",
        f"modelcache_scrub_damaged_files_total{{{NEW}}}": "7x4 8x5",
        # Two starts compiled 90 s each, then eight compiled 1 s each: all would have been 900 s.
        f'modelcache_compile_starts_total{{{TWO},compile_cache="c",result="Miss"}}': "0+1x2 2x7",
        f'modelcache_compile_starts_total{{{TWO},compile_cache="c",result="Hit"}}': "0x2 1+1x7",
        f'modelcache_compile_seconds_total{{{TWO},compile_cache="c"}}': "0+90x2 181+1x7",
        f'modelcache_compile_seconds_saved_total{{{TWO},compile_cache="c"}}': "0x2 89+89x7",
    }


def ask(dashboard: str, panel: str, ref: str = "A", **chosen: str) -> str:
    """A panel's query, as Grafana asks it."""
    (expr,) = (
        asked.expr for asked in queries(dashboard) if (asked.panel, asked.ref) == (panel, ref)
    )
    variables = {"__range": f"{AT}m", "__rate_interval": "4m", **chosen}
    return as_grafana_asks(expr, **variables)


def complaints(folder: Path, expected: Sequence[Expected], given: Mapping[str, str]) -> str:
    """What promtool says of the answers, all in one go; empty: they are as expected."""
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in given.items()],
        "promql_expr_test": [
            {
                "expr": query,
                "eval_time": f"{AT}m",
                "exp_samples": [{"labels": key, "value": each} for key, each in answer.items()],
            }
            for query, answer in expected
        ],
    }
    path = folder / "test.yaml"
    path.write_text(yaml.safe_dump({"rule_files": [], "tests": [test]}))
    done = subprocess.run(["promtool", "test", "rules", path], capture_output=True, text=True)
    return done.stdout + done.stderr if done.returncode else ""


# dashboard, panel, which of its queries, and the answer
ANSWERS: list[tuple[str, str, str, dict[str, float]]] = [
    ("fleet", "Wanted copies that are ready", "A", {"{}": 1 / 4}),
    ("fleet", "Copies still to come", "A", {"{}": 1}),
    ("fleet", "Copies still to come", "B", {"{}": 1}),
    ("fleet", "Copies that fail", "A", {"{}": 1}),
    ("fleet", "Copies that fail", "B", {"{}": 0}),
    # 2400 bytes, two a second.
    ("fleet", "Until the last one is there", "A", {"{}": 1200}),
    ("fleet", "Devices with other read-ahead", "A", {"{}": 1}),
    ("fleet", "Compile caches that hit", "A", {"{}": 0.8}),
    (
        *("fleet", "Nodes and models", "A"),
        {
            '{node="one",model="here",state="Ready"}': 1,
            '{node="one",model="coming",state="Downloading"}': 1,
            '{node="two",model="here",state="Failed"}': 1,
            '{node="two",model="refused",state="Failed"}': 1,
            '{node="two",model="left",state="Ready"}': 1,
        },
    ),
    (
        *("fleet", "Models", "A"),
        {'{model="here"}': 2, '{model="coming"}': 1, '{model="refused"}': 1, '{model="left"}': 0},
    ),
    (
        *("fleet", "Models", "B"),
        {'{model="here"}': 1, '{model="coming"}': 0, '{model="refused"}': 0, '{model="left"}': 0},
    ),
    (
        *("fleet", "Models", "C"),
        {'{model="here"}': 0.5, '{model="coming"}': 0, '{model="refused"}': 0},
    ),
    ("fleet", "On the way", "A", {'{node="one",model="coming"}': 1 / 3}),
    ("fleet", "On the way", "B", {'{node="one",model="coming"}': 2400}),
    ("fleet", "On the way", "C", {'{node="one",model="coming"}': 2}),
    ("fleet", "On the way", "D", {'{node="one",model="coming"}': 1200}),
    (
        *("fleet", "Wanted, and not ready", "A"),
        {
            '{node="one",model="coming",state="Downloading"}': 1,
            '{node="two",model="here",state="Failed"}': 1,
            '{node="two",model="refused",state="Failed"}': 1,
        },
    ),
    (
        *("fleet", "Wanted, and not ready", "B"),
        {'{node="two",model="here",reason="AuthFailed"}': 1},
    ),
    ("fleet", "Wanted, and not ready", "C", {'{node="two",model="here"}': 7}),
    ("fleet", "Wanted, and not ready", "D", {'{node="two",model="here"}': 600}),
    ("fleet", "Disks", "E", {'{node="one"}': 0.75, '{node="two"}': 0.25}),
    ("fleet", "Read-ahead of devices", "C", {'{node="one",device="nvme0"}': 1}),
    # Two of an agent that found them before it was first scraped, one of one that ran before.
    ("fleet", "Damaged files found", "A", {"{}": 3}),
    ("cold-start", "Compiling, without the cache", "A", {"{}": 90}),
    ("cold-start", "Compiling, with the cache", "A", {"{}": 18.8}),
    # Of each use; both agents count their own.
    ("cold-start", "Weights, without the cache", "A", {"{}": 30}),
    ("cold-start", "Starts that compiled nothing", "A", {"{}": 0.8}),
]


def test_the_fleet_answers(tmp_path: Path) -> None:
    expected = [(ask(board, panel, ref), answer) for board, panel, ref, answer in ANSWERS]
    assert complaints(tmp_path, expected, series()) == ""


def test_a_wrong_answer_is_noticed(tmp_path: Path) -> None:
    query = ask("fleet", "Copies that fail")
    assert "exp:" in complaints(tmp_path, [(query, {"{}": 2})], series())


def test_copies_fail_come_and_wait_as_commands_and_the_page_say(tmp_path: Path) -> None:
    told: dict[Stage, int] = dict.fromkeys((*STAGES, Stage.READY), 0)
    given = {}
    for state, reason in product(ModelState, (None, Reason.NOT_FOUND)):
        if state is ModelState.FAILED and reason is None:
            continue  # nothing fails for no reason
        report = ModelReport(name=f"{state}-{reason}".lower(), state=state, reason=reason)
        labels = f'node="one",model="{report.name}"'
        given[f"modelcache_model_wanted{{{labels}}}"] = "1x10"
        for each in ModelState:
            given[f'modelcache_model_state{{{labels},state="{each}"}}'] = f"{each == state:d}x10"
        if reason:
            given[f'modelcache_model_failing{{{labels},reason="{reason}"}}'] = "1x10"
        told[stage(report)] += 1
    assert all(told.values())
    refs = dict(zip(STAGES, "ABCD", strict=True))
    expected: list[Expected] = [
        (ask("fleet", "Failing, on the way, waiting", refs[each]), {"{}": told[each]})
        for each in STAGES
    ]
    assert complaints(tmp_path, expected, given) == ""


def test_one_node_answers_for_itself(tmp_path: Path) -> None:
    # Failed and Ready, as they are numbered.
    states = {'{model="here"}': 5.0, '{model="refused"}': 5.0, '{model="left"}': 4.0}
    expected: list[Expected] = [
        (ask("node", "Wanted models that are ready", node="one"), {"{}": 0.5}),
        (ask("node", "Room that is taken", node="two"), {'{node="two"}': 0.25}),
        (ask("node", "In the page cache", node="one"), {"{}": 0.25}),
        (ask("node", "States over time", node="two"), states),
    ]
    assert complaints(tmp_path, expected, series()) == ""


def test_a_fleet_that_wants_nothing_divides_by_nothing(tmp_path: Path) -> None:
    starts = '{node="one",compile_cache="c"'
    idle = {
        'modelcache_model_wanted{node="one",model="left"}': "0x10",
        'modelcache_model_state{node="one",model="left",state="Ready"}': "1x10",
        f'modelcache_compile_starts_total{starts},result="Hit"}}': "0x10",
        f"modelcache_compile_seconds_total{starts}}}": "0x10",
        f"modelcache_compile_seconds_saved_total{starts}}}": "0x10",
    }
    expected: list[Expected] = [
        (ask("fleet", "Wanted copies that are ready"), {}),
        (ask("fleet", "Copies still to come", "A"), {"{}": 0}),
        (ask("fleet", "Copies still to come", "B"), {"{}": 0}),
        (ask("fleet", "Copies that fail", "A"), {"{}": 0}),
        (ask("fleet", "Copies that fail", "B"), {"{}": 0}),
        (ask("fleet", "Devices with other read-ahead"), {"{}": 0}),
        (ask("fleet", "Compile caches that hit"), {}),
        (ask("cold-start", "Compiling, without the cache"), {}),
    ]
    assert complaints(tmp_path, expected, idle) == ""
