"""A real Prometheus on loopback, with what it scrapes and the rules that it evaluates."""

from __future__ import annotations

import json
import math
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.cluster.processes import Program, free_port
from tests.support.cluster.waiting import eventually

SECONDS_BETWEEN_SCRAPES = 1.0


@dataclass(frozen=True)
class Series:
    """One series of an answer: its labels, and its values by time; an instant query gives one."""

    labels: Mapping[str, str]
    values: tuple[tuple[float, float], ...]

    @property
    def value(self) -> float:
        """The last one."""
        return self.values[-1][1]

    @property
    def says_something(self) -> bool:
        """Whether a graph of it would show anything: NaN is what 0 / 0 gives."""
        return any(not math.isnan(value) for _, value in self.values)


class Prometheus:
    """Debian's prometheus. Targets come and go while it runs; all that it knows is in `folder`."""

    def __init__(self, folder: Path, rules: Sequence[Path] = ()) -> None:
        """`rules`: files of them, evaluated each second."""
        folder.mkdir(parents=True, exist_ok=True)
        self._targets = folder / "targets"
        self._targets.mkdir()
        interval = f"{SECONDS_BETWEEN_SCRAPES * 1000:g}ms"
        config = {
            "global": {
                "scrape_interval": interval,
                "scrape_timeout": interval,
                "evaluation_interval": "1s",
            },
            "rule_files": [str(path) for path in rules],
            "scrape_configs": [
                {
                    "job_name": "files",
                    "file_sd_configs": [
                        {"files": [f"{self._targets}/*.json"], "refresh_interval": "1s"}
                    ],
                }
            ],
        }
        file = folder / "prometheus.yaml"
        file.write_text(json.dumps(config))  # JSON is YAML
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        found = shutil.which("prometheus")
        assert found, "Debian's package prometheus is needed"
        self._program = Program(
            "prometheus",
            [
                *(found, f"--config.file={file}", f"--storage.tsdb.path={folder / 'data'}"),
                *(f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn"),
            ],
            folder,
        )

    def __enter__(self) -> Self:
        self._program.start()
        try:
            eventually(self._is_ready, what="Prometheus", timeout=60)
        except BaseException as error:
            self._program.kill()
            error.add_note(f"Prometheus said last:\n{self._program.tail()}")
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._program.kill()

    def _is_ready(self) -> bool:
        assert self._program.running, self._program.tail()
        with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5) as answer:
            return bool(answer.status == 200)

    # What it scrapes

    def scrape(self, job: str, url: str, **labels: str) -> None:
        """Scrape a program from now on; `labels` are what a PodMonitor would have set.

        One of the same job and labels is no longer scraped then.
        """
        name = "-".join([job, *(labels[key] for key in sorted(labels))])
        group = {"targets": [url.removeprefix("http://")], "labels": {"job": job, **labels}}
        path = self._targets / f"{name}.json"
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps([group]))
        temporary.rename(path)

    # What it says

    def query(self, expression: str, at: float | None = None) -> list[Series]:
        """An instant query, as of a time (in Unix time) or now; of a scalar one series."""
        when = {} if at is None else {"time": f"{at:.3f}"}
        return _series(self._ask("query", query=expression, **when))

    def query_range(
        self, expression: str, start: float, end: float, step: float = 1.0
    ) -> list[Series]:
        """A query as of each `step` seconds of a time."""
        asked = {"start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step:g}"}
        return _series(self._ask("query_range", query=expression, **asked))

    def label_values(self, label: str, *selectors: str) -> list[str]:
        """The values that a label has in some series."""
        found: list[str] = self._ask(f"label/{label}/values", matches=selectors)
        return found

    def alerts(self) -> list[dict[str, Any]]:
        """The alerts that are pending or firing now."""
        found: list[dict[str, Any]] = self._ask("alerts")["alerts"]
        return found

    def rules(self) -> list[dict[str, Any]]:
        """Every rule, with its health and the time that its last evaluation took."""
        return [rule for group in self._ask("rules")["groups"] for rule in group["rules"]]

    @property
    def said(self) -> str:
        """Its warnings and errors."""
        return self._program.tail(100)

    def _ask(self, path: str, matches: Iterable[str] = (), **asked: str) -> Any:
        pairs = [*asked.items(), *(("match[]", each) for each in matches)]
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(pairs)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                document = json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                why = error.read().decode()
            raise AssertionError(f"Prometheus refused {asked}: {why}") from None
        assert not document.get("warnings"), document["warnings"]
        return document["data"]


def _series(data: Mapping[str, Any]) -> list[Series]:
    if data["resultType"] in ("scalar", "string"):
        return [Series({}, (_point(data["result"]),))]
    return [
        Series(
            each["metric"],
            tuple(map(_point, each.get("values") or [each["value"]])),
        )
        for each in data["result"]
    ]


def _point(found: Sequence[Any]) -> tuple[float, float]:
    return float(found[0]), float(found[1])
