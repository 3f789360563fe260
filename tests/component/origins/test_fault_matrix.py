"""Each fault at each origin: what a fetch ends in, and what it leaves behind.

`faultmatrix.MATRIX` says what is expected; docs/reliability.md has it as a table. Between the
engine and the real server of each origin stands a front that inflicts the faults, behind TLS and
under a name, as in the world.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from modelcache import errors
from modelcache.api import Manifest
from modelcache.errors import ModelCacheError
from modelcache.origins import Network, OriginSettings
from modelcache.store import Store
from modelcache.transfer import TransferSettings
from modelcache.transfer.events import BytesReceived, Event, FileFinished, HostPaused, Retried
from tests.component.origins.conftest import (
    DirectorySite,
    HubSite,
    RegistrySite,
    Site,
    checksum,
    open_site,
)
from tests.component.origins.faultmatrix import HTTP, cell, cells
from tests.support.cluster.certificates import Authority, Pair
from tests.support.faultyfront import ExtraBytes, FaultyFront
from tests.support.fetching import QUICK, Fetching
from tests.support.fulldisk import FullDisk
from tests.support.hub import (
    Fault,
    FlipBit,
    GeneratedContent,
    HubServer,
    Request,
    Reset,
    ShortBody,
    Stall,
    Status,
    Trickle,
    WrongContentRange,
    WrongLength,
)
from tests.support.mounts import emptied_loop, tmpfs
from tests.support.names import Names
from tests.support.registry import Registry, TokenServer
from tests.support.store import check, leftovers
from tests.support.tls import TlsFront

MIB = 1024 * 1024
SIZE = 4 * MIB + 300_077
CONTENT = GeneratedContent(SIZE, seed=11)
OTHER = GeneratedContent(SIZE, seed=12)
WEIGHTS = "model.safetensors"
MODEL = "model"
# Fewer connections than ranges: some are asked for after the first bytes came.
SETTINGS = replace(QUICK, connections=2, range_bytes=2 * MIB)
IMPATIENT = replace(SETTINGS, read_timeout=0.3)
BRIEF = replace(SETTINGS, tries=3)
BRIEF_AND_IMPATIENT = replace(IMPATIENT, tries=3)


@dataclass(frozen=True)
class Pairs:
    """Certificates for all names: one to be trusted, and two that are not."""

    ca: Path
    good: Pair
    foreign: Pair
    expired: Pair


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    folder = tmp_path_factory.mktemp("pairs")
    ours, others = Authority(folder / "ours"), Authority(folder / "others")
    names = [f"{origin}.test" for origin in HTTP]
    return Pairs(
        ours.certificate,
        ours.server("good", [], names),
        others.server("foreign", [], names),
        ours.server("expired", [], names, expired=True),
    )


@dataclass
class Rig:
    """A site with the weights, what stands before it, and fetches into one root."""

    site: Site
    root: Path
    network: Network
    made: list[Fetching] = field(default_factory=list)

    def fetching(self, settings: TransferSettings = SETTINGS) -> Fetching:
        """As a new process would fetch."""
        self.made.append(Fetching(self.root, settings, network=self.network))
        return self.made[-1]

    def close(self) -> None:
        for fetching in self.made:
            fetching.close()


@dataclass
class Fronted(Rig):
    """One whose site is behind a front, with TLS before it, and a name before that."""

    front: FaultyFront = field(kw_only=True)
    tls: TlsFront = field(kw_only=True)
    names: Names = field(kw_only=True)
    pairs: Pairs = field(kw_only=True)

    def await_all(self) -> None:
        """Wait until each connection has an answer: what is cut then are all that there are."""

        def is_answered(requests: list[Request]) -> bool:
            found = [r for r in requests if r.method == "GET" and self.site.data in r.path]
            return sum(request.status > 0 for request in found) >= SETTINGS.connections

        assert self.front.log.wait_until(is_answered, 10)


@pytest.fixture
def rig(
    origin: str,
    request: pytest.FixtureRequest,
    settings: OriginSettings,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    pairs: Pairs,
) -> Iterator[Rig]:
    site = open_site(origin, request, settings, tmp_path)
    site.put({WEIGHTS: CONTENT.data()})
    with ExitStack() as undo:
        rig: Rig
        if origin == "file":
            rig = Rig(site, tmp_path / "root", Network())
        else:
            front = undo.enter_context(FaultyFront(site.server, site.data))
            tls = undo.enter_context(TlsFront(pairs.good, front.port))
            names = Names(monkeypatch)
            site.reach_at(f"https://{origin}.test:{tls.port}", monkeypatch)
            rig = Fronted(
                site,
                tmp_path / "root",
                Network(ca_bundle=pairs.ca),
                front=front,
                tls=tls,
                names=names,
                pairs=pairs,
            )
        undo.callback(rig.close)
        yield rig


# What is looked at


def assert_right(manifest: Manifest, content: GeneratedContent) -> None:
    assert {file.path: file.sha256 for file in manifest.files} == {
        WEIGHTS: checksum("sha256", content.data())
    }


def assert_tidy(store: Store, copy: Path) -> None:
    """No space is promised any more, and a sweep leaves nothing that a model doesn't need."""
    assert store.space.measure().reserved == 0
    check(store)
    shutil.copytree(store.layout.root, copy, symlinks=True)
    swept = Store(copy)
    for manifest in swept.manifests():
        swept.evict(manifest.model)
    swept.sweep(older_than=0)
    assert leftovers(swept) == []
    shutil.rmtree(copy)


