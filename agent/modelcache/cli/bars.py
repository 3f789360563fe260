"""Bars for what reads models through: bytes done, bytes a second."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn


def byte_bars(*, wanted: bool) -> Progress:
    """Bars on stderr, with bytes as their measure; none where that is no terminal."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        console=console,
        disable=not (wanted and console.is_terminal),
    )
