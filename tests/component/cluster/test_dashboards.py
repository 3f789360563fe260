"""The dashboards as a cluster gets them: rendered by kubectl, taken by a real API server."""

from __future__ import annotations

import json

import pytest

from tests.support.cluster.binaries import why_none
from tests.support.cluster.fixtures import NAMESPACE
from tests.support.cluster.plane import ControlPlane
from tests.support.dashboards import FOLDER, NAMES
from tests.support.manifests import FOLDER as MANIFESTS
from tests.support.manifests import Object, check_with_current_schema, find_kubectl, one, render


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> list[Object]:
    """What the component adds to an overlay, in a kustomization of a user's own."""
    if find_kubectl() is None:
        pytest.skip(why_none())
    folder = tmp_path_factory.mktemp("own")
    (folder / "model-cache-agent").symlink_to(FOLDER.parent)  # kustomize takes relative paths only
    overlay = "model-cache-agent/daemonset/overlays/generic-nvme"
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [overlay],
        "components": ["model-cache-agent/dashboards"],
    }
    (folder / "kustomization.yaml").write_text(json.dumps(kustomization))
    known = render(MANIFESTS / "overlays" / "generic-nvme")
    documents = render(folder)
    added = [each for each in documents if each not in known]
    assert len(documents) == len(known) + len(added)
    return added


def test_each_dashboard_is_a_config_map_for_the_sidecar(rendered: list[Object]) -> None:
    assert len(rendered) == len(NAMES)
    for name in NAMES:
        found = one(rendered, "ConfigMap", f"modelcache-dashboard-{name}", NAMESPACE)
        check_with_current_schema(found)
        assert found["metadata"]["name"] == f"modelcache-dashboard-{name}"
        assert found["metadata"]["labels"] == {
            "app.kubernetes.io/name": "modelcache",
            "grafana_dashboard": "1",
        }
        # One name for all of a folder: the sidecar writes the files of all ConfigMaps there.
        assert found["data"] == {f"{name}.json": (FOLDER / f"grafana/{name}.json").read_text()}


def test_the_api_server_takes_them(cluster: ControlPlane, rendered: list[Object]) -> None:
    given = json.dumps({"apiVersion": "v1", "kind": "List", "items": rendered})
    cluster.kubectl("apply", "-f", "-", stdin=given)
    # Again, as after a change: what was given before is kept in an annotation of limited size.
    said = cluster.kubectl("apply", "-f", "-", stdin=given)
    assert said.count("unchanged") == len(NAMES)
    cluster.kubectl("delete", "-f", "-", stdin=given)