def assert_healed(
    fetching: Fetching, manifest: Manifest, tmp_path: Path, content: GeneratedContent = CONTENT
) -> None:
    assert_right(manifest, content)
    assert_tidy(fetching.store, tmp_path / "copy")


def assert_nothing_shown(fetching: Fetching, tmp_path: Path) -> None:
    root = fetching.root
    assert not list((root / "manifests").rglob("*.json"))
    assert not list((root / "models").rglob("current"))
    assert_tidy(fetching.store, tmp_path / "copy")


def fails(
    rig: Rig, fetching: Fetching, expected: str, tmp_path: Path, mend: Callable[[], object]
) -> None:
    """A fetch fails as it should; the next one, when all is well again, takes up what was kept."""
    error, _, left = expected.partition(", ")
    with pytest.raises(ModelCacheError) as raised:
        fetching.fetch(MODEL, rig.site.uri())
    assert type(raised.value) in (getattr(errors, error), *getattr(errors, error).__subclasses__())
    assert raised.value.reason is getattr(errors, error).reason
    assert "\n" not in str(raised.value)
    assert_nothing_shown(fetching, tmp_path)
    partial = sum(path.stat().st_size for path in fetching.root.glob("ingest/partial/*/data"))
    if left == "kept":
        assert fetching.received > 0
    if left in ("dropped", "nothing"):
        assert partial == 0
    mend()
    again = rig.fetching()
    manifest = again.fetch(MODEL, rig.site.uri())
    assert_healed(again, manifest, tmp_path)
    assert again.received == SIZE - (fetching.received if left == "kept" else 0)


def at_first_bytes(fetching: Fetching, act: Callable[[], object]) -> threading.Event:
    """Have something happen when the first bytes are on the disk; set when it has."""
    turn, done = threading.Lock(), threading.Event()

    def look(event: Event) -> None:
        if isinstance(event, BytesReceived):
            with turn:  # nothing else is asked for meanwhile
                if not done.is_set():
                    act()
                    done.set()

    fetching.on_event = look
    return done


def in_turn(*acts: Callable[[], object]) -> None:
    for act in acts:
        act()


def after_failures(fetching: Fetching, count: int, act: Callable[[], object]) -> None:
    """Have something happen when the engine has met so many failures, besides what happens now."""
    before = fetching.on_event

    def look(event: Event) -> None:
        before(event)
        if isinstance(event, Retried) and len(fetching.retries) == count:
            act()

    fetching.on_event = look


# Faults that pass

