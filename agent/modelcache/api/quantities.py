"""Sizes as Kubernetes writes them, for people."""

from __future__ import annotations

from typing import Final

_UNITS: Final = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")


def quantity(size: int) -> str:
    """Bytes as `512`, `1.5Gi`, `149Gi`: with a tenth below 100, rounded."""
    if size < 1024:
        return str(size)
    value, power = float(size), 0
    # Not 1024: what would be rounded to 1024 is written as one of the next unit.
    while value >= 1023.5 and power < len(_UNITS) - 1:
        value, power = value / 1024, power + 1
    text = f"{value:.1f}".removesuffix(".0") if value < 99.95 else f"{value:.0f}"
    return text + _UNITS[power]
