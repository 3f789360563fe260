"""A node with a real kubelet and real containers.

Everything of a node is in namespaces of its own: processes, mounts, network. When their first
process ends, which it does with the tests however these end, the kernel ends the others, and takes
the mounts and devices away with them. And so each node has its own ports, and its own /var/lib.

There is no DNS, and of Services only that of the API server: pods reach it as everywhere, and the
tests' own servers at the address of the machine's bridge.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.cluster.image import write_archive
from tests.support.cluster.plane import ControlPlane
from tests.support.cluster.podnetwork import PodNetwork, ip
from tests.support.cluster.processes import Program
from tests.support.cluster.waiting import eventually

NEEDS = (
    "containerd",
    "ctr",
    "runc",
    "ip",
    "iptables",
    "sysctl",
    "unshare",
    "nsenter",
    "gcc",
    "mkfs.ext4",
)
PLUGINS = Path("/usr/lib/cni")

_PAUSE_IMAGE = "localhost/modelcache-test-pause:1"
_PAUSE = "#include <unistd.h>\nint main(void) { for (;;) pause(); }\n"
_BRIDGE = "pods"
SERVICE = "10.213.0.1"
"""The API server's, the first address of the plane's range."""
_DISK = 4 * 1024**3

_INIT = r"""
set -e
mount -t proc proc /proc
# kubelet sets these for the whole machine, where they aren't yet as it wants them: so it sees them.
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000
do
    seen={folder}/$(basename "${{setting%=*}}")
    echo "${{setting#*=}}" > "$seen"
    mount --bind "$seen" "/proc/sys/${{setting%=*}}"
done
# What kubelet, containerd or CNI use whatever they are told.
mkdir -p /run/netns
for place in /var/lib /var/log /run/netns; do
    mount --bind {folder}/$(basename $place) $place
done
mount -t tmpfs none /mnt
mkdir /mnt/nvme
mount -o loop {folder}/disk /mnt/nvme
mount --make-rshared /
ip link set lo up
touch {folder}/ready
# Ignored also by what comes now: the kernel takes the ended away.
trap '' CHLD
exec sleep infinity
"""
_CONTAINERD = """
version = 2
root = "{folder}/containerd"
state = "{folder}/run"
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  # Some machines refuse scores below that of containerd itself.
  restrict_oom_score_adj = true
  sandbox_image = "{sandbox}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{snapshotter}"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{folder}/cni"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"
