"""Whatever is committed, evicted, damaged and withdrawn in whatever order: the promises hold."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from modelcache.store import Store
from tests.support.store import COMMIT, OTHER_COMMIT, REPOSITORY, check, leftovers, put

NAMES = st.sampled_from(["one", "two"])
COMMITS = st.sampled_from([COMMIT, OTHER_COMMIT])
SELECTIONS: dict[str, tuple[str, ...]] = {"": ("a", "b", "d/c"), "x": ("a",), "y": ("b", "d/c")}
SELECTION = st.sampled_from(sorted(SELECTIONS))
REPOSITORIES = st.sampled_from([REPOSITORY, "org/other", None])
REFS = st.sampled_from([("main",), ("v1", "main")])


class Models(RuleBasedStateMachine):
    """A handful of tiny models that share content, in one store and then the next process's."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.root = Path(self._folder.name)
        self.store = Store(self.root)

    @rule(name=NAMES, commit=COMMITS, selection=SELECTION, repository=REPOSITORIES, refs=REFS)
    def commit(
        self, name: str, commit: str, selection: str, repository: str | None, refs: tuple[str, ...]
    ) -> None:
        # Commits share the file b; repositories share all.
        files = {
            path: path.encode() if path == "b" else f"{path} of {commit[0]}".encode()
            for path in SELECTIONS[selection]
        }
        manifest = put(
            self.store,
            name,
            files,
            commit=commit,
            selection=selection,
            repository=repository,
            refs=refs,
        )
        assert self.store.current(name) == manifest
        assert self.store.is_shown(manifest)

    @rule(name=NAMES)
    def evict_model(self, name: str) -> None:
        self.store.evict(name)
        assert self.store.snapshots(name) == []
        assert not self.store.layout.model(name).exists()
        assert not self.store.layout.hub(name).exists()

    @rule(name=NAMES, data=st.data())
    def evict_snapshot(self, name: str, data: st.DataObject) -> None:
        if snapshots := self.store.snapshots(name):
            snapshot = data.draw(st.sampled_from([m.snapshot for m in snapshots]))
            self.store.evict(name, snapshot)
            left = self.store.snapshots(name)
            assert snapshot not in [m.snapshot for m in left]
            assert (self.store.current(name) is None) == (not left)

    @rule(data=st.data())
    def lose_a_blob(self, data: st.DataObject) -> None:
        if manifests := self.store.manifests():
            manifest = data.draw(st.sampled_from(manifests))
            file = data.draw(st.sampled_from(manifest.files))
            self.store.blobs.set_aside(file.sha256)
            self.store.withdraw(manifest, self.store.look(manifest))
            assert manifest not in self.store.manifests()

    @rule()
    def restart(self) -> None:
        self.store = Store(self.root)

    @rule(age=st.sampled_from([0, 3600]))
    def sweep(self, age: int) -> None:
        self.store.sweep(older_than=age)

    @invariant()
    def promises_hold(self) -> None:
        check(self.store)
        for manifest in self.store.manifests():
            current = self.store.current(manifest.model)
            assert current is not None
            assert self.store.is_shown(current)

    def teardown(self) -> None:
        for name in ("one", "two"):
            self.store.evict(name)
        self.store.sweep(older_than=0)
        assert leftovers(self.store) == []
        self._folder.cleanup()


TestModels = Models.TestCase
TestModels.settings = settings(
    max_examples=40,
    stateful_step_count=15,
    suppress_health_check=[HealthCheck.too_slow],
)
