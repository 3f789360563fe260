from pathlib import Path

import pytest

from modelcache.errors import AuthFailed
from modelcache.origins.credentials import Secret, SecretStore

TOKEN = "hf_planted_token"


def mounted(directory: Path, name: str, **keys: str | bytes) -> SecretStore:
    """A secret as the kubelet mounts it: each key a link into ..data, and that a link too."""
    generation = directory / name / "..2026_11_21_00_00_00.1"
    generation.mkdir(parents=True)
    (directory / name / "..data").symlink_to(generation.name)
    for key, value in keys.items():
        (generation / key).write_bytes(value if isinstance(value, bytes) else value.encode())
        (directory / name / key).symlink_to(f"..data/{key}")
    return SecretStore(directory)


def secret(directory: Path, hosts: str) -> Secret:
    return mounted(directory, "s", token=TOKEN, hosts=hosts).read("s")


def test_a_mounted_secret_is_read(tmp_path: Path) -> None:
    store = mounted(tmp_path, "hf", token=f"{TOKEN}\n", hosts="huggingface.co\n")
    found = store.read("hf")
    assert found.get("token") == TOKEN
    assert found.need("token") == TOKEN
    assert found.get("AWS_REGION") is None


@pytest.mark.parametrize(
    "key",
    [
        *("username", "password", "GOOGLE_APPLICATION_CREDENTIALS_JSON"),
        *("GOOGLE_CLOUD_QUOTA_PROJECT", "AWS_SECRET_ACCESS_KEY"),
    ],
)
def test_the_keys_of_other_origins(tmp_path: Path, key: str) -> None:
    store = mounted(tmp_path, "s", hosts="h.example", **{key: f"{TOKEN}\n"})
    assert store.read("s").need(key) == TOKEN
    assert TOKEN not in repr(store.read("s"))


def test_a_rotated_secret_takes_effect(tmp_path: Path) -> None:
    store = mounted(tmp_path, "hf", token="old", hosts="h.example")
    assert store.read("hf").need("token") == "old"
    newer = tmp_path / "hf" / "..newer"
    newer.mkdir()
    (newer / "token").write_text("new")
    (newer / "hosts").write_text("h.example")
    (tmp_path / "hf" / "..swap").symlink_to("..newer")
    (tmp_path / "hf" / "..swap").rename(tmp_path / "hf" / "..data")
    assert store.read("hf").need("token") == "new"


def test_values_are_in_no_representation(tmp_path: Path) -> None:
    found = secret(tmp_path, "h.example")
    assert TOKEN not in repr(found) + str(found)


@pytest.mark.parametrize(
    ("hosts", "url"),
    [
        ("huggingface.co", "https://huggingface.co/api"),
        ("HuggingFace.co.", "https://huggingface.CO"),
        ("a.example, b.example\nc.example", "https://c.example/"),
        ("a.example,b.example", "https://b.example/"),
        ("*.amazonaws.com", "https://bucket.s3.eu-central-1.amazonaws.com"),
        ("minio.corp:9000", "https://minio.corp:9000/b"),
        ("minio.corp", "https://minio.corp:9000/b"),
        ("minio.corp:443", "https://minio.corp/b"),
        ("127.0.0.1", "http://127.0.0.1:8080"),
        ("127.0.0.5", "http://127.0.0.5:8080"),
        ("localhost:8080", "http://localhost:8080"),
        ("[::1]:8080", "http://[::1]:8080"),
        ("::1", "http://[::1]"),
    ],
)
def test_where_a_secret_may_go(tmp_path: Path, hosts: str, url: str) -> None:
    assert secret(tmp_path, hosts).permits(url)
    secret(tmp_path / "again", hosts).require(url)


@pytest.mark.parametrize(
    ("hosts", "url"),
    [
        ("huggingface.co", "https://evil.example"),
        ("huggingface.co", "https://huggingface.co.evil.example"),
        ("huggingface.co", "https://xhuggingface.co"),
        ("huggingface.co", "https://cdn.huggingface.co"),
        ("*.example.com", "https://example.com"),
        ("*.example.com", "https://.example.com"),
        ("*.example.com", "https://notexample.com"),
        ("minio.corp:9000", "https://minio.corp:9001"),
        ("minio.corp:9000", "https://minio.corp"),
        ("huggingface.co", "http://huggingface.co"),
        ("10.0.0.1", "http://10.0.0.1"),
        ("huggingface.co", "ftp://huggingface.co"),
        ("huggingface.co", "https://huggingface.co@evil.example"),
        ("huggingface.co", "https://evil.example\\@huggingface.co"),
        ("huggingface.co", "https://user@huggingface.co"),
        ("huggingface.co", "https://huggingface.co:99999"),
        ("huggingface.co", "huggingface.co"),
        ("127.0.0.1", "http://127.0.0.1.evil.example"),
        ("localhost", "http://localhost.evil.example"),
    ],
)
def test_where_a_secret_may_not_go(tmp_path: Path, hosts: str, url: str) -> None:
    found = secret(tmp_path, hosts)
    assert not found.permits(url)
    with pytest.raises(AuthFailed, match="the secret s is not to be sent to"):
        found.require(url)


def test_the_refusal_says_what_to_add(tmp_path: Path) -> None:
    with pytest.raises(AuthFailed, match=r"hub\.corp:8443: add it to the secret's key 'hosts'"):
        secret(tmp_path, "huggingface.co").require("https://hub.corp:8443/x")


@pytest.mark.parametrize("hosts", ["", " ,\n", "*", "*.", "https://h", "a/b", "h:0", "h:x", "h:"])
def test_hosts_that_say_nothing_or_everything_are_refused(tmp_path: Path, hosts: str) -> None:
    with pytest.raises(AuthFailed, match="hosts"):
        secret(tmp_path, hosts)


def test_a_secret_without_hosts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AuthFailed, match="add a key 'hosts'"):
        mounted(tmp_path, "s", token=TOKEN).read("s")


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(AuthFailed, match="AWS_ACCESS_KEY_ID"):
        secret(tmp_path, "h.example").need("AWS_ACCESS_KEY_ID")


def test_a_missing_secret_says_where_it_belongs(tmp_path: Path) -> None:
    with pytest.raises(AuthFailed, match=f"mount it at {tmp_path}/nope"):
        SecretStore(tmp_path).read("nope")


def test_without_a_directory_there_are_no_secrets() -> None:
    with pytest.raises(AuthFailed, match="no directory of secrets"):
        SecretStore(None).read("s")


@pytest.mark.parametrize("name", ["", ".", "..", "../s", "a/b", "/etc", "A", "s\0", "a" * 254])
def test_a_name_can_not_lead_elsewhere(tmp_path: Path, name: str) -> None:
    mounted(tmp_path, "s", token=TOKEN, hosts="h.example")
    with pytest.raises(AuthFailed, match="not the name of a secret"):
        SecretStore(tmp_path / "s").read(name)


def test_rubbish_is_refused_without_being_shown(tmp_path: Path) -> None:
    store = mounted(tmp_path, "s", token=b"hf_\xff_planted", hosts="h.example")
    with pytest.raises(AuthFailed, match="not UTF-8") as caught:
        store.read("s")
    assert "planted" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_key_without_end_is_refused(tmp_path: Path) -> None:
    store = mounted(tmp_path, "s", token="x" * (1 << 20) + "y", hosts="h.example")
    with pytest.raises(AuthFailed, match="longer than any secret"):
        store.read("s")