"""


_KUBELET = {
    "kind": "KubeletConfiguration",
    "apiVersion": "kubelet.config.k8s.io/v1beta1",
    "cgroupDriver": "cgroupfs",
    "cgroupsPerQOS": False,
    "enforceNodeAllocatable": [],
    "failSwapOn": False,
    "makeIPTablesUtilChains": False,
    "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
    "authorization": {"mode": "AlwaysAllow"},
    "volumePluginDir": "/var/lib/kubelet/plugins",
    # The tests' machine may be nearly full.
    "evictionHard": {"memory.available": "1Mi"},
    "imageGCHighThresholdPercent": 100,
    "imageMinimumGCAge": "24h",
    # As soon as it is so.
    "syncFrequency": "10s",
    "nodeStatusUpdateFrequency": "2s",
    "serializeImagePulls": False,
}


class RealKubelet:
    """One node: containerd and kubelet."""

    def __init__(
        self,
        plane: ControlPlane,
        network: PodNetwork,
        name: str,
        *,
        images: Sequence[Path] = (),
        labels: Mapping[str, str] | None = None,
        taints: Sequence[str] = (),
    ) -> None:
        """`labels` and `taints` (`key=value:effect`): those that the node is registered with.
        `images`: archives that are there before it.

        It has an empty disk at /mnt/nvme, an ext4.
        """
        self.name = name
        self.folder = plane.folder / f"node-{name}"
        self.folder.mkdir()
        self._plane = plane
        self._part = network.new_part()
        self._socket = self.folder / "containerd.sock"
        self._images = images
        self._labels = ",".join(f"{key}={value}" for key, value in (labels or {}).items())
        self._taints = ",".join(taints)
        # Who lives in the namespaces ends with their first process; that ends with unshare, and
        # unshare with the tests.
        command = ["unshare", "--fork", "--kill-child=SIGKILL", "--pid", "--mount", "--net"]
        self._init = Program("init", [*command, "sh", str(self.folder / "init.sh")], self.folder)
        self._pid = 0
        self._programs: list[Program] = []

    def __enter__(self) -> Self:
        try:
            self._write_files()
            self._start_namespaces()
            self._connect()
            self._start("containerd", "--config", self.folder / "containerd.toml")
            eventually(lambda: self.ctr("version"), what="containerd")
            self._import_pause()
            for image in self._images:
                self.import_image(image)
            self._start_kubelet()
            eventually(self._is_ready, timeout=60, what=f"the node {self.name}")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End everything of the node; its Node stays."""
        tasks = self.folder / "run/io.containerd.runtime.v2.task/k8s.io"
        containers = [path.name for path in tasks.glob("*")]
        if self._pid and self._init.running:
            # It is gone only when all others in its namespace are.
            os.kill(self._pid, signal.SIGKILL)
            eventually(lambda: not self._init.running, what="the end of the node's processes")
        for program in (*self._programs, self._init):
            program.kill()
        for parent in Path("/sys/fs/cgroup").glob("*/k8s.io"):
            for cgroup in [parent / one for one in containers if (parent / one).exists()]:
                _remove_cgroup(cgroup)
            with suppress(OSError):
                parent.rmdir()

    # What tests want of it

    def ctr(self, *arguments: str | Path) -> str:
        """What a command of containerd's own client prints."""
        return self.run("ctr", "--address", self._socket, "--namespace", "k8s.io", *arguments)

    def import_image(self, archive: Path) -> None:
        """Take an image from a file, for pods with `imagePullPolicy: Never`."""
        self.ctr("images", "import", archive)

    def name_by_digest(self, name: str) -> str:
        """An image that is here, named by its digest: as pods want it that name it so."""
        listed = self.ctr("images", "list", f"name=={name}").splitlines()[1]
        digest = re.search(r"sha256:[0-9a-f]{64}", listed)
        assert digest is not None, listed
        named = f"{name.rpartition(':')[0]}@{digest[0]}"
        self.ctr("images", "tag", name, named)
        return named

    def run(self, *command: str | Path) -> str:
        """What a command prints that is run on the node, as root."""
        words = [*self._enter(), *map(str, command)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.stderr}"
        return done.stdout

    def logs(self, namespace: str, pod: str, container: str) -> str:
        """What a container of a pod wrote, in all its runs."""
        lines = []
        for file in sorted(self.folder.glob(f"log/pods/{namespace}_{pod}_*/{container}/*.log")):
            # A time, the stream, and F for a whole line: all that before the text.
            lines += [line.split(" ", 3)[-1] for line in file.read_text().splitlines()]
        return "\n".join(lines)

    @property
    def disk(self) -> Path:
        """The node's /mnt/nvme, from outside."""
        return Path(f"/proc/{self._pid}/root/mnt/nvme")

    @property
    def mountinfo(self) -> Path:
        """The node's list of mounts, from outside."""
        return Path(f"/proc/{self._pid}/mountinfo")

    # How it is put together

    def _start_namespaces(self) -> None:
        self._init.start()
        eventually((self.folder / "ready").exists, what="the namespaces")
        children = Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children")
        self._pid = int(children.read_text().split()[0])

    def _enter(self) -> list[str]:
        return ["nsenter", "--target", str(self._pid), "--mount", "--net", "--pid"]

    def _start(self, command: str | Path, *arguments: str | Path) -> None:
        words = [*self._enter(), str(command), *map(str, arguments)]
        program = Program(Path(command).name, words, self.folder)
        self._programs.append(program)
        program.start()

    def _start_kubelet(self) -> None:
        self._start(
            self._plane.binaries["kubelet"],
            *("--config", self.folder / "kubelet.json", "--hostname-override", self.name),
            *("--kubeconfig", self._plane.kubeconfig, "--node-ip", self._part.address),
            *("--root-dir", "/var/lib/kubelet", "--cert-dir", "/var/lib/kubelet/pki"),
            *("--container-runtime", "remote"),
            *("--container-runtime-endpoint", f"unix://{self._socket}"),
            *(("--node-labels", self._labels) if self._labels else ()),
            *(("--register-with-taints", self._taints) if self._taints else ()),
        )

    def _is_ready(self) -> bool:
        for program in self._programs:
            assert program.running, program.tail()
        node = self._plane.find(f"/api/v1/nodes/{self.name}") or {}
        conditions = node.get("status", {}).get("conditions", ())
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    def _connect(self) -> None:
        """A cable from the machine's bridge to the node's own, which its pods hang on."""
        part = self._part
        ip("link", "add", part.uplink, "type", "veth", "peer", "uplink", "netns", str(self._pid))
        ip("link", "set", part.uplink, "master", part.bridge, "up")
        for words in (
            ["link", "add", _BRIDGE, "type", "bridge"],
            ["link", "set", "uplink", "master", _BRIDGE, "up"],
            ["address", "add", f"{part.address}/24", "dev", _BRIDGE],
            ["link", "set", _BRIDGE, "up"],
        ):
            self.run("ip", *words)
        # As kube-proxy would: the one Service that every pod uses.
        self.run("sysctl", "-q", "net.ipv4.ip_forward=1")
        service = ("-d", f"{SERVICE}/32", "-p", "tcp", "--dport", "443")
        api_server = self._plane.url.removeprefix("https://")
        nat = ("iptables", "-t", "nat", "-A")
        self.run(*nat, "PREROUTING", *service, "-j", "DNAT", "--to-destination", api_server)
        self.run(*nat, "POSTROUTING", "-m", "conntrack", "--ctstate", "DNAT", "-j", "MASQUERADE")

    def _write_files(self) -> None:
        folder = self.folder
        for name in ("cni", "lib", "log", "netns"):
            (folder / name).mkdir()
        with (folder / "disk").open("wb") as disk:
            disk.truncate(_DISK)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", folder / "disk"], check=True)
        (folder / "init.sh").write_text(_INIT.format(folder=shlex.quote(str(folder))))
        (folder / "containerd.toml").write_text(
            _CONTAINERD.format(
                folder=folder,
                socket=self._socket,
                sandbox=_PAUSE_IMAGE,
                plugins=PLUGINS,
                snapshotter="overlayfs" if _can_overlay(folder) else "native",
            )
        )
        (folder / "kubelet.json").write_text(json.dumps(_KUBELET))
        part = self._part
        own = {"subnet": part.subnet, "rangeStart": part.first, "rangeEnd": part.last}
        route = {"dst": "0.0.0.0/0", "gw": part.address}
        plugin = {
            "type": "bridge",
            "bridge": _BRIDGE,
            "ipam": {"type": "host-local", "ranges": [[own]], "routes": [route]},
        }
        # What a container's hostPort is done by.
        ports = {"type": "portmap", "capabilities": {"portMappings": True}}
        network = {"cniVersion": "0.4.0", "name": "pods", "plugins": [plugin, ports]}
        (folder / "cni" / "10-pods.conflist").write_text(json.dumps(network))

    def _import_pause(self) -> None:
        """The image of the container that a pod's namespaces live in."""
        work = self.folder / "pause"
        work.mkdir()
        (work / "pause.c").write_text(_PAUSE)
        subprocess.run(
            ["gcc", "-static", "-Os", "-s", "-o", work / "pause", work / "pause.c"], check=True
        )
        with tarfile.open(work / "layer.tar", "w") as layer:
            layer.add(work / "pause", "pause")
        write_archive(work / "image.tar", _PAUSE_IMAGE, work / "layer.tar", ["/pause"])
        self.import_image(work / "image.tar")


def _remove_cgroup(cgroup: Path) -> None:
    def gone() -> bool:
        cgroup.rmdir()
        return True

    eventually(gone, what=f"the end of {cgroup}")


def _can_overlay(folder: Path) -> bool:
    """Whether the file system of this folder can be the upper one of an overlay."""
    place = folder / "overlay"
    for name in ("lower", "upper", "work", "merged"):
        (place / name).mkdir(parents=True)
    options = ",".join(f"{name}dir={place / name}" for name in ("lower", "upper", "work"))
    command = ["mount", "-t", "overlay", "overlay", "-o", options, str(place / "merged")]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        return False
    subprocess.run(["umount", str(place / "merged")], check=True)
    return True
