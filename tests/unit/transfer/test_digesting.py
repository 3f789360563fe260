from __future__ import annotations

import hashlib
import subprocess

import pytest

from modelcache.errors import ChecksumMismatch
from modelcache.transfer.digesting import Digests

DATA = b"123456789"

# The check values of the CRC catalogue (https://reveng.sourceforge.io/crc-catalogue/all.htm).
KNOWN = {
    "sha256": hashlib.sha256(DATA).hexdigest(),
    "sha1": hashlib.sha1(DATA).hexdigest(),
    "md5": hashlib.md5(DATA).hexdigest(),
    "crc32": "cbf43926",
    "crc32c": "e3069283",
    "crc64nvme": "ae8b14860a799888",
}


@pytest.mark.parametrize("algorithm", sorted(KNOWN))
def test_each_algorithm_is_the_one_of_its_name(algorithm: str) -> None:
    digests = Digests(len(DATA), None, {algorithm: KNOWN[algorithm]})
    digests.update(DATA[:4])
    digests.update(memoryview(DATA)[4:])
    assert digests.check("f") == {algorithm: KNOWN[algorithm]}


@pytest.mark.parametrize("algorithm", sorted(KNOWN))
def test_a_wrong_one_is_refused(algorithm: str) -> None:
    digests = Digests(len(DATA), None, {algorithm: KNOWN[algorithm]})
    digests.update(DATA[:-1] + b"8")
    with pytest.raises(ChecksumMismatch, match=algorithm):
        digests.check("f")


def test_git_sha1_is_what_git_says() -> None:
    git = subprocess.run(
        ["git", "hash-object", "--stdin"], input=DATA, capture_output=True, check=True
    )
    digests = Digests(len(DATA), None, {"git-sha1": git.stdout.decode().strip()})
    digests.update(DATA)
    digests.check("f")


def test_unknown_algorithms_are_passed_over_and_not_called_verified() -> None:
    digests = Digests(len(DATA), None, {"blake9": "00"})
    digests.update(DATA)
    assert digests.check("f") == {}
