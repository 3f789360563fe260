"""Bundles for tests of what carries them about: real ones, small."""

from __future__ import annotations

import os
import random
from datetime import UTC, datetime
from pathlib import Path

from modelcache.compilecache.bundles.local import LocalBundle
from modelcache.compilecache.bundles.packing import Compression, pack
from modelcache.compilecache.bundles.signing import SigningKey, unsigned
from modelcache.compilecache.bundles.statement import Producer, Statement
from modelcache.compilecache.engines.evidence import Evidence
from modelcache.compilecache.keys.parts import (
    Accelerator,
    Cpu,
    EngineIdentity,
    Key,
    ModelIdentity,
)
from modelcache.compilecache.trees.scanning import scan
from modelcache.store.durable import Durable

CREATED = datetime(2026, 11, 22, tzinfo=UTC)


def a_key(model: str = "org/tiny", product: str = "NVIDIA-H100-80GB-HBM3") -> Key:
    return Key(
        engine=EngineIdentity(name="torch", identity=f"sha256:{'1' * 64}"),
        accelerator=Accelerator(vendor="nvidia", product=product),
        cpu=Cpu(arch="x86_64", isa="x86-64-v3"),
        model=ModelIdentity(id=model),
    )


def a_bundle(
    folder: Path,
    content: bytes = b"a",
    *,
    key: Key | None = None,
    signed_by: SigningKey | None = None,
    compression: Compression = "zstd",
    path: str = "inductor/code.py",
    created: datetime = CREATED,
    name: str = "tiny",
) -> LocalBundle:
    """A bundle with one file. The same content and key give the same digest."""
    tree = folder.with_name(f"{folder.name}.tree")
    file = tree / path
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    os.utime(file, (1, 1))
    archive = folder.with_name(f"{folder.name}.archive")
    packed = pack(tree, scan(tree), archive, compression=compression)
    statement = Statement(
        name=name,
        key=key or a_key(),
        archive=packed.archive,
        producer=Producer(version="0"),
        evidence=Evidence(source="files"),
        created_at=created,
    )
    envelope = signed_by.sign(statement) if signed_by else unsigned(statement)
    scratch = folder.with_name(f"{folder.name}.scratch")
    scratch.mkdir()
    return LocalBundle.write(folder, envelope, archive, Durable(scratch))


def noise(size: int, seed: int = 0) -> bytes:
    """Bytes that hardly compress."""
    return random.Random(seed).randbytes(size)
