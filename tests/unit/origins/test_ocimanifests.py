"""Manifests of a registry that means harm: refusing one costs little more than reading it."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from modelcache.errors import BrokenContent
from modelcache.origins.ociclient import MAX_MANIFEST_BYTES
from modelcache.origins.ocimanifests import ImageManifest, Index, read_document

DIGEST = b"sha256:" + b"0" * 64
GOOD = b'{"mediaType":"m","digest":"%b","size":1,"annotations":{"a":"b"}}' % DIGEST
REFUSALS = {
    "layers that are nothing": (b'{"config":%b,"layers":[%%b]}' % GOOD, b"{}"),
    "layers that are numbers": (b'{"config":%b,"layers":[%%b]}' % GOOD, b"1"),
    "manifests that are nothing": (b'{"manifests":[%b]}', b"{}"),
    "annotations that are numbers": (
        b'{"layers":[],"config":{"digest":"%b","size":1,"annotations":{%%b}}}' % DIGEST,
        b'"%d":1',
    ),
}


def as_large_as_may_be(document: bytes, part: bytes, most: int = MAX_MANIFEST_BYTES) -> bytes:
    one = part % 1_000_000 if b"%d" in part else part
    count = (most - len(document)) // (len(one) + 1)
    parts = (part % number for number in range(count)) if b"%d" in part else [part] * count
    return document % b",".join(parts)


@pytest.mark.parametrize("what", REFUSALS)
def test_what_is_wrong_in_each_place_is_told_of_the_first(what: str) -> None:
    document = as_large_as_may_be(*REFUSALS[what])
    assert 0.7 * MAX_MANIFEST_BYTES < len(document) <= MAX_MANIFEST_BYTES
    began = time.thread_time()
    with pytest.raises(BrokenContent, match="can't be read") as refusal:
        read_document(document, "", "an image")
    assert time.thread_time() - began < 3  # each part told of: 10 to 25 s
    assert len(str(refusal.value)) < 300


WORK = """
import pathlib, re, sys
from modelcache.errors import BrokenContent
from modelcache.origins.ocimanifests import read_document

def peak():
    return int(re.search("VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])

document = sys.stdin.buffer.read()
before = peak()
try:
    read_document(document, "", "x")
except BrokenContent:
    print(peak() - before)
"""


@pytest.mark.parametrize("what", ["layers that are nothing", "annotations that are numbers"])
def test_a_refusal_takes_no_memory_for_each_part(what: str) -> None:
    """In a process of its own: what pydantic takes, Python doesn't count."""
    document = as_large_as_may_be(*REFUSALS[what], MAX_MANIFEST_BYTES // 4)
    found = subprocess.run([sys.executable, "-c", WORK], input=document, capture_output=True)
    assert found.returncode == 0, found.stderr
    assert int(found.stdout) < 60 * 1024  # KiB; each part told of: 720 MiB, and 90 MiB


def test_good_ones_are_read() -> None:
    found = read_document(b'{"config":%b,"layers":[%b,%b]}' % (GOOD, GOOD, GOOD), "", "x")
    assert isinstance(found, ImageManifest)
    assert [layer.annotations for layer in found.layers] == [{"a": "b"}] * 2
    index = read_document(b'{"manifests":[%b]}' % GOOD.replace(b'{"a":"b"}', b"null"), "", "x")
    assert isinstance(index, Index)
    assert index.manifests[0].annotations is None


@pytest.mark.parametrize("annotations", [b"[]", b'"a"', b'{"a":null}', b'{"a":{"b":"c"}}'])
def test_annotations_are_texts(annotations: bytes) -> None:
    document = b'{"manifests":[%b]}' % GOOD.replace(b'{"a":"b"}', annotations)
    with pytest.raises(BrokenContent, match=r"manifests\.0\.annotations"):
        read_document(document, "", "x")
