"""Where the cluster's programs are."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

VERSION = "1.20.2"
"""Of the control plane that `make cluster` builds, from Debian's source package."""

RECIPE = "3"
"""Changes when the way of building does: an older result is not taken then."""

CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
PROGRAMS = (*CONTROL_PLANE, "kubectl", "kubemark", "kubelet")


@dataclass(frozen=True)
class Binaries:
    """A folder with the programs; those of `KUBEBUILDER_ASSETS` may lack kubemark and kubelet."""

    folder: Path

    def __getitem__(self, name: str) -> str:
        return str(self.folder / name)

    def missing(self, *names: str) -> list[str]:
        """Those of them that are not there."""
        return [name for name in names if not os.access(self.folder / name, os.X_OK)]

    def has(self, *names: str) -> bool:
        """Whether all of them are there."""
        return not self.missing(*names)

    @property
    def minor(self) -> int:
        """20 for Kubernetes 1.20."""
        return _minor(self["kube-apiserver"])


@cache
def _minor(api_server: str) -> int:
    said = subprocess.run([api_server, "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"v1\.(\d+)", said.stdout)
    assert found, said.stdout
    return int(found[1])


def built_folder() -> Path:
    """Where `make cluster` puts what it builds: once for a machine, outside of any checkout."""
    cached = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cached / "model-cache-agent" / f"cluster-{VERSION}-{RECIPE}"


def find_binaries() -> Binaries | None:
    """The programs, at least those of a control plane; None where there are none.

    It never builds them: that takes minutes, and is `make cluster`'s.
    """
    found = Binaries(_folder())
    return found if found.has(*CONTROL_PLANE, "kubectl") else None


def why_none() -> str:
    """Why `find_binaries` finds none, and what to do, in one line."""
    if os.environ.get("KUBEBUILDER_ASSETS"):
        missing = Binaries(_folder()).missing(*CONTROL_PLANE, "kubectl")
        return f"KUBEBUILDER_ASSETS has no {', '.join(missing)}"
    return "this machine has no test cluster: run `make cluster`"


def _folder() -> Path:
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    return Path(assets) if assets else built_folder()
