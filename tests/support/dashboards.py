"""The dashboards as they are committed: their panels, and what these ask for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parents[2] / "dashboards"
NAMES: Final = tuple(path.stem for path in sorted((FOLDER / "grafana").glob("*.json")))

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Asked:
    """A query of a panel, with its variables as they are written."""

    dashboard: str
    panel: str
    ref: str
    expr: str
    legend: str
    instant: bool

    def __str__(self) -> str:
        return f"{self.dashboard}: {self.panel}: {self.ref}"


@cache
def load(name: str) -> Json:
    """A dashboard's JSON."""
    found: Json = json.loads((FOLDER / "grafana" / f"{name}.json").read_text())
    return found


def panels(name: str) -> Iterator[Json]:
    """Its panels, without the titles of rows."""
    return (panel for panel in load(name)["panels"] if panel["type"] != "row")


def queries(*names: str) -> Iterator[Asked]:
    """Every query of every panel, of all dashboards or of some; and those of annotations, whose
    panel is the annotation's name."""
    for name in names or NAMES:
        for panel in panels(name):
            for target in panel["targets"]:
                yield Asked(
                    name,
                    panel["title"],
                    target["refId"],
                    target["expr"],
                    target["legendFormat"],
                    bool(target.get("instant")),
                )
        for annotation in load(name)["annotations"]["list"]:
            yield Asked(
                name,
                annotation["name"],
                "-",
                annotation["expr"],
                annotation["titleFormat"],
                instant=False,
            )


def variables(name: str) -> Mapping[str, Json]:
    """Its variables, by their names."""
    return {each["name"]: each for each in load(name)["templating"]["list"]}