PASSING: dict[str, list[Fault]] = {
    "connection reset in the body": [Reset(after=700_000, times=2)],
    "connection reset in every body, after some bytes": [Reset(after=1_200_000, times=None)],
    "silence in the body": [Stall(after=700_000, times=2)],
    "a trickle of bytes": [Trickle(bytes_per_second=20_000)],
    "a storm of 5xx": [Status(code) for code in (500, 502, 503, 504)],
    "429 with Retry-After": [Status(429, retry_after=1)],
    "a body that ends too early": [ShortBody(after=700_000, times=2), ShortBody(after=0)],
    "a body that goes on too long": [ExtraBytes(100, times=2)],
    "another Content-Range": [WrongContentRange(shift=1, times=2)],
    "a flipped bit": [FlipBit(offset=3 * MIB + 5)],
}
LOST = "a name that is not found for a while"
BROKEN_TLS = "a TLS handshake that breaks"
QUIET = ("silence in the body", "a trickle of bytes", "silence, for ever")


@cells("test_passing")
def test_passing(rig: Fronted, fault: str, origin: str, tmp_path: Path) -> None:
    assert cell(fault, origin) == "healed"
    fetching = rig.fetching(IMPATIENT if fault in QUIET else SETTINGS)
    if fault == LOST:
        at_first_bytes(fetching, lambda: in_turn(rig.await_all, rig.names.lose, rig.front.cut))
        after_failures(fetching, 2, lambda: rig.names.lose(0))
    elif fault == BROKEN_TLS:
        at_first_bytes(
            fetching, lambda: in_turn(rig.await_all, lambda: rig.tls.use(None), rig.front.cut)
        )
        after_failures(fetching, 2, lambda: rig.tls.use(rig.pairs.good))
    else:
        rig.front.fault(*PASSING[fault])
    manifest = fetching.fetch(MODEL, rig.site.uri())
    assert fetching.retries, "the fault went unnoticed"
    assert bool(rig.front.inflicted) == (fault in PASSING)
    assert fetching.received == (2 * SIZE if fault == "a flipped bit" else SIZE)
    assert_healed(fetching, manifest, tmp_path)
    if fault == "429 with Retry-After":
        assert max(pause.seconds for pause in fetching.told(HostPaused)) > 0.9


# Faults that last

LASTING: dict[str, Fault] = {
    "connection reset before any byte, for ever": Reset(after=0, times=None),
    "silence, for ever": Stall(after=0, times=None),
    "503, for ever": Status(503, times=None),
    "429, for ever": Status(429, times=None),
    "401, for ever": Status(401, times=None),
    "403, for ever": Status(403, times=None),
    "404 on the way": Status(404, times=None),
    "a body that goes on too long, for ever": ExtraBytes(100, times=None),
    "another Content-Range, for ever": WrongContentRange(shift=1, times=None),
    "another total length": WrongLength(delta=-5, times=None),
    "a flipped bit, for ever": FlipBit(offset=4 * MIB + 5, times=None),
}


@cells("test_lasting")
def test_lasting(rig: Fronted, fault: str, origin: str, tmp_path: Path) -> None:
    def inflict() -> None:
        if fault not in LASTING:
            rig.await_all()
        match fault:
            case "a name that is not found":
                rig.names.lose()
            case "TLS handshakes that break, for ever":
                rig.tls.use(None)
            case "a certificate of another CA":
                rig.tls.use(rig.pairs.foreign)
            case "an expired certificate":
                rig.tls.use(rig.pairs.expired)
            case _:
                rig.front.fault(LASTING[fault])
                return
        rig.front.cut()

    def mend() -> None:
        rig.names.lose(0)
        rig.tls.use(rig.pairs.good)
        rig.front.clear()

    fetching = rig.fetching(BRIEF_AND_IMPATIENT if fault in QUIET else BRIEF)
    at_first_bytes(fetching, inflict)
    fails(rig, fetching, cell(fault, origin), tmp_path, mend)


# Faults from the beginning, while an origin is asked what there is


