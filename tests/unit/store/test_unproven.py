"""The list of what came with a copied root: durable, and known on a full disk as well."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from modelcache.errors import InsufficientDisk
from modelcache.store.durable import Durable
from modelcache.store.unproven import Unproven

ONE, TWO, THREE = ("1" * 64, "2" * 64, "3" * 64)


@pytest.fixture
def durable(tmp_path: Path) -> Durable:
    return Durable(tmp_path)


def test_it_shrinks_and_goes(tmp_path: Path, durable: Durable) -> None:
    path = tmp_path / "unproven"
    mine, others = Unproven(path, durable), Unproven(path, durable)
    assert mine.all() == frozenset()
    mine.drop({ONE})
    assert not path.exists()
    mine.write({ONE, TWO})
    assert others.all() == {ONE, TWO}
    others.drop({ONE, THREE})
    assert mine.all() == {TWO}
    mine.drop({TWO})
    assert others.all() == frozenset()
    assert not path.exists()
    mine.write({ONE})
    mine.write(())
    assert not path.exists()


def test_a_torn_line_hides_no_other(tmp_path: Path, durable: Durable) -> None:
    path = tmp_path / "unproven"
    listed = Unproven(path, durable)
    listed.write({ONE, TWO, THREE})
    with path.open("ab") as file:
        file.write(b"\n-" + b"1" * 20)
    listed.drop({TWO})
    assert Unproven(path, durable).all() == {ONE, THREE}


def test_on_a_full_disk_this_process_knows_of_them(
    tmp_path: Path, durable: Durable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    listed = Unproven(tmp_path / "unproven", durable)
    monkeypatch.setattr(durable, "write_file", fail)
    with pytest.raises(InsufficientDisk):
        listed.write({ONE, TWO})
    assert listed.all() == {ONE, TWO}
    listed.drop({ONE})
    assert listed.all() == {TWO}
