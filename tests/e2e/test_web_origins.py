"""Google Cloud Storage and web servers in one agent; what is secret is nowhere to be read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent import AgentProcess, modelcache, write_catalog
from tests.support.gcs import GcsServer
from tests.support.hub import GeneratedContent
from tests.support.web import PASSWORD, USER, WHY_NONE, WebServer, nginx

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    if nginx() is None:
        pytest.skip(WHY_NONE)
    with WebServer(tmp_path_factory.mktemp("nginx")) as server:
        yield server


def contents(seed: int) -> dict[str, bytes]:
    return {
        "config.json": b'{"seed": %d}' % seed,
        "weights/model.safetensors": GeneratedContent(9 * MIB + 5, seed=seed).data(),
        "with space & more+.txt": b"odd name",
        "empty.txt": b"",
    }


def viewed(root: Path, model: str) -> dict[str, bytes]:
    current = root / "models" / model / "current"
    files = [path for path in current.rglob("*") if path.is_file()]
    return {path.relative_to(current).as_posix(): path.read_bytes() for path in files}


def test_google_lists_and_signed_urls_at_once(web: WebServer, tmp_path: Path) -> None:
    root, secret = tmp_path / "root", tmp_path / "secrets" / "web"
    secret.mkdir(parents=True)
    for key, value in {"hosts": "127.0.0.1", "username": USER, "password": PASSWORD}.items():
        (secret / key).write_text(value)
    from_google, from_list = contents(1), contents(2)
    web.put({f"private/llama/{path}": data for path, data in from_list.items()})
    web.sum_up("private/llama")
    web.put({"signed/one.gguf": b"one file"})
    catalog = write_catalog(
        tmp_path / "catalog.yaml",
        {"name": "google", "uri": "gs://weights/models/llama"},
        {
            "name": "list",
            "uri": web.locate("private/llama/SHA256SUMS"),
            "secretName": "web",
        },
        {"name": "signed", "uri": f"{web.url}/signed/one.gguf?sig=planted"},
        {"name": "expired", "uri": f"{web.url}/signed/one.gguf?sig=planted-long-ago"},
    )
    flags = ("--secrets-dir", str(tmp_path / "secrets"))
    with GcsServer() as gcs:
        gcs.bucket("weights")
        gcs.put_many("weights", {f"models/llama/{p}": data for p, data in from_google.items()})
        gcs.put_many("weights", {"models/llama-2/config.json": b"not wanted"})
        env = {"STORAGE_EMULATOR_HOST": gcs.url, "SSL_CERT_FILE": str(web.authority)}
        with AgentProcess(root, catalog, *flags, env=env) as agent:
            agent.wait_ready("google", "list", "signed")
            failed = agent.wait_failed("expired")
            told = agent.get("/v1/node") + agent.get("/metrics")
            sources = {m["name"]: m["source"] for m in agent.node()["status"]["models"]}
            assert agent.terminate() == 0
            told += agent.log
    assert viewed(root, "google") == from_google
    assert viewed(root, "list") == from_list
    assert viewed(root, "signed") == {"one.gguf": b"one file"}
    assert failed["reason"] == "AuthFailed"
    assert sources["signed"].startswith(f"{web.url}/signed/one.gguf?query-sha256=")
    assert sources["expired"] != sources["signed"]

    # The servers know nothing any more, and a restart knows the models by what was stored of them.
    with AgentProcess(root, catalog, *flags, env=env) as agent:
        agent.wait_ready("google", "list", "signed", timeout=10)
        assert agent.terminate() == 0
        told += agent.log
    told += modelcache("show", "signed", "--root", root).stdout
    stored = b"".join(path.read_bytes() for path in root.rglob("*") if path.is_file())
    assert "planted" not in told
    assert b"planted" not in stored


def test_prefetch_names_a_model_after_the_folder_of_its_list(
    web: WebServer, tmp_path: Path
) -> None:
    web.put({"Tiny Model/config.json": b"{}"})
    web.sum_up("Tiny Model")
    env = {"SSL_CERT_FILE": str(web.authority)}
    uri = web.locate("Tiny Model/SHA256SUMS")
    result = modelcache("prefetch", "--root", tmp_path / "root", uri, env=env)
    assert result.returncode == 0, result.stderr
    assert viewed(tmp_path / "root", "tiny-model") == {"config.json": b"{}"}


def test_prefetch_tells_no_secret_that_is_in_a_url(tmp_path: Path) -> None:
    uri = "https://127.0.0.1:1/SHA256SUMS?planted"
    result = modelcache("prefetch", "--root", tmp_path / "root", "-o", "json", uri)
    assert result.returncode == 7
    assert "planted" not in result.stdout + result.stderr
