"""The rules of dashboards/rules as the objects that operators take.

The plain files are what people write and `promtool` reads; what is generated of them says the same,
as a `PrometheusRule` (https://prometheus-operator.dev) and as `Rules` of Google Cloud Managed
Service for Prometheus (https://github.com/GoogleCloudPlatform/prometheus-engine).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

FOLDER: Final = Path(__file__).parent / "rules"
NAMES: Final = ("recording", "alerts")
"""The files, in the order in which they are to be evaluated."""

_KINDS: Final = {
    "prometheus-operator": ("monitoring.coreos.com/v1", "PrometheusRule"),
    "gke-monitoring": ("monitoring.googleapis.com/v1", "Rules"),
}
_HEAD: Final = "# Written by `make dashboards` from dashboards/rules: change it there.\n"


def groups() -> list[dict[str, Any]]:
    """The groups of rules, as Prometheus has them in its files."""
    return [
        group
        for name in NAMES
        for group in yaml.safe_load((FOLDER / f"{name}.yaml").read_text())["groups"]
    ]


def manifests() -> Mapping[str, str]:
    """The text of each object, by its path from the repository's root."""
    return {
        f"daemonset/components/{component}/rules.yaml": _HEAD + _text(version, kind)
        for component, (version, kind) in _KINDS.items()
    }


def _text(version: str, kind: str) -> str:
    found = {
        "apiVersion": version,
        "kind": kind,
        "metadata": {
            "name": "modelcache",
            "namespace": "modelcache-system",
            "labels": {
                "app.kubernetes.io/name": "modelcache",
                "app.kubernetes.io/component": "rules",
            },
        },
        "spec": {"groups": groups()},
    }
    text: str = yaml.dump(found, Dumper=_Dumper, sort_keys=False, width=100, allow_unicode=True)
    return text


class _Dumper(yaml.SafeDumper):
    """Writes expressions as they were written: in lines."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        """Lists are indented, as in our other manifests."""
        return super().increase_indent(flow, indentless=False)


def _lines(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _lines)
