"""What a store lacks of a revision is what a fetch of it reserves."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from modelcache.api import Source
from modelcache.errors import InsufficientDisk
from modelcache.origins import OriginSettings, open_origin
from modelcache.store import promised_for
from modelcache.transfer import Cancel, Missing, ModelFetch, resolve
from tests.support.fetching import Fetching
from tests.support.hub import HubServer, Stall
from tests.support.registry import Registry
from tests.support.tars import files, layer

MIB = 1 << 20
CONFIG, WEIGHTS = b"{}", bytes(range(256)) * 4 * 4096


def wanted(fetching: Fetching, uri: str, name: str = "m", **more: object) -> ModelFetch:
    source = Source(uri=uri, **more)  # type: ignore[arg-type]
    origin = open_origin(source, OriginSettings(root=fetching.root, file_roots=None))
    return ModelFetch(name, source, origin, resolve(origin, source, Cancel()))


def reserved(fetching: Fetching, fetch: ModelFetch) -> int | None:
    """What a fetch asks for first, of a disk that has nothing to give; None: it asks for none."""
    asked: list[int] = []

    def check(needed: int, count: int, what: str) -> None:
        asked.append(needed)
        raise InsufficientDisk(f"{what} has {count} files", needed=needed)

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(fetching.store.space, "_check", check)
        try:
            fetching.fetcher.fetch(fetch, Cancel())
        except InsufficientDisk:
            return asked[0]
    return None


def test_of_a_new_model_everything_is_missing(fetching: Fetching, hub: HubServer) -> None:
    hub.add_repo("org/a", {"config.json": CONFIG, "w.safetensors": WEIGHTS})
    fetch = wanted(fetching, "hf://org/a")
    found = fetching.fetcher.missing(fetch)
    assert (found.files, found.shares) == (2, frozenset())
    assert found.bytes >= len(WEIGHTS) + len(CONFIG)
    assert promised_for(found.bytes, found.files, "m").bytes == reserved(fetching, fetch)


def test_what_another_model_has_is_shared_and_not_missing(
    fetching: Fetching, hub: HubServer
) -> None:
    hub.add_repo("org/a", {"config.json": CONFIG, "w.safetensors": WEIGHTS})
    hub.add_repo("org/b", {"config.json": b"[]", "w.safetensors": WEIGHTS})
    fetching.fetch("a", "hf://org/a")
    fetch = wanted(fetching, "hf://org/b", "b")
    found = fetching.fetcher.missing(fetch)
    assert (found.files, set(found.shares)) == (1, {sha256(WEIGHTS).hexdigest()})
    assert promised_for(found.bytes, found.files, "b").bytes == reserved(fetching, fetch)
    fetching.fetch("b", "hf://org/b")
    found = fetching.fetcher.missing(fetch)
    assert (found.bytes, found.files) == (0, 0)
    assert reserved(fetching, fetch) is None


def test_what_a_fetch_has_begun_is_not_missing(fetching: Fetching, hub: HubServer) -> None:
    large = WEIGHTS * 3  # what is small isn't taken up again
    hub.add_repo("org/a", {"w.safetensors": large})
    hub.fault("org/a/w*", Stall(after=MIB, times=None))
    cancel = Cancel()
    running = fetching.in_background("m", "hf://org/a", cancel=cancel)
    with fetching.news:
        assert fetching.news.wait_for(lambda: fetching.received >= MIB // 2, 20)
    cancel.set()
    assert running.ended(20)
    fetch = wanted(fetching, "hf://org/a")
    found = fetching.fetcher.missing(fetch)
    assert found.bytes < len(large), "its partial file has its place on the disk"
    assert promised_for(found.bytes, found.files, "m").bytes == reserved(fetching, fetch)


def test_an_image_needs_its_layers_and_what_is_in_them(
    fetching: Fetching, registry: Registry, tmp_path: Path
) -> None:
    repository = f"models/{sha256(str(tmp_path).encode()).hexdigest()[:20]}"
    registry.push_image(repository, layer(files({"w": WEIGHTS}), "none"))
    uri = registry.uri(repository)
    fetch = wanted(fetching, uri)
    found = fetching.fetcher.missing(fetch)
    assert found.bytes >= 2 * len(WEIGHTS)
    asked = reserved(fetching, fetch)
    assert asked is not None
    assert abs(promised_for(found.bytes, found.files, "m").bytes - asked) < 4096
    fetching.fetch("m", uri)
    assert fetching.fetcher.missing(fetch) == Missing(
        shares=frozenset({sha256(WEIGHTS).hexdigest()})
    )
    fetching.store.evict("m")
    assert fetching.fetcher.missing(fetch).bytes >= 2 * len(WEIGHTS)
