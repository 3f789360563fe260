from __future__ import annotations

import pytest

from modelcache.cli.options import settings
from modelcache.errors import UsageError
from modelcache.settings import ControllerSettings


def test_namespace_and_identity_are_the_pods(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings(ControllerSettings).namespace == "modelcache-system"
    monkeypatch.setenv("POD_NAMESPACE", "elsewhere")
    monkeypatch.setenv("POD_NAME", "controller-1")
    found = settings(ControllerSettings)
    assert (found.namespace, found.identity) == ("elsewhere", "controller-1")


def test_two_processes_on_one_host_have_two_identities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getpid", lambda: 1)
    one = settings(ControllerSettings).identity
    monkeypatch.setattr("os.getpid", lambda: 2)
    assert settings(ControllerSettings).identity != one


def test_the_deadline_is_a_time() -> None:
    assert settings(ControllerSettings).startup_deadline == 900
    assert settings(ControllerSettings, startup_deadline="1h30m").startup_deadline == 5400


def test_no_taint_is_an_empty_key(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings(ControllerSettings).startup_taint == "modelcache.dev/not-ready"
    monkeypatch.setenv("MODELCACHE_STARTUP_TAINT", "")
    assert settings(ControllerSettings).startup_taint == ""


@pytest.mark.parametrize(
    "key", ["node.cloudprovider.kubernetes.io/uninitialized", "not-ready", "a/B_c.d", "x" * 63]
)
def test_keys_of_taints(key: str) -> None:
    assert settings(ControllerSettings, startup_taint=key).startup_taint == key


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("startup_taint", "a b"),
        ("startup_taint", "modelcache.dev/"),
        ("startup_taint", "Upper.dev/x"),
        ("startup_taint", "x" * 64),
        ("startup_taint", "a=b:NoSchedule"),
        ("startup_deadline", "never"),
        ("startup_deadline", "0s"),
        ("startup_deadline", "soon"),
        ("status_seconds", "0"),
        ("listen", "8080"),
        ("namespace", "Not_One"),
        ("identity", ""),
    ],
)
def test_mistakes_name_the_setting(field: str, value: str) -> None:
    with pytest.raises(UsageError, match=f"--{field.replace('_', '-')} .*MODELCACHE_"):
        settings(ControllerSettings, **{field: value})
