"""Every file that is generated here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
"""The repository."""


def files() -> Mapping[str, str]:
    """The text of each file, by its path from the repository's root."""
    return {}