@cells("test_resolving")
def test_resolving(
    rig: Fronted, fault: str, origin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as undo:
        tls = rig.tls
        if isinstance(rig.site, HubSite):  # a Hub's lists are elsewhere than its bytes
            tls = undo.enter_context(TlsFront(rig.pairs.good, urlsplit(rig.site.lists).port or 0))
            monkeypatch.setenv("HF_ENDPOINT", f"https://hf.test:{tls.port}")
        match fault:
            case "a name that is not found, at first":
                rig.names.lose()
            case "TLS handshakes that break, at first":
                tls.use(None)
            case "a certificate of another CA, at first":
                tls.use(rig.pairs.foreign)

        def mend() -> None:
            rig.names.lose(0)
            tls.use(rig.pairs.good)

        fails(rig, rig.fetching(BRIEF), cell(fault, origin), tmp_path, mend)


# Credentials that end on the way


@pytest.fixture(scope="module")
def tokens() -> Iterator[TokenServer]:
    with TokenServer(public=True) as server:
        yield server


@pytest.fixture(scope="module")
def registry_of_tokens(tokens: TokenServer) -> Iterator[Registry]:
    with Registry(tokens=tokens) as server:
        yield server


@cells("test_credentials")
def test_credentials(
    fault: str,
    origin: str,
    request: pytest.FixtureRequest,
    settings: OriginSettings,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """What was given out is refused from some moment on; what is given out later is good."""
    site: Site
    if origin == "oci":
        site = RegistrySite(settings, request.getfixturevalue("registry_of_tokens"), "model")
    else:
        site = open_site(origin, request, settings, tmp_path)
    site.put({WEIGHTS: CONTENT.data()})
    given_out: Callable[[], int]
    with FaultyFront(site.server, site.data) as front:
        if origin == "oci":
            tokens: TokenServer = request.getfixturevalue("tokens")
            given_out = lambda: len(tokens.asked)  # noqa: E731
        elif origin == "hf":
            hub: HubServer = request.getfixturevalue("hub")
            given_out = lambda: sum(r.method == "HEAD" for r in hub.requests)  # noqa: E731
        else:
            given_out = lambda: front.questions  # noqa: E731
        site.reach_at(front.url, monkeypatch)
        rig = Rig(site, tmp_path / "root", Network())
        fetching = rig.fetching()

        def end() -> None:
            before = given_out()
            status = int(fault.split()[0])
            front.gate = lambda: status if given_out() == before else None

        ended = at_first_bytes(fetching, end)
        expected = cell(fault, origin)
        if expected == "healed":
            manifest = fetching.fetch(MODEL, site.uri())
            assert front.inflicted
            assert fetching.received == SIZE
            assert_healed(fetching, manifest, tmp_path)
        else:
            fails(rig, fetching, expected, tmp_path, lambda: setattr(front, "gate", lambda: None))
        assert ended.is_set()
        rig.close()


# Another object in its place


@cells("test_changed")
def test_changed(rig: Rig, fault: str, origin: str, tmp_path: Path) -> None:
    fetching = rig.fetching()
    replaced = at_first_bytes(fetching, lambda: rig.site.put({WEIGHTS: OTHER.data()}))
    error, _, left = cell(fault, origin).partition(", ")
    if error == "healed":
        # A Hub has the old commit still, and a registry the old blob.
        manifest = fetching.fetch(MODEL, rig.site.uri())
        assert_healed(fetching, manifest, tmp_path)
    else:
        assert left in ("unused", "dropped")
        with pytest.raises(getattr(errors, error)):
            fetching.fetch(MODEL, rig.site.uri())
        assert_nothing_shown(fetching, tmp_path)
    assert replaced.is_set()
    again = rig.fetching()
    manifest = again.fetch(MODEL, rig.site.uri())
    assert again.received == SIZE
    assert_healed(again, manifest, tmp_path, OTHER)


# Files of mounted file systems


@cells("test_file", ["it shrinks on the way", "it goes on the way"])
def test_file(rig: Rig, fault: str, origin: str, tmp_path: Path) -> None:
    assert isinstance(rig.site, DirectorySite)
    weights = Path(rig.site.uri(WEIGHTS).removeprefix("file://"))
    aside = weights.with_name("aside")
    fetching, expected = rig.fetching(), cell(fault, origin)
    if fault == "it shrinks on the way":
        at_first_bytes(fetching, lambda: os.truncate(weights, 3 * MIB))
        fails(rig, fetching, expected, tmp_path, lambda: rig.site.put({WEIGHTS: CONTENT.data()}))
    else:
        at_first_bytes(fetching, lambda: weights.rename(aside))
        fails(rig, fetching, expected, tmp_path, lambda: aside.rename(weights))


@pytest.mark.root
@cells("test_file", ["an I/O error for a while *(root)*", "an I/O error, for ever *(root)*"])
def test_file_on_a_bad_disk(
    fault: str, origin: str, settings: OriginSettings, tmp_path: Path
) -> None:
    """The disk below the source gives no answer any more: EIO, as of a file server in trouble."""
    place = tmp_path / "mounts" / "disk"
    with emptied_loop(place, 24 * MIB, {WEIGHTS: CONTENT.data()}) as disk:
        rig = Rig(_Mounted(settings, place), tmp_path / "root", Network())
        fetching = rig.fetching(SETTINGS if "while" in fault else BRIEF)
        at_first_bytes(fetching, disk.empty)
        if cell(fault, origin) == "healed":
            after_failures(fetching, 2, disk.refill)
            manifest = fetching.fetch(MODEL, rig.site.uri())
            assert fetching.retries
            assert fetching.received == SIZE
            assert_healed(fetching, manifest, tmp_path)
        else:
            fails(rig, fetching, cell(fault, origin), tmp_path, disk.refill)
        rig.close()


class _Mounted(DirectorySite):
    def __init__(self, settings: OriginSettings, directory: Path) -> None:
        Site.__init__(self, settings)
        self._directory = directory


# The cache's own disk


@pytest.mark.root
@cells("test_disk", ["no room for it *(root)*", "the disk fills up on the way *(root)*"])
def test_disk(rig: Rig, fault: str, origin: str, tmp_path: Path) -> None:
    small = fault == "no room for it *(root)*"
    with tmpfs(tmp_path / "disk", (4 if small else 16) * MIB) as disk:
        rig.root = disk / "root"
        fetching = rig.fetching()
        ballast = disk / "ballast"
        if small:
            with pytest.raises(errors.InsufficientDisk):
                fetching.fetch(MODEL, rig.site.uri())
            assert fetching.received == 0
            assert_nothing_shown(fetching, tmp_path)
            return

        def fill(event: Event) -> None:
            if isinstance(event, BytesReceived | FileFinished):
                _fill(ballast)

        fetching.on_event = fill
        fails(rig, fetching, cell(fault, origin), tmp_path, ballast.unlink)
        rig.close()


def _fill(path: Path) -> None:
    """Let somebody else take what room there is."""
    with path.open("ab", buffering=0) as file:
        for size in (MIB, 4096):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue


@cells("test_disk", ["the disk is full at any one call"])
def test_disk_full_at_any_call(
    rig: Rig, fault: str, origin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From one call on that needs room, all fail. Each origin takes each sixth call, from another
    one on, since behind them it is the same engine."""
    call, failed = [*HTTP, "file"].index(origin), 0
    while True:
        rig.root = tmp_path / f"root-{call}"
        fetching = rig.fetching()
        disk = FullDisk(rig.root, monkeypatch)
        disk.fill(after=call)
        try:
            manifest = fetching.fetch(MODEL, rig.site.uri())
        except errors.InsufficientDisk:
            pass
        else:
            assert not disk.refused
            assert_healed(fetching, manifest, tmp_path)
            break
        finally:
            disk.restore()
        failed += 1
        # When nothing but the last fsync failed, it is shown: what is shown is always whole.
        assert_tidy(fetching.store, tmp_path / "copy")
        again = rig.fetching()
        manifest = again.fetch(MODEL, rig.site.uri())
        assert_healed(again, manifest, tmp_path)
        dropped = disk.refused[0] == "fsync" and again.received == SIZE
        assert dropped or again.received == SIZE - fetching.received, (call, disk.refused)
        rig.close()
        shutil.rmtree(rig.root)
        call += 6
    assert failed > 3
