from __future__ import annotations

import io
import json
import logging
import sys
import warnings

import pytest
import structlog

from modelcache.service.logs import configure_logs, log_event
from modelcache.transfer.events import FetchEnded
from modelcache.transfer.spending import Times


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_one_document_for_each_event() -> None:
    stream = io.StringIO()
    configure_logs(as_json=True, level="info", stream=stream)
    structlog.get_logger().info("model.ready", model="m", bytes=5)
    structlog.get_logger().debug("not.this")
    (line,) = lines(stream)
    assert (line["event"], line["model"], line["bytes"], line["level"]) == (
        "model.ready",
        "m",
        5,
        "info",
    )
    assert str(line["timestamp"]).endswith("Z")


def test_what_libraries_say_is_json_too() -> None:
    stream = io.StringIO()
    configure_logs(as_json=True, level="info", stream=stream)
    logging.getLogger("urllib3").warning("retrying %s", "x")
    logging.getLogger("urllib3").info("not this")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old", UserWarning, stacklevel=1)
    first, second = lines(stream)
    assert (first["event"], first["level"]) == ("retrying x", "warning")
    assert "old" in str(second["event"])


@pytest.mark.parametrize("as_json", [True, False])
def test_a_traceback_shows_no_variables(as_json: bool) -> None:
    stream = io.StringIO()
    configure_logs(as_json=as_json, level="info", stream=stream)
    token = "hf_" + "secretsecret"
    try:
        raise ValueError(f"broken {len(token)}")
    except ValueError:
        structlog.get_logger().exception("model.defect")
    assert "ValueError: broken 15" in stream.getvalue()
    assert token not in stream.getvalue()


def test_stderr_is_the_one_of_this_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    configure_logs(as_json=True, level="info")
    bars = io.StringIO()
    monkeypatch.setattr(sys, "stderr", bars)
    structlog.get_logger().info("above.the.bars")
    logging.getLogger("x").warning("library")
    assert [line["event"] for line in lines(bars)] == ["above.the.bars", "library"]


def test_the_end_of_a_fetch_says_where_its_time_went() -> None:
    stream = io.StringIO()
    configure_logs(as_json=True, level="info", stream=stream)
    times = Times(origin=6.0, disk=1.5, hash=0.5, limit=0.25)
    log_event(FetchEnded("m", "hf", 4.0, 2**23, None, mirrored=7, retries=2, times=times))
    (line,) = lines(stream)
    del line["timestamp"]
    assert line == {
        "event": "fetch.ended",
        "level": "info",
        "model": "m",
        "received_bytes": 2**23,
        "seconds": 4.0,
        "mib_per_second": 2.0,
        "mirrored_bytes": 7,
        "retries": 2,
        "bounded_by": "origin",
        "origin_seconds": 6.0,
        "disk_seconds": 1.5,
        "hash_seconds": 0.5,
        "limit_seconds": 0.25,
    }
