"""What each object asks of this node: the key is made of it, of the model that is here, and of what
the node compiles for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import structlog

from modelcache.api import CompileCache, Manifest
from modelcache.compilecache.keys.facts import NodeFacts
from modelcache.compilecache.keys.making import key_of_object
from modelcache.compilecache.keys.models import model_of_manifest
from modelcache.compilecache.keys.parts import Key
from modelcache.errors import ModelCacheError
from modelcache.planning.compilechoosing import spec_digest

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Asked:
    """One object, with this node's key for it.

    Attributes:
        cache: the object.
        spec: its `spec_digest`.
        key: None where it is not known.
        why: why it isn't; empty where that will be told in a moment.
    """

    cache: CompileCache
    spec: str
    key: Key | None
    why: str = ""

    @property
    def place(self) -> str:
        """What tells its place from others."""
        bundles = self.cache.spec.bundles
        return f"{bundles.uri} {bundles.secret_name or ''}"


@dataclass(slots=True)
class _Made:
    """A key, and what it was made of."""

    cache: CompileCache
    facts: NodeFacts
    manifest: Manifest
    asked: Asked


@dataclass(slots=True)
class Needs:
    """Makes the keys, each once. For one thread."""

    _made: dict[str, _Made] = field(default_factory=dict)
    _specs: dict[str, tuple[CompileCache, str]] = field(default_factory=dict)

    def of(
        self,
        wanted: Mapping[str, CompileCache],
        facts: NodeFacts | None,
        why: str,
        models: Mapping[str, Manifest],
    ) -> dict[str, Asked]:
        """Every object with its key.

        Args:
            wanted: the objects that select this node.
            facts: what the node compiles for; None: not known, and `why`.
            models: the models that are shown on this node.
        """
        for name in [name for name in self._specs if name not in wanted]:
            del self._specs[name]
            self._made.pop(name, None)
        return {name: self._of(name, cache, facts, why, models) for name, cache in wanted.items()}

    def _of(
        self,
        name: str,
        cache: CompileCache,
        facts: NodeFacts | None,
        why: str,
        models: Mapping[str, Manifest],
    ) -> Asked:
        spec = self._spec(name, cache)
        if facts is None:
            return Asked(cache, spec, None, why)
        manifest = models.get(cache.spec.model)
        if manifest is None:
            return Asked(cache, spec, None, f"the model {cache.spec.model} is not on this node yet")
        made = self._made.get(name)
        same = made is not None and (made.cache is cache and made.manifest is manifest)
        if made is not None and same and made.facts == facts:
            return made.asked
        asked = _asked(name, cache, spec, facts, manifest)
        self._made[name] = _Made(cache, facts, manifest, asked)
        return asked

    def _spec(self, name: str, cache: CompileCache) -> str:
        known = self._specs.get(name)
        if known is None or known[0] is not cache:
            known = self._specs[name] = cache, spec_digest(cache)
        return known[1]


def _asked(
    name: str, cache: CompileCache, spec: str, facts: NodeFacts, manifest: Manifest
) -> Asked:
    try:
        return Asked(cache, spec, key_of_object(cache, facts, model_of_manifest(manifest)))
    except ModelCacheError as error:
        return Asked(cache, spec, None, str(error))
    except Exception as error:
        # One object's outermost line: what nobody has thought of in its arguments ends no round.
        log.exception("compile_cache.defect", compile_cache=name)
        return Asked(cache, spec, None, f"a defect: no key can be made of it: {error!r}")
