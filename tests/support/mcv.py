"""Images of compile caches as GKM's MCV makes them, in the layout that skopeo writes."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.support.tars import entry, folder, tar

VLLM = {
    "cache.vllm.image/summary": "{}",
    "io.kserve.km/cache-root-env": "VLLM_CACHE_ROOT=/home/kserve/.cache/vllm",
    "io.kserve.km/cache-mount-subpath": "torch_compile_cache/torch_aot_compile",
    "io.kserve.km/cache-mounts": json.dumps(
        [{"subPath": "kernels", "absPath": "/tmp/kernels", "env": "TRITON_CACHE_DIR"}]
    ),
}
DOCKER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


def image(
    layout: Path, *layers: bytes, labels: object = VLLM, media_type: str = DOCKER, pack: Any = None
) -> Path:
    """An OCI layout, as skopeo writes it."""

    def blob(content: bytes, kind: str) -> dict[str, Any]:
        digest = sha256(content).hexdigest()
        (layout / "blobs/sha256").mkdir(parents=True, exist_ok=True)
        (layout / "blobs/sha256" / digest).write_bytes(content)
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(content)}

    config = {"architecture": "amd64", "os": "linux", "config": {"Labels": labels}}
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
        "layers": [blob((pack or gzip.compress)(layer), media_type) for layer in layers],
    }
    described = blob(json.dumps(manifest).encode(), str(manifest["mediaType"]))
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [described]}))
    return layout


def below(prefix: str, files: Mapping[str, bytes]) -> bytes:
    return tar(folder(prefix), *(entry(f"{prefix}/{path}", data) for path, data in files.items()))
