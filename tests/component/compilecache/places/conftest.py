"""Every kind of place behind one face."""

from __future__ import annotations

import threading
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from moto.s3.responses import S3Response

from modelcache.compilecache.places.opening import open_place
from modelcache.compilecache.places.protocol import Place
from modelcache.origins import OriginSettings, SecretStore
from tests.component.origins.conftest import (
    clean_environment,
    gcs,
    gcs_server,
    registry,
    s3,
    s3_server,
)

__all__ = ["clean_environment", "gcs", "gcs_server", "registry", "s3", "s3_server"]

KINDS = ("file", "s3", "gs", "oci")


@pytest.fixture(autouse=True)
def conditions_are_atomic(monkeypatch: pytest.MonkeyPatch) -> None:
    """As at S3: moto looks for the object, and puts another in between."""
    put, lock = S3Response.put_object, threading.Lock()

    def one_by_one(self: S3Response) -> Any:
        with lock:
            return put(self)

    monkeypatch.setattr(S3Response, "put_object", one_by_one)


@pytest.fixture
def settings(tmp_path: Path) -> OriginSettings:
    (tmp_path / "mounts").mkdir()
    return OriginSettings(
        root=tmp_path / "cache",
        file_roots=(tmp_path / "mounts",),
        secrets=SecretStore(tmp_path / "secrets"),
    )


def place_uri(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place of a kind; its server runs."""
    name = f"place-{sha256(str(tmp_path).encode()).hexdigest()[:20]}"
    if kind == "s3":
        request.getfixturevalue("s3").client().create_bucket(Bucket=name)
        return f"s3://{name}/team/bundles"
    if kind == "gs":
        return f"gs://{request.getfixturevalue('gcs').bucket(name)}/team/bundles"
    if kind == "oci":
        return f"oci://{request.getfixturevalue('registry').host}/team/{name}"
    (tmp_path / "mounts" / name).mkdir()
    return (tmp_path / "mounts" / name).as_uri()


@pytest.fixture(params=KINDS)
def uri(request: pytest.FixtureRequest, tmp_path: Path, settings: OriginSettings) -> str:
    return place_uri(request.param, request, tmp_path)


@pytest.fixture
def place(uri: str, settings: OriginSettings) -> Place:
    return open_place(uri, None, settings)
