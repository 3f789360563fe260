"""All kinds of origins at once, in one agent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.agent import AgentProcess, write_catalog
from tests.support.hub import GeneratedContent, HubServer
from tests.support.registry import Registry
from tests.support.s3 import ACCESS_KEY, REGION, SECRET_KEY, S3Server
from tests.support.tars import files as tar_of
from tests.support.tars import layer

MIB = 1024 * 1024
BUCKET = "e2e-origins"


def contents(seed: int) -> dict[str, bytes]:
    return {
        "config.json": b'{"seed": %d}' % seed,
        "weights/model.safetensors": GeneratedContent(9 * MIB + 5, seed=seed).data(),
        "with space & more+.txt": b"odd name",
        "empty.txt": b"",
    }


def test_hugging_face_s3_registries_and_files_at_once(tmp_path: Path) -> None:
    root, shared = tmp_path / "root", tmp_path / "shared"
    from_hub, from_s3, from_files = contents(1), contents(2), contents(3)
    from_registry = contents(4)
    for path, content in from_files.items():
        place = shared / "models" / "three" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    catalog = write_catalog(
        tmp_path / "catalog.yaml",
        {"name": "one", "uri": "hf://org/one"},
        {"name": "two", "uri": f"s3://{BUCKET}/models/two"},
        {"name": "three", "uri": f"file://{shared}/models/three"},
        {"name": "four", "uri": "oci://REGISTRY/models/four:v1"},
    )
    expected = {"one": from_hub, "two": from_s3, "three": from_files, "four": from_registry}
    flags = ("--file-roots", str(shared))
    with HubServer() as hub, S3Server() as s3, Registry() as registry:
        catalog.write_text(catalog.read_text().replace("REGISTRY", registry.host))
        registry.push_image("models/four", layer(tar_of(from_registry)), tag="v1")
        commit = hub.add_repo("org/one", dict(from_hub))
        client = s3.client()
        client.create_bucket(Bucket=BUCKET)
        for path, content in from_s3.items():
            client.put_object(Bucket=BUCKET, Key=f"models/two/{path}", Body=content)
        client.put_object(Bucket=BUCKET, Key="models/two-more/config.json", Body=b"not wanted")
        env = {
            "HF_ENDPOINT": hub.url,
            "AWS_ENDPOINT_URL_S3": s3.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": REGION,
        }
        with AgentProcess(root, catalog, *flags, env=env) as agent:
            agent.wait_ready(*expected)
            first = {name: agent.model(name) for name in expected}
            labels = agent.node()["status"]["labels"]
            assert agent.terminate() == 0
    assert [first[name]["state"] for name in expected] == ["Ready"] * 4
    assert first["one"]["revision"] == commit
    assert [first[name].get("hubPath") is not None for name in expected] == [True] + 3 * [False]
    assert [labels[f"modelcache.dev/model.{name}"] for name in expected] == ["Ready"] * 4
    for name, files in expected.items():
        assert viewed(root, name) == files
        assert first[name]["bytesTotal"] == sum(map(len, files.values()))

    # The servers are gone, and so are the files: a restart needs none of them.
    shared.rename(tmp_path / "away")
    with AgentProcess(root, catalog, *flags, env=env) as agent:
        agent.wait_ready(*expected, timeout=10)
        # What is here is known before what is wanted.
        agent.wait_for_event("catalog.read")
        again = agent.node()["status"]
        assert {model["name"]: lasting(model) for model in again["models"]} == {
            name: lasting(model) for name, model in first.items()
        }
        assert again["labels"] == labels
        assert agent.get("/readyz") == "ok\n"
        assert agent.terminate() == 0
        assert not [e for e in agent.events if e["event"] in ("fetch.started", "model.failed")]
    for name, files in expected.items():
        assert viewed(root, name) == files


def lasting(model: dict[str, Any]) -> dict[str, Any]:
    """A model's report without what the page cache has of it now."""
    return {name: value for name, value in model.items() if name != "residentBytes"}


def viewed(root: Path, model: str) -> dict[str, bytes]:
    """The files of a model's plain view."""
    current = root / "models" / model / "current"
    files = [path for path in current.rglob("*") if path.is_file()]
    return {path.relative_to(current).as_posix(): path.read_bytes() for path in files}
