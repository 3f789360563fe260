"""The labels that a node carries on account of what it holds."""

from __future__ import annotations

from collections.abc import Iterable

from modelcache.api import API_GROUP, ModelReport, ModelState
from modelcache.api.nodecache import CompileReport, CompileState

MODEL_LABEL = f"{API_GROUP}/model."
REVISION_LABEL = f"{API_GROUP}/revision."
COMPILE_LABEL = f"{API_GROUP}/compile."

MOST_LABELLED = 32
"""Models that are labelled on one node: every label is sent to every watcher of nodes."""


def labels(reports: Iterable[ModelReport], most: int = MOST_LABELLED) -> dict[str, str]:
    """Labels for what is ready and wanted, the highest priorities first.

    `modelcache.dev/model.<name>=Ready` and `modelcache.dev/revision.<name>=<12 hex>`.
    """
    found: dict[str, str] = {}
    for report in _labelled(reports)[:most]:
        found[f"{MODEL_LABEL}{report.name}"] = ModelState.READY.value
        found[f"{REVISION_LABEL}{report.name}"] = (report.revision or "")[:12]
    return found


def unlabelled(reports: Iterable[ModelReport], most: int = MOST_LABELLED) -> tuple[str, ...]:
    """Names of models that are ready and wanted, and for whose labels there is no room."""
    return tuple(report.name for report in _labelled(reports)[most:])


def _labelled(reports: Iterable[ModelReport]) -> list[ModelReport]:
    ready = [r for r in reports if r.state is ModelState.READY and r.wanted and r.revision]
    return sorted(ready, key=lambda report: (-report.priority, report.name))


def compile_labels(reports: Iterable[CompileReport], most: int = MOST_LABELLED) -> dict[str, str]:
    """Labels for compile caches that are ready, by name: `modelcache.dev/compile.<name>=<12 hex>`,
    the beginning of the key."""
    ready = [r for r in reports if r.state is CompileState.READY and r.key]
    ready.sort(key=lambda report: report.name)
    return {f"{COMPILE_LABEL}{r.name}": (r.key or "")[:12] for r in ready[:most]}
