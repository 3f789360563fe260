"""Receipts: what a killed fetch had, found again."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelcache.store.receipts import Receipts
from tests.support.store import COMMIT, OTHER_COMMIT, described

FILE, OTHER = described("a", b"a"), described("b", b"b")


@pytest.fixture
def receipts(tmp_path: Path) -> Receipts:
    return Receipts(tmp_path)


def test_what_is_noted_is_read(receipts: Receipts) -> None:
    receipts.append("m", COMMIT, FILE)
    receipts.append("m", COMMIT, OTHER)
    assert list(receipts.read()) == [FILE, OTHER]


def test_a_torn_line_costs_only_itself(receipts: Receipts, tmp_path: Path) -> None:
    receipts.append("m", COMMIT, FILE)
    path = tmp_path / f"m.{COMMIT}.jsonl"
    path.write_bytes(path.read_bytes() + b'{"path": "torn", "si')
    receipts.append("m", COMMIT, OTHER)
    assert list(receipts.read()) == [FILE, OTHER]


def test_news_come_once(receipts: Receipts) -> None:
    receipts.append("m", COMMIT, FILE)
    assert list(receipts.news()) == [FILE]
    assert list(receipts.news()) == []
    receipts.append("m", COMMIT, OTHER)
    assert list(receipts.news()) == [OTHER]


def test_news_of_a_receipt_begun_anew_come_from_its_start(receipts: Receipts) -> None:
    receipts.append("m", COMMIT, FILE)
    assert list(receipts.news()) == [FILE]
    receipts.drop("m", COMMIT)
    assert list(receipts.news()) == []
    receipts.append("m", COMMIT, OTHER)
    assert list(receipts.news()) == [OTHER]


def test_half_a_line_is_news_when_it_is_whole(receipts: Receipts, tmp_path: Path) -> None:
    receipts.append("m", COMMIT, FILE)
    path = tmp_path / f"m.{COMMIT}.jsonl"
    content = path.read_bytes()
    path.write_bytes(content[:20])
    assert list(receipts.news()) == []
    path.write_bytes(content)
    assert list(receipts.news()) == [FILE]


def test_receipts_are_a_snapshots_own(receipts: Receipts) -> None:
    receipts.append("m", COMMIT, FILE)
    receipts.append("m", OTHER_COMMIT, OTHER)
    receipts.append("m-2", COMMIT, OTHER)
    assert sorted(receipts.of_model("m")) == [(COMMIT, [FILE]), (OTHER_COMMIT, [OTHER])]
    receipts.drop("m", COMMIT)
    assert [name for name, _ in receipts.of_model("m")] == [OTHER_COMMIT]


def test_old_receipts_are_swept(receipts: Receipts) -> None:
    receipts.append("m", COMMIT, FILE)
    receipts.sweep(3600)
    assert list(receipts.read()) == [FILE]
    receipts.sweep(0)
    assert list(receipts.read()) == []
