"""Bundles for tests of what carries them about."""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from modelcache.compilecache.bundles.statement import Archive, Envelope, Producer, Statement
from modelcache.compilecache.engines.evidence import Evidence
from modelcache.compilecache.keys.parts import (
    Accelerator,
    Cpu,
    EngineIdentity,
    Key,
    ModelIdentity,
)


def a_key(model: str = "org/tiny", product: str = "NVIDIA-H100-80GB-HBM3") -> Key:
    return Key(
        engine=EngineIdentity(name="torch", identity=f"sha256:{'1' * 64}"),
        accelerator=Accelerator(vendor="nvidia", product=product),
        cpu=Cpu(arch="x86_64", isa="x86-64-v3"),
        model=ModelIdentity(id=model),
    )


@dataclass(frozen=True)
class _Bundle:
    statement: Statement
    envelope_bytes: bytes
    archive: Path


def a_bundle(
    folder: Path, content: bytes = b"a", *, key: Key | None = None, name: str = "tiny"
) -> _Bundle:
    folder.mkdir(parents=True)
    archive = folder / "archive.tar.zst"
    archive.write_bytes(content)
    statement = Statement(
        name=name,
        key=key or a_key(),
        archive=Archive(
            digest=f"sha256:{sha256(content).hexdigest()}",
            size=len(content),
            manifest=f"sha256:{'2' * 64}",
            files=1,
            bytes=1,
        ),
        producer=Producer(version="0"),
        evidence=Evidence(source="files"),
        created_at=datetime(2026, 11, 22, tzinfo=UTC),
    )
    envelope = Envelope(statement=b64encode(statement.to_bytes()).decode())
    return _Bundle(statement, json.dumps(envelope.to_document()).encode(), archive)
