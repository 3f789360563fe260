"""A real `modelcache tune --daemon` in a process of its own."""

from __future__ import annotations

from pathlib import Path

from tests.support.agent import DaemonProcess


class TunerProcess(DaemonProcess):
    """`modelcache tune --daemon`."""

    started = "tuner.started"

    def __init__(self, rules: str, state: Path, *flags: str | Path, interval: str = "1h") -> None:
        """An interval of an hour: what happens within a test is not for its sake."""
        super().__init__(
            *("tune", "--daemon", "--read-ahead", rules, "--tune-state", state),
            *("--tune-interval", interval, *flags),
        )
