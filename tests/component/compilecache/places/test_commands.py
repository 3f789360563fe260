"""modelcache compile publish, pull, ls, against each kind of place."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from modelcache.compilecache.bundles.local import LocalBundle
from modelcache.compilecache.bundles.signing import SigningKey
from modelcache.compilecache.places.images import tag_of
from tests.component.compilecache.places.conftest import place_uri
from tests.support.bundles import a_bundle, a_key, noise
from tests.support.cluster.waiting import eventually
from tests.support.registry import OCI_MANIFEST, Registry
from tests.support.s3 import ACCESS_KEY, SECRET_KEY
from tests.unit.cli.conftest import Command, command

__all__ = ["command"]

KEY = SigningKey.generate()


@pytest.fixture
def public_key(tmp_path: Path) -> Path:
    path = tmp_path / "key.pub"
    path.write_bytes(KEY.public.to_pem())
    return path


@pytest.fixture
def bundle(tmp_path: Path) -> LocalBundle:
    return a_bundle(tmp_path / "bundle", noise(100_000), signed_by=KEY)


@pytest.fixture
def shared(request: pytest.FixtureRequest, tmp_path: Path, settings: object) -> str:
    return place_uri("file", request, tmp_path)


def test_from_one_machine_to_another(
    command: Command, uri: str, bundle: LocalBundle, public_key: Path, tmp_path: Path
) -> None:
    first = command("compile", "publish", bundle.directory, uri)
    assert (first.code, first.out) == (0, f"{bundle.digest} published: {uri}\n")
    again = command("compile", "publish", bundle.directory, uri, "-o", "json")
    assert again.document["published"] is False
    key = bundle.statement.key.digest
    listed = command("compile", "ls", uri, "--public-key", public_key)
    header, line = listed.out.splitlines()
    assert header.split()[:3] == ["KEY", "DIGEST", "SIZE"]
    assert line.split()[:2] == [key[:12], bundle.digest.removeprefix("sha256:")[:12]]
    assert line.endswith(KEY.key_id)
    out = tmp_path / "out"
    pulled = command(
        "compile", "pull", uri, "--key", key, "--public-key", public_key, "--out", out, "-o", "json"
    )
    assert pulled.code == 0
    got = LocalBundle.open(Path(pulled.document["directory"]))
    assert got.archive.read_bytes() == bundle.archive.read_bytes()
    # And what was pulled is a place.
    further = command("compile", "pull", out.as_uri(), "--digest", bundle.digest, "--out",
                      tmp_path / "further")  # fmt: skip
    assert further.code == 0
    assert further.out == (
        f"{bundle.digest}: {tmp_path / 'further' / key / bundle.digest.removeprefix('sha256:')}\n"
    )


def test_a_directory_by_its_path(
    command: Command,
    bundle: LocalBundle,
    public_key: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "place").mkdir()
    empty = command("compile", "ls", "place")
    assert empty.out.splitlines()[-1] == f"file://{tmp_path}/place: there is no bundle"
    published = command("compile", "publish", bundle.directory, "place")
    assert published.out == f"{bundle.digest} published: file://{tmp_path}/place\n"
    key = bundle.statement.key.digest
    assert key[:12] in command("compile", "ls", "place", "--key", key).out
    pulled = command("compile", "pull", "place", "--out", "out", "--digest", bundle.digest)
    assert (pulled.code, bundle.digest in pulled.out) == (0, True)


def test_what_is_not_trusted_is_not_fetched(
    command: Command, shared: str, public_key: Path, tmp_path: Path
) -> None:
    unsigned = a_bundle(tmp_path / "u")
    published = command("compile", "publish", unsigned.directory, shared)
    assert "not signed: nodes take it only where its digest is pinned" in published.out
    key, out = unsigned.statement.key.digest, tmp_path / "out"
    pulling = ["compile", "pull", shared, "--out", str(out), "--key", key]
    refused = command(*pulling, "--public-key", public_key)
    assert refused.code == 5
    assert "it is not signed" in refused.mistake
    assert not out.exists()
    listed = command("compile", "ls", shared, "--public-key", public_key, "-o", "json")
    (shown,) = listed.document["bundles"]
    assert "it is not signed" in shown["message"]
    nobody = command(*pulling)
    assert nobody.code == 2
    assert "nobody is trusted" in nobody.mistake


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "--key, or --digest"),
        (["--key", "a" * 64, "--digest", f"sha256:{'a' * 64}"], "not both"),
        (["--key", "abc"], "is no key"),
        (["--digest", "abc"], "is no digest"),
    ],
)
def test_what_can_t_be_meant(
    command: Command, shared: str, tmp_path: Path, given: list[str], said: str
) -> None:
    ended = command("compile", "pull", shared, "--out", tmp_path / "out", *given)
    assert ended.code == 2
    assert said in ended.mistake


def test_a_list_tells_what_can_t_be_read(
    command: Command, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Whoever cleans a place up has to see what lies there."""
    uri = place_uri("oci", request, tmp_path)
    good = a_bundle(tmp_path / "b", signed_by=KEY)
    assert command("compile", "publish", good.directory, uri).code == 0
    registry: Registry = request.getfixturevalue("registry")
    repository = uri.removeprefix(f"oci://{registry.host}/")
    statement = good.statement
    tag = tag_of(statement.key.digest, good.digest, statement.created_at)
    named = f"/v2/{repository}/manifests/{tag}"
    manifest = json.loads(registry.ask("GET", named, Accept=OCI_MANIFEST).data)
    other = f"sha256:{'b' * 64}"
    manifest["annotations"]["dev.modelcache.digest"] = other
    manifest["config"] = registry.push_blob(repository, b"config", manifest["config"]["mediaType"])
    tag = tag_of(statement.key.digest, other, statement.created_at)
    registry.push_manifest(repository, tag, manifest)
    data = registry.storage / "docker/registry/v2/blobs/sha256"
    digest = manifest["config"]["digest"].removeprefix("sha256:")
    (data / digest[:2] / digest / "data").write_bytes(b"change")
    listed = command("compile", "ls", uri, "-o", "json")
    assert listed.code == 0, listed.err
    spoiled = {each["digest"]: "message" in each for each in listed.document["bundles"]}
    assert spoiled == {good.digest: False, other: True}


