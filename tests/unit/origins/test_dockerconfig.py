"""docker's own way of writing logins down."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from modelcache.errors import AuthFailed
from modelcache.origins.credentials import SecretStore
from modelcache.origins.dockerconfig import DockerConfig, Login, default_config

SECRET = "planted"


def auth(text: str) -> dict[str, str]:
    return {"auth": base64.b64encode(text.encode()).decode()}


def config(**auths: object) -> DockerConfig:
    return DockerConfig(json.dumps({"auths": auths}), "config.json")


@pytest.mark.parametrize(
    "key",
    [
        "quay.io",
        "QUAY.io",
        "https://quay.io",
        "https://quay.io/",
        "https://quay.io/v1/",
        "https://quay.io/v2/",
        "quay.io/org",
        "quay.io/org/name",
    ],
)
def test_how_a_registry_is_written(key: str) -> None:
    found = config(**{key: auth("me:pass:word")}).login("quay.io", "org/name")
    assert found == Login("me", "pass:word")


@pytest.mark.parametrize("key", ["quay.io:443", "quay.io/or", "quay.io/org/name/x", "uay.io", ""])
def test_what_is_another_place(key: str) -> None:
    assert config(**{key: auth("me:pass")}).login("quay.io", "org/name") is None


def test_the_longest_path_counts() -> None:
    auths = {"r.io": auth("a:1"), "r.io/org": auth("b:2"), "r.io/org/x": auth("c:3")}
    found = config(**auths)
    names = {name: found.login("r.io", name) for name in ("y", "org/y", "org/x", "org/x/y")}
    assert [login.username if login else None for login in names.values()] == ["a", "b", "c", "c"]


@pytest.mark.parametrize(
    ("pattern", "registry", "covered"),
    [
        ("*.azurecr.io", "me.azurecr.io", True),
        ("https://*.azurecr.io/v2/", "me.azurecr.io", True),
        ("*.azurecr.io", "azurecr.io", False),
        ("*.azurecr.io", "a.b.azurecr.io", False),
        ("*.dkr.ecr.*.amazonaws.com", "1.dkr.ecr.eu-west-1.amazonaws.com", True),
        ("*.dkr.ecr.*.amazonaws.com", "1.dkr.ecr.eu.west.amazonaws.com", False),
        ("*.r.io", "a.r.io.evil.example", False),
        ("*-good.r.io", "a-good.r.io", True),
        ("r?.io", "r1.io", True),
        ("*.r.io:5000", "a.r.io:5000", True),
        ("*.r.io", "a.r.io:5000", False),
        ("*.r.io:5000", "a.r.io", False),
        ("*.r.io/org", "a.r.io", True),
        ("*.r.io/other", "a.r.io", False),
    ],
)
def test_a_registry_may_be_a_pattern(pattern: str, registry: str, covered: bool) -> None:
    login = config(**{pattern: auth("me:pass")}).login(registry, "org/name")
    assert (login is not None) is covered


def test_the_most_specific_counts() -> None:
    auths = {"*.*.r.io": auth("a:1"), "*.x.r.io": auth("b:2"), "*.x.r.io/org": auth("c:3")}
    found = config(
        **auths, **{"me.x.r.io": auth("d:4"), "?*.z": auth("e:5"), "*-good.z": auth("f:6")}
    )
    wanted = [("me.y.r.io", "a"), ("i.x.r.io", "b"), ("i.x.r.io/org", "c"), ("me.x.r.io/org", "d")]
    wanted += [("a-good.z", "f"), ("a.z", "e")]
    for place, name in wanted:
        registry, _, repository = place.partition("/")
        login = found.login(registry, f"{repository or 'other'}/name")
        assert login is not None
        assert login.username == name, place


@pytest.mark.parametrize(
    "key", ["https://index.docker.io/v1/", "docker.io", "registry-1.docker.io"]
)
def test_docker_hub_has_several_names(key: str) -> None:
    found = config(**{key: auth("me:pass")})
    assert found.login("docker.io", "org/name") == Login("me", "pass")
    assert {"registry-1.docker.io", "auth.docker.io"} <= set(found.hosts)


def test_other_ways_to_write_a_login() -> None:
    plain = {"username": "me", "password": "pass"}
    assert config(**{"r.io": plain}).login("r.io", "x") == Login("me", "pass")
    refresh = {"identitytoken": "abc", **auth("00000000:")}
    assert config(**{"r.io": refresh}).login("r.io", "x") == Login("00000000", "", "abc")
    # What is in a credential helper, which is not asked.
    assert config(**{"r.io": {}}).login("r.io", "x") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        f'{{"auths": "{SECRET}"}}',
        f'{{"auths": ["{SECRET}"]}}',
        f'{{"auths": {{"r.io": "{SECRET}"}}}}',
        f'{{"auths": {{"r.io": {{"auth": "{SECRET}!"}}}}}}',
        '{"auths": {"r.io": {"auth": "/w=="}}}',
        f"{SECRET}" + "[" * 100_000,
    ],
)
def test_what_can_not_be_read_is_not_told(text: str) -> None:
    with pytest.raises(AuthFailed) as caught:
        DockerConfig(text, "config.json").login("r.io", "x")
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_no_representation_holds_a_password() -> None:
    found = config(**{"r.io": {**auth(f"me:{SECRET}"), "identitytoken": SECRET}})
    assert SECRET not in f"{found!r} {found} {found.login('r.io', 'x')!r}"


def test_the_default_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert default_config() is None
    (tmp_path / "config.json").write_text(json.dumps({"auths": {"r.io": auth("me:pass")}}))
    found = default_config()
    assert found is not None
    assert found.login("r.io", "x") == Login("me", "pass")
    monkeypatch.delenv("DOCKER_CONFIG")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_config() is None
    (tmp_path / "home" / ".docker").mkdir(parents=True)
    (tmp_path / "config.json").rename(tmp_path / "home" / ".docker" / "config.json")
    assert default_config() is not None
    (tmp_path / "home" / ".docker" / "config.json").unlink()
    (tmp_path / "home" / ".docker" / "config.json").mkdir()
    with pytest.raises(AuthFailed, match="can't be read"):
        default_config()


# An imagePullSecret, as it is mounted


def pull_secret(folder: Path, auths: dict[str, object], hosts: str | None = None) -> SecretStore:
    (folder / "pull").mkdir(exist_ok=True)
    (folder / "pull" / ".dockerconfigjson").write_text(json.dumps({"auths": auths}))
    if hosts is not None:
        (folder / "pull" / "hosts").write_text(hosts)
    return SecretStore(folder)


def test_a_pull_secret_names_its_hosts_itself(tmp_path: Path) -> None:
    auths: dict[str, object] = {"https://quay.io/v1/": {}, "r:5000/org": {}, "docker.io": {}}
    secret = pull_secret(tmp_path, auths).read("pull")
    for url in ("https://quay.io", "https://r:5000/v2/", "https://auth.docker.io/token"):
        assert secret.permits(url)
    for url in ("http://quay.io", "https://r", "https://x.quay.io", "https://example.com"):
        assert not secret.permits(url)


def test_its_key_hosts_adds_to_them(tmp_path: Path) -> None:
    """As for GitLab, whose tokens come from another host than its images."""
    secret = pull_secret(tmp_path, {"registry.gitlab.com": {}}, hosts="gitlab.com").read("pull")
    assert secret.permits("https://gitlab.com")
    assert secret.permits("https://registry.gitlab.com")
    assert not secret.permits("https://quay.io")


def test_its_patterns_stay_within_a_label(tmp_path: Path) -> None:
    auths: dict[str, object] = {"*.azurecr.io": {}, "*.dkr.ecr.*.amazonaws.com/org": {}}
    secret = pull_secret(tmp_path, auths).read("pull")
    for url in ("https://me.azurecr.io/v2/", "https://1.dkr.ecr.eu-west-1.amazonaws.com/v2/"):
        assert secret.permits(url)
    for url in ("https://azurecr.io", "https://a.b.azurecr.io", "https://azurecr.io.evil.example"):
        assert not secret.permits(url)


def test_keys_that_can_not_be_read_leave_the_others(tmp_path: Path) -> None:
    auths: dict[str, object] = {"a b": {}, "*": {}, "*.*": {}, "quay.io:x": {}, "r.io": {}}
    secret = pull_secret(tmp_path, auths).read("pull")
    assert secret.permits("https://r.io")
    for url in ("https://quay.io", "https://registry", "https://evil.example"):
        assert not secret.permits(url)


def test_a_pull_secret_for_nobody(tmp_path: Path) -> None:
    with pytest.raises(AuthFailed, match="does not say where it may be sent"):
        pull_secret(tmp_path, {}).read("pull")
    with pytest.raises(AuthFailed, match="does not say where it may be sent"):
        pull_secret(tmp_path, {"a b": {}, "*": {}}).read("pull")
