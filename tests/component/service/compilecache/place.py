"""A model, a CompileCache for it, and a place with bundles: all in directories of a test."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from modelcache.api import CompileCache, Manifest, parse_uri
from modelcache.api.nodecache import CompileReport, NodeCache
from modelcache.compilecache.bundles.local import LocalBundle
from modelcache.compilecache.bundles.signing import SigningKey
from modelcache.compilecache.keys.facts import NodeFacts
from modelcache.compilecache.keys.making import key_of_object
from modelcache.compilecache.keys.models import model_of_manifest
from modelcache.compilecache.keys.parts import Key
from modelcache.compilecache.places.directories import DirectoryPlace
from modelcache.service.agent import Agent
from modelcache.service.compilecache.facts import find_out
from modelcache.settings import AgentSettings
from modelcache.store import Store
from tests.support.bundles import a_bundle

IMAGE_DIGEST = f"sha256:{'7' * 64}"
OURS = "modelcache.dev/v1alpha1"


def compile_cache(place: str, name: str = "tiny", model: str = "m", **spec: Any) -> dict[str, Any]:
    """A CompileCache as a document; `spec` has more fields of it."""
    bundles = {"uri": place, **spec.pop("bundles", {})}
    return {
        "apiVersion": OURS,
        "kind": "CompileCache",
        "metadata": {"name": name},
        "spec": {
            "model": model,
            "engine": {
                "name": "torch",
                "image": f"registry.example/engine@{IMAGE_DIGEST}",
                "args": ["python", "serve.py"],
                **spec.pop("engine", {}),
            },
            "bundles": bundles,
            **spec,
        },
    }


class Bench:
    """The directories. The place is empty at first, and the model is there to be fetched."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "root"
        self.place = folder / "place"
        self.place.mkdir()
        model = folder / "model"
        model.mkdir()
        (model / "config.json").write_text('{"hidden_size": 8}')
        (model / "model.safetensors").write_bytes(b"weights")
        self.model = f"file://{model}"
        self.signing = SigningKey.generate()
        self.trusted = folder / "trusted.pem"
        self.trusted.write_bytes(self.signing.public.to_pem())
        self.private = folder / "signing.pem"
        self.private.write_bytes(self.signing.to_pem())
        self.private.chmod(0o600)
        self._numbers = iter(range(1000))

    @property
    def uri(self) -> str:
        return f"file://{self.place}"

    def cached_model(self, name: str = "m") -> dict[str, Any]:
        """The CachedModel, as a document."""
        return {
            "apiVersion": OURS,
            "kind": "CachedModel",
            "metadata": {"name": name},
            "spec": {"source": {"uri": self.model}},
        }

    def manifest(self) -> Manifest:
        """The model's, once it is in the root."""
        return Store(self.root).shown()["m"]

    def key(self, cache: dict[str, Any], facts: NodeFacts | None = None) -> Key:
        """This machine's key for an object."""
        read = CompileCache.from_document(cache)
        return key_of_object(read, facts or find_out({}), model_of_manifest(self.manifest()))

    def publish(
        self,
        key: Key,
        content: bytes = b"a",
        *,
        signed_by: SigningKey | None = None,
        day: int = 1,
        signed: bool = True,
        name: str = "tiny",
    ) -> LocalBundle:
        """Bring a bundle to the place, as another node would."""
        bundle = a_bundle(
            self.folder / f"bundle-{next(self._numbers)}",
            content,
            key=key,
            signed_by=(signed_by or self.signing) if signed else None,
            created=datetime(2026, 1, day, tzinfo=UTC),
            name=name,
        )
        place = DirectoryPlace(parse_uri(self.uri), within=None, forbidden=self.root)
        assert place.publish(bundle)
        return bundle


def catalog(path: Path, *documents: dict[str, Any]) -> Path:
    """A catalog's file."""
    path.write_text("---\n".join(yaml.safe_dump(each) for each in documents))
    return path


def run(bench: Bench, *caches: dict[str, Any], **settings: Any) -> dict[str, CompileReport]:
    """One agent that tries everything once; what it reports in the end."""
    path = catalog(bench.folder / "catalog.yaml", bench.cached_model(), *caches)
    found = AgentSettings(
        root=bench.root,
        catalog=path,
        node_name="n1",
        listen="",
        file_roots=(bench.folder,),
        keep_free="0",
        **{"trusted_keys": bench.trusted, **settings},
    )
    agent = Agent(found, once=True)
    agent.run()
    written = NodeCache.model_validate_json((bench.root / "node.json").read_bytes())
    assert written.status is not None
    return {report.name: report for report in written.status.compile_caches}
