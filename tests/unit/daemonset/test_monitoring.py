"""What operators are told to scrape is there, and what they are told is in the fields they have."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from dashboards.rulefiles import groups, manifests
from tests.support.manifests import FOLDER, Object, load
from tests.support.monitors import GKE, JOBS, NAMESPACE, PROMETHEUS_OPERATOR, ports

DURATION = r"^(0|(([0-9]+)y)?(([0-9]+)w)?(([0-9]+)d)?(([0-9]+)h)?(([0-9]+)m)?(([0-9]+)s)?)$"
Duration = Annotated[str, Field(pattern=DURATION, min_length=1)]
LabelName = Annotated[str, Field(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$")]


class Strict(BaseModel):
    """Fields of a CRD that we use; any other is a mistake."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, strict=True)


class Metadata(Strict):
    name: str
    namespace: Literal["modelcache-system"]
    labels: dict[str, str]


class Selector(Strict):
    match_labels: dict[str, str]


class Relabeling(Strict):
    source_labels: list[LabelName] = []
    target_label: LabelName
    replacement: str | None = None


class PodMetricsEndpoint(Strict):
    port: str
    path: str
    interval: Duration
    relabelings: list[Relabeling]


class PodMonitorSpec(Strict):
    selector: Selector
    pod_metrics_endpoints: list[PodMetricsEndpoint]


class PodMonitor(Strict):
    """https://prometheus-operator.dev/docs/api-reference/api/#monitoring.coreos.com/v1.PodMonitor"""

    api_version: Literal["monitoring.coreos.com/v1"]
    kind: Literal["PodMonitor"]
    metadata: Metadata
    spec: PodMonitorSpec


class ScrapeEndpoint(Strict):
    port: str
    path: str
    interval: Duration


class TargetLabels(Strict):
    metadata: list[Literal["container", "node", "pod"]]


class PodMonitoringSpec(Strict):
    selector: Selector
    endpoints: list[ScrapeEndpoint]
    target_labels: TargetLabels


class PodMonitoring(Strict):
    """https://github.com/GoogleCloudPlatform/prometheus-engine/blob/main/doc/api.md#podmonitoring"""

    api_version: Literal["monitoring.googleapis.com/v1"]
    kind: Literal["PodMonitoring"]
    metadata: Metadata
    spec: PodMonitoringSpec


class ARule(Strict):
    """What both operators have of a rule. Google's has no `keep_firing_for`."""

    record: str | None = None
    alert: str | None = None
    expr: str
    for_: Annotated[Duration | None, Field(alias="for")] = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Group(Strict):
    name: str
    interval: Duration
    """Google's has to have one."""
    rules: list[ARule]


class RulesSpec(Strict):
    groups: list[Group]


class Rules(Strict):
    """PrometheusRule, and Google's Rules."""

    api_version: Literal["monitoring.coreos.com/v1", "monitoring.googleapis.com/v1"]
    kind: Literal["PrometheusRule", "Rules"]
    metadata: Metadata
    spec: RulesSpec


POD_MONITORS = load(PROMETHEUS_OPERATOR / "podmonitors.yaml")
POD_MONITORINGS = load(GKE / "podmonitorings.yaml")


@pytest.mark.parametrize("monitor", POD_MONITORS, ids=lambda each: each["metadata"]["name"])
def test_a_pod_monitor_has_the_fields_that_there_are(monitor: Object) -> None:
    PodMonitor.model_validate(monitor)


@pytest.mark.parametrize("monitor", POD_MONITORINGS, ids=lambda each: each["metadata"]["name"])
def test_a_pod_monitoring_has_the_fields_that_there_are(monitor: Object) -> None:
    found = PodMonitoring.model_validate(monitor)
    assert "node" in found.spec.target_labels.metadata


@pytest.mark.parametrize("path", manifests())
def test_rules_have_the_fields_that_there_are(path: str) -> None:
    (found,) = load(FOLDER.parent / path)
    Rules.model_validate(found)
    assert found["spec"]["groups"] == groups()
    kind = "PrometheusRule" if "prometheus-operator" in path else "Rules"
    assert found["kind"] == kind


def component_of(monitor: Object) -> str:
    selected = monitor["spec"]["selector"]["matchLabels"]
    assert selected.keys() == {"app.kubernetes.io/name", "app.kubernetes.io/component"}
    assert selected["app.kubernetes.io/name"] == "modelcache"
    return str(selected["app.kubernetes.io/component"])


def test_every_port_that_is_named_is_there_once_and_every_program_is_scraped() -> None:
    there = [(pod, port) for pod, _, port in ports()]
    assert len({*there}) == len(there)
    by_the_operator = [
        (component_of(monitor), endpoint["port"])
        for monitor in POD_MONITORS
        for endpoint in monitor["spec"]["podMetricsEndpoints"]
    ]
    assert sorted(by_the_operator) == sorted(JOBS)
    assert {*by_the_operator} <= {*there}
    by_google = {
        (component_of(each), endpoint["port"]): each["metadata"]["name"]
        for each in POD_MONITORINGS
        for endpoint in each["spec"]["endpoints"]
    }
    assert by_google == JOBS  # its name is the job


def test_the_programs_listen_where_the_page_says() -> None:
    page = (FOLDER.parent / "docs" / "monitoring.md").read_text()
    rows = re.findall(r"\| `([a-z-]+)`, (\d+) \| `([a-z-]+)` \|", page)
    numbers = {(pod, port): number for (pod, _, port), number in ports().items()}
    expected = [(port, str(numbers[pod, port]), job) for (pod, port), job in JOBS.items()]
    assert rows == expected


def test_the_base_restricts_no_network() -> None:
    """Else its policies would have to name these ports."""
    kinds = re.findall(
        r"^kind: (\w+)", "\n".join(p.read_text() for p in FOLDER.rglob("*.yaml")), re.MULTILINE
    )
    assert "NetworkPolicy" not in kinds


def test_the_examples_of_the_page_are_yaml() -> None:
    blocks = re.findall(
        r"```yaml\n(.*?)```", (FOLDER.parent / "docs" / "monitoring.md").read_text(), re.DOTALL
    )
    assert len(blocks) == 3
    assert all(isinstance(yaml.safe_load(block), dict) for block in blocks)
    assert NAMESPACE in blocks[1]
