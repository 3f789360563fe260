"""Hollow nodes: kubelets that report their pods as running without starting anything."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.cluster.binaries import Binaries
from tests.support.cluster.processes import Program, free_port


class HollowNode:
    """One kubemark process: about 45 MB, and next to no work."""

    def __init__(
        self,
        binaries: Binaries,
        folder: Path,
        kubeconfig: Path,
        name: str,
        labels: Mapping[str, str],
        taints: Sequence[str],
    ) -> None:
        self.name = name
        self._temporary = folder / f"hollow-{name}"
        self._temporary.mkdir(exist_ok=True)
        registered = {
            "--node-labels": ",".join(f"{key}={value}" for key, value in labels.items()),
            "--register-with-taints": ",".join(taints),
        }
        self._program = Program(
            f"hollow-{name}",
            [
                *(binaries["kubemark"], "--morph=kubelet", f"--name={name}"),
                f"--kubeconfig={kubeconfig}",
                f"--kubelet-port={free_port()}",
                f"--kubelet-read-only-port={free_port()}",
                *(f"{flag}={value}" for flag, value in registered.items() if value),
            ],
            folder,
            {
                "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
                # Its folders, and the socket of its runtime.
                "TMPDIR": str(self._temporary),
                # It would ask for credentials of an image registry.
                "AWS_EC2_METADATA_DISABLED": "true",
            },
        )

    def start(self) -> None:
        """Start it, for the first time or again."""
        self._program.start()

    @property
    def pid(self) -> int:
        """Its process."""
        return self._program.pid

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._program.running

    def kill(self) -> None:
        """SIGKILL, as a machine that is switched off; its Node stays."""
        self._program.kill()

    def resident_bytes(self) -> int:
        """The memory that it has now."""
        return self._program.resident_bytes()

    close = kill
