"""A node with real containers: what the tests of the project's image rely on."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster.binaries import find_binaries, why_none
from tests.support.cluster.image import write_archive
from tests.support.cluster.kubelet import NEEDS, PLUGINS, SERVICE, RealKubelet
from tests.support.cluster.plane import ControlPlane
from tests.support.cluster.podnetwork import PodNetwork

pytestmark = [pytest.mark.root, pytest.mark.heavy]

IMAGE = "localhost/modelcache-test-connect:1"
CONNECT = r"""
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

/* Connects to each address and port that it is given. */
int main(int count, char **words) {
    for (int i = 1; i + 1 < count; i += 2) {
        struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(words[i + 1]))};
        int made = socket(AF_INET, SOCK_STREAM, 0);
        if (inet_pton(AF_INET, words[i], &to.sin_addr) != 1
            || connect(made, (struct sockaddr *) &to, sizeof to)) {
            perror(words[i]);
            return 1;
        }
        printf("reached %s\n", words[i]);
    }
    return 0;
}
"""
KERNEL = ("vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops")


def image(folder: Path) -> Path:
    """One static program and nothing else."""
    (folder / "connect.c").write_text(CONNECT)
    subprocess.run(["gcc", "-static", "-o", "connect", "connect.c"], cwd=folder, check=True)
    with tarfile.open(folder / "layer.tar", "w") as layer:
        layer.add(folder / "connect", "connect")
    archive = folder / "image.tar"
    write_archive(archive, IMAGE, folder / "layer.tar", ["/connect"])
    return archive


def pod(*words: object) -> dict[str, Any]:
    container = {
        "name": "connect",
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "args": [str(word) for word in words],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "connect", "namespace": "default"},
        "spec": {"restartPolicy": "Never", "containers": [container]},
    }


def kernel() -> list[str]:
    return [(Path("/proc/sys") / name).read_text() for name in KERNEL]


def running(folder: Path) -> list[str]:
    """The processes that know a folder by its name."""
    found = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = command.read_text()
        except OSError:
            continue
        if str(folder) in words:
            found.append(words.replace("\0", " "))
    return found


def test_a_pod_runs_and_nothing_is_left(tmp_path: Path) -> None:
    binaries = find_binaries()
    if binaries is None:
        pytest.skip(why_none())
    lacking = [*binaries.missing("kubelet"), *(name for name in NEEDS if not shutil.which(name))]
    if lacking or not PLUGINS.is_dir():
        pytest.skip(f"a real node needs what is not here: {lacking or PLUGINS}")
    before = kernel()
    with PodNetwork() as network, ControlPlane(binaries, bind=network.host) as plane:
        with RealKubelet(plane, network, "real", images=[image(tmp_path)]) as node:
            plane.apply(pod(network.host, plane.port, SERVICE, 443))
            (done,) = plane.watch_until(
                "/api/v1/namespaces/default/pods",
                lambda pods: all(pod["status"]["phase"] in ("Succeeded", "Failed") for pod in pods),
                timeout=60,
            )
            said = node.logs("default", "connect", "connect")
            assert done["status"]["phase"] == "Succeeded", said
            assert said.split("\n") == [f"reached {network.host}", f"reached {SERVICE}"]
            assert kernel() == before
            (container,) = done["status"]["containerStatuses"]
            cgroup = f"*/k8s.io/{container['containerID'].removeprefix('containerd://')}"
        assert not running(node.folder)
        assert not list(Path("/sys/fs/cgroup").glob(cgroup))
    assert not running(plane.folder)
    assert not plane.folder.exists()
    assert str(plane.folder) not in Path("/proc/self/mounts").read_text()
    assert not Path("/sys/class/net", network.bridge).exists()
