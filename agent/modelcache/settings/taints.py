"""Keys of startup taints."""

from __future__ import annotations

from typing import Final

STARTUP_TAINT: Final = "modelcache.dev/not-ready"
"""Key of the startup taint, unless the operator chose another."""

AUTOSCALERS_STARTUP_TAINTS: Final = "startup-taint.cluster-autoscaler.kubernetes.io/"
"""What cluster-autoscaler (1.29 and newer) takes for a startup taint without being told."""
