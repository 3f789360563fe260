"""What whoever may write to a place puts there beside a good bundle keeps nobody from that one."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from modelcache.api import parse_uri
from modelcache.compilecache.bundles.local import LocalBundle
from modelcache.compilecache.bundles.signing import SigningKey, TrustedKeys
from modelcache.compilecache.bundles.trust import Trust
from modelcache.compilecache.places.directories import DirectoryPlace
from modelcache.compilecache.places.fetching import admitted
from modelcache.compilecache.places.images import MAX_CONFIG_BYTES
from modelcache.compilecache.places.oci import OciPlace
from modelcache.compilecache.places.protocol import Place, Placed
from modelcache.errors import AuthFailed, ModelCacheError
from modelcache.origins import Network
from modelcache.transfer import Cancel
from tests.support.bundles import a_bundle, a_key
from tests.support.registry import OCI_MANIFEST, Registry

KEY = SigningKey.generate()
TRUST = Trust(keys=TrustedKeys(KEY.public))
OTHER = "b" * 64


def found(place: Place) -> tuple[list[str], list[str]]:
    """The digests of what is taken, and why other things are not."""
    why: list[str] = []

    def refused(_: Placed, error: ModelCacheError) -> None:
        why.append(str(error))

    taken = [
        each.placed.digest
        for each in admitted(place, a_key().digest, TRUST, Cancel(), refused=refused)
    ]
    return taken, why


# Directories


@pytest.fixture
def shared() -> Iterator[Path]:
    """In memory, where a file may be of any year."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def _of_time(seconds: int) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        path.write_bytes(b"{}")
        os.utime(path, (seconds, seconds))

    return make


SPOILS: dict[str, Callable[[Path], object]] = {
    "a link": lambda path: path.symlink_to("/etc/passwd"),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a fifo": os.mkfifo,
    "a directory": Path.mkdir,
    "nothing of it": lambda path: path.write_bytes(b""),
    "too much": lambda path: path.write_bytes(b" " * (2 << 20)),
    "of the year 36812": _of_time(2**40),
    "of the year 1": _of_time(-(2**40)),
}


@pytest.mark.parametrize("what", SPOILS)
def test_in_a_directory(what: str, shared: Path, tmp_path: Path) -> None:
    place = DirectoryPlace(parse_uri(shared.as_uri()), within=None, forbidden=tmp_path / "cache")
    good = a_bundle(tmp_path / "b", signed_by=KEY)
    place.publish(good)
    folder = shared / a_key().digest / OTHER
    folder.mkdir()
    SPOILS[what](folder / "bundle.json")
    assert found(place)[0] == [good.digest]
    assert place.keys() == (a_key().digest,)


@pytest.mark.parametrize("what", ["a link", "a link to nothing", "a fifo", "a directory"])
def test_what_is_no_bundle_gives_way(what: str, shared: Path, tmp_path: Path) -> None:
    place = DirectoryPlace(parse_uri(shared.as_uri()), within=None, forbidden=tmp_path / "cache")
    good = a_bundle(tmp_path / "b", signed_by=KEY)
    folder = shared / a_key().digest / good.digest.removeprefix("sha256:")
    folder.mkdir(parents=True)
    SPOILS[what](folder / "bundle.json")
    assert place.publish(good)
    assert found(place) == ([good.digest], [])


# Registries


@pytest.fixture
def repository(registry: Registry, tmp_path: Path) -> Repository:
    return Repository(registry, f"spoiled/{sha256(str(tmp_path).encode()).hexdigest()[:20]}")


