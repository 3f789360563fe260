"""What is scraped, and with which labels: Prometheus' own relabelling, on pods as it finds them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
import yaml

from tests.support.cluster.binaries import why_none
from tests.support.manifests import FOLDER, Object, find_kubectl, load, render
from tests.support.monitors import (
    JOBS,
    PROMETHEUS_OPERATOR,
    as_the_operator_scrapes,
    ports,
    relabelled,
    with_targets_of_a_file,
)

MONITORS = load(PROMETHEUS_OPERATOR / "podmonitors.yaml")
SCRAPES = [scrape for monitor in MONITORS for scrape in as_the_operator_scrapes(monitor)]
PAGE = FOLDER.parent / "docs" / "monitoring.md"


def example(key: str) -> Object:
    """The example of docs/monitoring.md that has a key."""
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (found,) = (block for block in map(yaml.safe_load, blocks) if key in block)
    return dict(found)


def documented() -> Object:
    """The configuration for those without an operator."""
    return example("scrape_configs")


def scraped(targets: Iterable[Mapping[str, str]]) -> set[tuple[str, str, str]]:
    found = [(each["__address__"], each["job"], each["node"]) for each in targets]
    assert len(found) == len({*found})  # nothing twice
    return {*found}


WANTED = {
    (f"10.0.0.7:{number}", JOBS[pod, port], "n1" if pod == "agent" else "n2")
    for (pod, _, port), number in ports().items()
    if (pod, port) in JOBS
}


def test_every_program_is_scraped_under_its_name_and_its_node(tmp_path: Path) -> None:
    assert len(WANTED) == len(JOBS)
    targets = relabelled(SCRAPES, tmp_path)
    assert scraped(targets) == WANTED
    assert {each["namespace"] for each in targets} == {"modelcache-system"}


def test_without_an_operator_it_is_the_same(tmp_path: Path) -> None:
    assert scraped(relabelled(documented()["scrape_configs"], tmp_path)) == WANTED


def test_what_sets_no_job_is_noticed(tmp_path: Path) -> None:
    broken = [
        {**each, "relabel_configs": [c for c in each["relabel_configs"] if "replacement" not in c]}
        for each in SCRAPES[:1]
    ]
    (target,) = relabelled(broken, tmp_path)
    assert (target["job"], target["node"]) != ("modelcache-agent", "n1")


@pytest.mark.parametrize("what", ["documented", "operator"])
def test_prometheus_takes_the_configuration(what: str, tmp_path: Path) -> None:
    config = documented() if what == "documented" else {"scrape_configs": SCRAPES}
    config.pop("rule_files", None)
    scrapes = [with_targets_of_a_file(each, []) for each in config.pop("scrape_configs")]
    path = tmp_path / "prometheus.yaml"
    path.write_text(yaml.safe_dump({**config, "scrape_configs": scrapes}))
    done = subprocess.run(["promtool", "check", "config", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_example_with_the_operator_renders(tmp_path: Path) -> None:
    if find_kubectl() is None:
        pytest.skip(why_none())
    (tmp_path / "model-cache-agent").symlink_to(FOLDER.parent)
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(example("components")))
    documents = render(tmp_path)
    released = {
        each["kind"] for each in documents if each["metadata"]["labels"].get("release") is not None
    }
    assert released == {"PodMonitor", "PrometheusRule"}
    dashboards = [each for each in documents if "grafana_dashboard" in each["metadata"]["labels"]]
    assert len(dashboards) == 3
