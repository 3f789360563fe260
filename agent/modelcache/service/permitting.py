"""Permits to fetch: for which contents they are asked for, and which models have theirs.

All who would fetch the same from the same place ask for the same permit.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

from modelcache.api import CachedModel
from modelcache.planning.trials import Trial


def permitted(permits: Container[str] | None, trials: Mapping[str, Trial]) -> Container[str] | None:
    """The models whose fetch may begin; None: all. `permits` are those that this node has."""
    if permits is None:
        return None
    return {name for name, trial in trials.items() if _permit(trial) in permits}


def wanted_permits(
    names: Iterable[str], wanted: Mapping[str, CachedModel], trials: Mapping[str, Trial]
) -> dict[str, int]:
    """The permits of some models, each with the highest priority of those that need it."""
    found: dict[str, int] = {}
    for name in names:
        model, trial = wanted.get(name), trials.get(name)
        if model is not None and trial is not None and trial.resolved is not None:
            permit = _permit(trial)
            found[permit] = max(model.spec.priority, found.get(permit, model.spec.priority))
    return found


def _permit(trial: Trial) -> str:
    return f"{trial.source}/{trial.resolved.snapshot}" if trial.resolved else ""