def test_a_key_that_is_none_is_told(command: Command, shared: str) -> None:
    ended = command("compile", "ls", shared, "--key", "abc")
    assert ended.code == 2
    assert "is no key" in ended.mistake


def test_what_is_not_there(command: Command, shared: str, public_key: Path, tmp_path: Path) -> None:
    pulling = ["compile", "pull", shared, "--out", str(tmp_path / "out")]
    by_key = command(*pulling, "--key", a_key().digest, "--public-key", public_key)
    assert (by_key.code, "has no bundle for the key" in by_key.mistake) == (4, True)
    by_digest = command(*pulling, "--digest", f"sha256:{'0' * 64}")
    assert (by_digest.code, "has no bundle sha256:0000" in by_digest.mistake) == (4, True)
    assert command("compile", "ls", shared).out.split()[0] == "KEY"
    missing = command("compile", "ls", (tmp_path / "no-mount").as_uri())
    assert (missing.code, "mount it" in missing.mistake) == (4, True)


def test_a_broken_bundle_is_not_published(
    command: Command, shared: str, bundle: LocalBundle
) -> None:
    content = bytearray(bundle.archive.read_bytes())
    content[100] ^= 1
    bundle.archive.chmod(0o644)
    bundle.archive.write_bytes(content)
    ended = command("compile", "publish", bundle.directory, shared)
    assert (ended.code, "bytes were changed" in ended.mistake) == (5, True)


def test_no_secret_of_a_uri_is_told(command: Command, bundle: LocalBundle) -> None:
    for uri in ("s3://AKIAKEY:hidden@bucket/prefix", "oci://user:hidden@registry.example/name"):
        ended = command("compile", "publish", bundle.directory, uri)
        assert ended.code == 2
        assert "hidden" not in ended.err


def test_killed_in_a_pull_and_pulled_again(
    request: pytest.FixtureRequest, public_key: Path, tmp_path: Path
) -> None:
    """The partial archive is kept, found again, and gone in the end."""
    uri = place_uri("s3", request, tmp_path)
    bundle = a_bundle(tmp_path / "large", noise(48 * 1024 * 1024), signed_by=KEY)
    environment = {**os.environ, "AWS_ACCESS_KEY_ID": ACCESS_KEY}
    environment["AWS_SECRET_ACCESS_KEY"] = SECRET_KEY
    modelcache = [str(Path(sys.executable).with_name("modelcache")), "compile"]
    subprocess.run([*modelcache, "publish", bundle.directory, uri], env=environment, check=True)
    out = tmp_path / "out"
    pulling = [*modelcache, "pull", uri, "--out", str(out), "--digest", bundle.digest]
    with subprocess.Popen([*pulling, "--bandwidth", "16Mi"], env=environment) as process:
        partials = out / ".modelcache-pull" / "ingest" / "partial"
        eventually(
            lambda: sum(f.read_bytes().count(b"\n") for f in partials.glob("*/journal")) > 8,
            what="a journal with eight pieces",
            pause=0.02,
        )
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    done = subprocess.run(
        [*pulling, "-o", "json"], env=environment, check=True, capture_output=True, text=True
    )
    told = json.loads(done.stdout)
    assert told["receivedBytes"] <= bundle.statement.archive.size - 7 * 1024 * 1024
    got = LocalBundle.open(Path(told["directory"]))
    assert got.archive.read_bytes() == bundle.archive.read_bytes()
    assert [path.name for path in out.iterdir()] == [bundle.statement.key.digest]
