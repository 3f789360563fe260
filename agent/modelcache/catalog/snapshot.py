"""The catalog at one moment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from modelcache.api import CachedModel, CatalogReport, CompileCache
from modelcache.catalog.documents import Document
from modelcache.catalog.problems import ObjectKey, Problem, Severity

_REPORTED: Final = 100


@dataclass(frozen=True, slots=True)
class Catalog:
    """What is desired, and what could not be read. Never changes.

    Attributes:
        documents: the objects in force with the places where they were read.
        problems: what is wrong, by file and place.
        models: the CachedModels by name.
        compile_caches: the CompileCaches by name.
    """

    documents: Mapping[ObjectKey, Document]
    problems: tuple[Problem, ...]
    models: Mapping[str, CachedModel]
    compile_caches: Mapping[str, CompileCache]

    @classmethod
    def of(cls, documents: Iterable[Document] = (), problems: Iterable[Problem] = ()) -> Catalog:
        """A catalog of documents whose keys differ."""
        by_key = {document.key: document for document in documents}
        models: dict[str, CachedModel] = {}
        compile_caches: dict[str, CompileCache] = {}
        for document in by_key.values():
            if isinstance(document.object, CachedModel):
                models[document.object.name] = document.object
            else:
                compile_caches[document.object.name] = document.object
        return cls(
            MappingProxyType(by_key),
            tuple(problems),
            MappingProxyType(models),
            MappingProxyType(compile_caches),
        )

    @property
    def complete(self) -> bool:
        """Whether everything that was written is in force.

        Where it is not, an object that is absent may well be wanted: after a restart nothing is
        known of what a broken document said before.
        """
        return all(problem.severity is not Severity.ERROR for problem in self.problems)

    def report(self) -> CatalogReport:
        """For `node.json`: the numbers, and the first hundred problems as lines."""
        return CatalogReport(
            objects=len(self.documents),
            problems=tuple(str(problem) for problem in self.problems[:_REPORTED]),
            problem_count=len(self.problems),
        )