class Repository:
    """One with a good bundle, and what an image of it is made of."""

    def __init__(self, registry: Registry, name: str) -> None:
        self.registry, self.name = registry, name
        uri = parse_uri(f"oci://{registry.host}/{name}")
        self.place = OciPlace(uri, secret=None, network=Network())

    def publish(self, bundle: LocalBundle) -> None:
        assert self.place.publish(bundle)
        self.tag = next(tag for tag in self.tags() if tag.endswith(bundle.digest[7:39]))
        answer = self.registry.ask("GET", self._manifest(self.tag), Accept=OCI_MANIFEST)
        self.document: dict[str, Any] = json.loads(answer.data)

    def tags(self) -> list[str]:
        answer = self.registry.ask("GET", f"/v2/{self.name}/tags/list")
        return list(json.loads(answer.data)["tags"])

    def push(self, tag: str, **annotations: str) -> None:
        changed = {f"dev.modelcache.{name}": value for name, value in annotations.items()}
        if "created" in annotations:
            changed["org.opencontainers.image.created"] = annotations["created"]
        document = {**self.document, "annotations": {**self.document["annotations"], **changed}}
        self.registry.push_manifest(self.name, tag, document)

    def _manifest(self, tag: str) -> str:
        return f"/v2/{self.name}/manifests/{tag}"

    def spoiled(self, digest: str) -> str:
        """The good bundle's tag, with another digest."""
        return self.tag[:-32] + digest.removeprefix("sha256:")[:32]


def test_an_image_of_another_digest(repository: Repository, tmp_path: Path) -> None:
    good = a_bundle(tmp_path / "b", signed_by=KEY)
    repository.publish(good)
    # With the good one's envelope, which is signed.
    repository.push(repository.spoiled(OTHER), digest=f"sha256:{OTHER}")
    taken, why = found(repository.place)
    assert taken == [good.digest]
    assert "where" in why[0]


def test_an_image_whose_digest_is_of_no_kind(repository: Repository, tmp_path: Path) -> None:
    good = a_bundle(tmp_path / "b", signed_by=KEY)
    repository.publish(good)
    repository.push(repository.spoiled(OTHER), digest=OTHER)
    assert found(repository.place)[0] == [good.digest]


@pytest.mark.parametrize(
    "created", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-11-22T00:00:00"]
)
def test_an_image_from_beyond_the_calendar(
    repository: Repository, tmp_path: Path, created: str
) -> None:
    good = a_bundle(tmp_path / "b", signed_by=KEY)
    repository.publish(good)
    tag = repository.spoiled(OTHER)
    repository.push(tag, digest=f"sha256:{OTHER}", created=created)
    assert found(repository.place)[0] == [good.digest]


def test_an_image_whose_config_is_too_long(repository: Repository, tmp_path: Path) -> None:
    good = a_bundle(tmp_path / "b", signed_by=KEY)
    repository.publish(good)
    long = repository.registry.push_blob(repository.name, b" " * (MAX_CONFIG_BYTES + 1))
    config = {**repository.document["config"], "digest": long["digest"]}
    repository.document["config"] = config
    repository.push(repository.spoiled(OTHER), digest=f"sha256:{OTHER}")
    taken, why = found(repository.place)
    assert taken == [good.digest]
    assert "longer than" in why[0]


# Whatever the place


class OneRefused:
    """A place that shows one bundle, and lets nobody read it: its class of storage, say, or its
    key, is another than the rest's."""

    def __init__(self, place: Place, digest: str) -> None:
        self._place, self._digest = place, digest

    def __getattr__(self, name: str) -> Any:
        return getattr(self._place, name)

    def envelope(self, placed: Placed) -> bytes:
        if placed.digest == self._digest:
            raise AuthFailed("it refuses access")
        return self._place.envelope(placed)


def test_one_that_can_t_be_read(shared: Path, tmp_path: Path) -> None:
    place: Any = DirectoryPlace(
        parse_uri(shared.as_uri()), within=None, forbidden=tmp_path / "cache"
    )
    good = a_bundle(tmp_path / "b", signed_by=KEY)
    place.publish(good)
    newer = a_bundle(tmp_path / "n", b"newer", signed_by=KEY)
    place.publish(newer)
    assert found(OneRefused(place, newer.digest)) == ([good.digest], ["it refuses access"])
    # Where nothing can be read it is told as what it is.
    place.remove(place.find(good.digest))
    with pytest.raises(AuthFailed):
        found(OneRefused(place, newer.digest))
