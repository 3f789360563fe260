"""What injection sets is what the containers read."""

from __future__ import annotations

import pytest

from modelcache.cluster.injection import inject
from modelcache.compilecache.pods import environment
from modelcache.compilecache.pods.serving import Serving
from modelcache.settings import CaptureSettings, SeedSettings
from tests.unit.cluster.injection.samples import CACHES, CONFIG, KNOWN, compiling

FIELDS = {
    "status.hostIP": "10.0.0.1",
    "status.podIP": "10.0.0.2",
    "metadata.name": "engine",
    "metadata.namespace": "team",
}


def given(monkeypatch: pytest.MonkeyPatch, number: int) -> dict[str, str]:
    """The environment of an injected container, as kubelet makes it; it is this process's now."""
    spec = inject(compiling(Size="20Gi"), KNOWN, CONFIG, CACHES).pod["spec"]
    env = {
        each["name"]: each.get("value") or FIELDS[each["valueFrom"]["fieldRef"]["fieldPath"]]
        for each in spec["initContainers"][number]["env"]
    }
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    return env


def test_the_first_container_knows_all_that_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    env = given(monkeypatch, 0)
    found = SeedSettings()
    for name in env:
        assert name.removeprefix(environment.PREFIX).lower() in SeedSettings.model_fields
    assert found.compile_name == "llama"
    assert str(found.compile_cache_dir) == "/cache"
    assert found.compile_size == 20 << 30


def test_the_second_container_knows_all_that_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    env = given(monkeypatch, 1)
    found = CaptureSettings()
    for name in env.keys() - {environment.POD_NAME, environment.POD_NAMESPACE}:
        assert name.removeprefix(environment.PREFIX).lower() in CaptureSettings.model_fields
    assert (found.compile_engine, found.compile_ranks) == ("vllm", 2)
    assert (found.compile_publish, found.compile_stay) == (True, True)
    assert (found.host_ip, found.compile_pod) == ("10.0.0.1", "team/engine")
    serving = Serving.of(found.compile_health, found.pod_ip)
    assert (serving.port, serving.hosts[-1]) == (8000, "10.0.0.2")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("compile_name", "A"),
        ("compile_cache_dir", "a"),
        ("compile_cache_dir", "/a/../b"),
        ("compile_health", "http://host:1/"),
        ("compile_ranks", "0"),
        ("compile_quiet", "never"),
        ("compile_port", "0"),
    ],
)
def test_what_cant_be_right_is_refused(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"MODELCACHE_{name.upper()}", value)
    with pytest.raises(ValueError, match=name):
        CaptureSettings()
