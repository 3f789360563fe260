"""What happens on two nodes in a minute: most that can go well, and much that can't."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from tests.component.cluster.test_webhook import configure
from tests.component.service.compilecache.place import compile_cache
from tests.component.service.compilecache.pods import capture, put, start, tell
from tests.e2e.cluster.nodes import cached_model, reported
from tests.e2e.monitoring.world import CLUSTER, DISK, FIRST, PODS, SECOND, WarmerProcess, World
from tests.support.agent import AgentProcess
from tests.support.bundles import a_bundle
from tests.support.cluster.waiting import eventually
from tests.support.controller import ControllerProcess
from tests.support.hub import FlipBit, GeneratedContent, Reset, Source, Status
from tests.support.tuner import TunerProcess
from tests.support.webhook import WebhookProcess
from tests.unit.store.test_verifying import spoil

MIB = 1 << 20
ROTTEN = GeneratedContent(2 * MIB, seed=1)
CAPACITY = 36 * MIB
SIZES = {"llama": 8, "limited": 1, "flipped": 1, "gated": 1, "low-1": 5, "low-2": 5, "low-3": 5}
"""MiB of each model. On `node-1` there is room for those whose name begins with `low`, or for the
one that is important."""
LOW = ("low-1", "low-2", "low-3")
IMPORTANT = 20
SLOWLY = MIB // 2
"""Bytes a second, till Prometheus has seen for some seconds how a model grows."""
LLAMA = f'node="{FIRST}",model="llama"'
PATIENCE = 60.0
"""Seconds for alerts to fire. The longest takes thirty."""
ON_FIRST = {"nodeSelector": {"kubernetes.io/hostname": FIRST}}

SHORTER = 90.0
"""A quarter of an hour is ten seconds here, for the rules: see tests/support/shorterrules.py."""
REPLACED = {"cluster_node_model:modelcache_model_stuck_seconds:max": ("> 3600", "> 20")}
"""The hour that a model may take before anybody asks whether it is on its way."""

Alert = tuple[str, frozenset[tuple[str, str]]]


def alert(name: str, **labels: str) -> Alert:
    """An alert and the labels that tell it from others of its name."""
    return name, frozenset({"cluster": CLUSTER, **labels}.items())


FOR_A_WHILE = (
    alert("ModelCacheDiskShort", node=FIRST),
    *(alert("ModelCacheModelNotReady", node=FIRST, model=name) for name in LOW),
    *(alert("ModelCacheModelReadyNowhere", model=name) for name in LOW),
    alert("ModelCacheCatalogInvalid", node=SECOND),
)
"""What fires while there is too little room, and while the second agent lives."""
AT_THE_END = (
    alert("ModelCacheModelNotReady", node=FIRST, model="gated"),
    alert("ModelCacheModelReadyNowhere", model="gated"),
    alert("ModelCacheFetchFailing", node=FIRST, model="gated", reason="AuthFailed"),
    alert("ModelCacheCorruptionFound", node=FIRST),
    alert("ModelCacheEvictionsRegretted", node=FIRST),
    alert("ModelCacheCompileCacheMissing", compile_cache="never"),
    alert("ModelCacheReadAheadDrifted", node=FIRST, device="nvme1n1", bdi=DISK),
    alert("ModelCacheCatalogInvalid", node=FIRST),
    alert("ModelCacheAgentDown", node=SECOND),
    alert("ModelCacheControllerDown"),
    alert("ModelCacheWebhookDown"),
)
"""What fires when it is over. None but these two lists fires at any time."""


class Story:
    """Each method is something that happens, in this order; it returns when it has happened."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.began = self.ended = 0.0
        self.first: AgentProcess
        self.second: AgentProcess
        self.controller: ControllerProcess
        self.webhook: WebhookProcess
        self.tuner: TunerProcess
        self.warmer: WarmerProcess

    def tell(self) -> None:
        """All of it."""
        world = self.world
        self._fill_hubs()
        world.taint(SECOND)
        world.plane.apply(self._model("rots", **ON_FIRST))
        self.something_rots_before_anybody_looks()
        first = time.time()
        for act in (
            self.everything_starts,
            self.rot_is_found,
            self.models_are_fetched,
            self.pods_use_what_is_there,
            self.one_object_is_bad,
            self.an_important_model_drives_others_out,
            self.compiling_is_shared,
            self.read_ahead_is_changed_and_then_cannot_be,
            self.rot_is_healed,
            self.room_is_short_for_long,
            self.there_is_room_again,
            self.the_use_is_seen,
            self.programs_are_killed,
            self.alerts_fire,
        ):
            act()
            print(f"{time.time() - first:5.1f} s: {act.__name__.replace('_', ' ')}")
        self.ended = time.time()

    def something_rots_before_anybody_looks(self) -> None:
        """A model is there; then a bit of it flips, and an hour passes."""
        world = self.world
        with world.agent(FIRST) as agent:
            agent.wait_ready("rots")
            assert agent.terminate() == 0
        blob = world.blob(FIRST, ROTTEN.sha256())
        spoil(blob, 7)
        old = time.time() - 3600
        os.utime(blob, (old, old))

    def everything_starts(self) -> None:
        world = self.world
        flags = ("--capacity", str(CAPACITY), "--scrub-every", "60s")
        self.first = world.agent(FIRST, *flags)
        self.second = world.agent(SECOND, "--mirrors", f"hf={world.mirror.url}")
        self.controller = world.controller()
        self.webhook = world.webhook()
        self.tuner = world.tuner()
        self.warmer = world.warmer()
        world.watch("agent", self.first, FIRST)
        world.watch("agent", self.second, SECOND)
        world.watch("controller", self.controller, SECOND)
        world.watch("webhook", self.webhook, SECOND)
        world.watch("tuner", self.tuner, FIRST)
        world.watch("warmer", self.warmer, FIRST)
        configure(world.plane, self.webhook.hook)
        world.start_prometheus()
        self.began = time.time()

    def rot_is_found(self) -> None:
        """And what is bad is fetched again."""
        self.first.wait_for_event("blob.damaged", model="rots")
        self.first.wait_for_event("fetch.ended", model="rots")

    def models_are_fetched(self) -> None:
        """One slowly, one from a Hub that asks for less, one with a bit flipped, one not at all."""
        world = self.world
        hub = world.hub
        for _ in range(3):
            hub.fault("org/limited/*.safetensors", Status(429, retry_after=1))
        hub.fault("org/flipped/*.safetensors", FlipBit(5))
        hub.fault("org/flipped/*.safetensors", Reset(1000))
        world.mirror.fault("org/limited/*.safetensors", Status(500, times=None))
        for each in (hub, world.mirror):
            each.set_rate(SLOWLY)
        llama, limited, flipped = map(self._model, ("llama", "limited", "flipped"))
        llama["spec"]["pageCache"] = limited["spec"]["pageCache"] = "Warm"
        compiled_for = world.bench.cached_model()
        compiled_for["spec"]["priority"] = 9
        world.plane.apply(llama, self._model("gated", **ON_FIRST), compiled_for)
        coming = f"cluster_node_model:modelcache_model_remaining_seconds:deriv15m{{{LLAMA}}}"
        seen = f"count_over_time({coming}[1m]) >= 4"
        eventually(lambda: world.prometheus.query(seen), what="a model that comes, seen for long")
        for each in (hub, world.mirror):
            each.set_rate(None)
        # Not before: beside what is slow, who is asked for less waits for as long as an alert does.
        world.plane.apply(limited, flipped)
        for agent in (self.first, self.second):
            agent.wait_ready("llama", "limited", "flipped", "m")
        self.first.wait_failed("gated")
        world.await_taint_gone(SECOND)

    def pods_use_what_is_there(self) -> None:
        """A pod, of which the webhook hears. The agent looks once a minute who uses what."""
        world = self.world
        view = world.folder / FIRST / "models" / "llama" / "current"
        wish = {"model": "llama"}
        inject = {"modelcache.dev/inject": "true"}
        made: dict[str, Any] = {}

        def injected() -> bool:
            nonlocal made
            made = world.pod("reader", FIRST, wish, inject, mounts=view)
            if "affinity" in made["spec"]:
                return True
            world.plane.api(f"{PODS}/reader", "DELETE")
            return False

        eventually(injected, what="an injected pod")
        # What is no longer asked for leaves the memory.
        world.plane.kubectl(
            *("patch", "cachedmodel", "limited", "--type", "merge"),
            *("--patch", '{"spec": {"pageCache": "None"}}'),
        )

    def one_object_is_bad(self) -> None:
        """The schema can't say that In needs a value."""
        expression = {"key": "disk", "operator": "In"}
        terms = {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}
        bad = {"requiredDuringSchedulingIgnoredDuringExecution": terms}
        self.world.plane.apply(cached_model("bad", "org/bad", nodeAffinity=bad))
        self.first.wait_for_event("catalog.problem")

    def an_important_model_drives_others_out(self) -> None:
        world = self.world
        world.plane.apply(*(self._model(name, priority=1, **ON_FIRST) for name in LOW))
        self.first.wait_ready(*LOW)
        world.plane.apply(self._model("important", priority=5, **ON_FIRST))
        for name in LOW:
            self.first.wait_for_event("model.evicted", model=name)
        self.first.wait_ready("important")

    def rot_is_healed(self) -> None:
        """It is looked at every ten seconds whether what is kept aside is whole again."""
        self.first.wait_for_event("blob.healed", blob=ROTTEN.sha256())

    def room_is_short_for_long(self) -> None:
        self._await_firing(FOR_A_WHILE)

    def there_is_room_again(self) -> None:
        """What was driven out is fetched again."""
        world = self.world
        world.plane.kubectl("delete", "cachedmodel", "important")
        self.first.wait_for_event("model.removed", model="important")
        for name in LOW:
            eventually(lambda: self.first.model(name)["state"], "Ready".__eq__, what=name)  # noqa: B023

    def compiling_is_shared(self) -> None:
        """A pod compiles and brings what it has; the next one, elsewhere, finds it."""
        world = self.world
        publishers = [{"namespace": "default", "serviceAccount": "engine"}]
        world.plane.apply(compile_cache(world.bench.uri, publishers=publishers))
        other = f"registry.example/other@sha256:{'8' * 64}"
        world.plane.apply(compile_cache(world.bench.uri, "never", engine={"image": other}))
        # A counter that is first seen when it is 1 has not grown, for Prometheus.
        known = 'count(modelcache_compile_starts_total{result="Hit"} == 0) == 4'
        eventually(lambda: world.prometheus.query(known), what="both objects on both nodes")
        bundle = a_bundle(world.folder / "compiled")
        at = world.compile_address(self.first)
        token = world.token(world.pod("compiles", FIRST, {"compile-cache": "tiny"}))
        miss = start(None, "Miss", reason="NothingSeeded", compile_milliseconds=40_000)
        # Until the agent has seen the pod.
        eventually(lambda: tell(at, "tiny", miss, token).status, (204).__eq__, what="a miss")
        said = capture(bundle, pod="default/compiles")
        assert put(at, "tiny", bundle, token="nobody's", said=said).status == 401
        # Until the agent knows what this machine is.
        brought = eventually(
            lambda: put(at, "tiny", bundle, token=token, said=said),
            lambda answer: answer.status == 201,
            what="a bundle that is taken",
        )
        for node in (FIRST, SECOND):
            eventually(lambda: our_compile_labels(world, node), what="a compile cache")  # noqa: B023
        at = world.compile_address(self.second)
        token = world.token(world.pod("finds", SECOND, {"compile-cache": "tiny"}))
        hit = start(brought.document["digest"], compile_milliseconds=100)
        eventually(lambda: tell(at, "tiny", hit, token).status, (204).__eq__, what="a hit")
        # Of the other one nobody brings anything.
        at = world.compile_address(self.first)
        for number in range(3):
            token = world.token(world.pod(f"alone-{number}", FIRST, {"compile-cache": "never"}))
            eventually(lambda: tell(at, "never", miss, token).status, (204).__eq__, what="a miss")  # noqa: B023

    def read_ahead_is_changed_and_then_cannot_be(self) -> None:
        world = self.world
        self.tuner.wait_for_event("readahead.set")
        world.read_ahead.write_text("64\n")
        self.tuner.wait_for_event("readahead.set", before_kb=64)
        # A number that nobody may write, root neither.
        world.read_ahead.unlink()
        world.read_ahead.symlink_to("/proc/sys/kernel/ngroups_max")
        self.tuner.wait_for_event("readahead.failed")

    def the_use_is_seen(self) -> None:
        eventually(
            lambda: reported(self.world.plane, FIRST)["llama"].get("usedBy"),
            timeout=90,
            what="a user",
        )
        self.world.plane.api(f"{PODS}/reader", "DELETE")

    def programs_are_killed(self) -> None:
        for program in (self.second, self.controller, self.webhook):
            program.kill()

    def alerts_fire(self) -> None:
        self._await_firing(AT_THE_END)

    @property
    def seconds(self) -> int:
        """Since it began."""
        return math.ceil(time.time() - self.began)

    def fired(self) -> set[Alert]:
        """Every alert that has fired at any time."""
        firing = f'last_over_time(ALERTS{{alertstate="firing"}}[{self.seconds}s])'
        return {alert_of(series.labels) for series in self.world.prometheus.query(firing)}

    def _await_firing(self, wanted: Iterable[Alert]) -> None:
        """A test tells which of them don't, if they don't."""

        def all_fire() -> bool:
            found = self.world.prometheus.query('ALERTS{alertstate="firing"}')
            return {*wanted} <= {alert_of(each.labels) for each in found}

        with suppress(AssertionError):
            eventually(all_fire, timeout=PATIENCE, pause=0.25)

    def _fill_hubs(self) -> None:
        world = self.world
        for seed, (name, size) in enumerate(
            {**SIZES, "important": IMPORTANT, "rots": 2}.items(), start=1
        ):
            content = ROTTEN if name == "rots" else GeneratedContent(size * MIB, seed=seed)
            files: dict[str, Source] = {"config.json": b"{}", "model.safetensors": content}
            owner = "hf_of_others" if name == "gated" else None
            for hub in (world.hub, world.mirror):
                hub.add_repo(f"org/{name}", files, gated=owner is not None, token=owner)

    def _model(self, name: str, **spec: Any) -> dict[str, Any]:
        return cached_model(name, f"org/{name}", **{"priority": 9, **spec})


_OF_NO_MATTER = {"__name__", "alertname", "alertstate", "severity"}


def alert_of(labels: Mapping[str, str]) -> Alert:
    """An alert by the labels of its series."""
    rest = {name: value for name, value in labels.items() if name not in _OF_NO_MATTER}
    return labels["alertname"], frozenset(rest.items())


def our_compile_labels(world: World, node: str) -> str | None:
    """The label that says that a node has the compile cache."""
    return world.plane.node_labels(node).get("modelcache.dev/compile.tiny")
