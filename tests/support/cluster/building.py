"""`make cluster`: puts the programs of a control plane together, once for a machine.

Where only Debian's packages are to be had no built one can be downloaded; but Debian has etcd, a
Go compiler, and the source of Kubernetes with everything that it is built from. A current kubectl
comes from a later release of Debian. What the machine has installed, and its lists of packages, are
left alone.

The way of building is that of Kubernetes 1.20 in GOPATH mode, without the clients of clouds and of
Docker.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support.cluster.binaries import (
    PROGRAMS,
    VERSION,
    Binaries,
    built_folder,
    find_binaries,
    why_none,
)
from tests.support.cluster.debian import Debian
from tests.support.cluster.steps import CannotBuild, run, told

_GO = "1.19"
_STABLE, _NEWER = "bookworm", "trixie"
_TOOLS = {"apt-get": "apt", "dpkg-source": "dpkg-dev", "gcc": "gcc and libc6-dev"}
_COMPONENTS = (
    *("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubemark"),
    "kubelet",
)
_OPENAPI_FROM = (
    *("api", "apimachinery", "apiserver", "client-go", "component-base", "cloud-provider"),
    *("kube-proxy", "kubelet", "kube-scheduler", "kube-controller-manager"),
    *("apiextensions-apiserver", "kube-aggregator", "metrics"),
)
_REFLECT2 = "github.com/modern-go/reflect2"
"""Too old in Debian's source for this compiler: the API server fails at the first custom resource.
Debian's package of it is newer."""

_AMENDMENTS = {
    # `reflect.Zero` of this compiler's library shares memory, so that by this comparison an empty
    # string is null, and refused.
    "vendor/k8s.io/kube-openapi/pkg/validation/validate/type.go": {
        "if data == nil ||"
        " reflect.DeepEqual(reflect.Zero(reflect.TypeOf(data)), reflect.ValueOf(data)) {": (
            "if v := reflect.ValueOf(data); data == nil ||"
            " (v.Kind() == reflect.Map || v.Kind() == reflect.Ptr) && v.IsNil() {"
        ),
    },
    # Hollow nodes would share one socket, and leave folders behind.
    "pkg/kubelet/cri/remote/fake/endpoint.go": {
        'const (\n\tdefaultUnixEndpoint = "unix:///tmp/kubelet_remote.sock"\n)': (
            'import "os"\n\nvar defaultUnixEndpoint = "unix://" + os.TempDir() + "/runtime.sock"'
        ),
    },
    "test/utils/tmpdir.go": {
        '"io/ioutil"\n': '"io/ioutil"\n\t"os"\n',
        'baseDir = "/tmp"': "baseDir = os.TempDir()",
    },
    # They would be Ready after ten seconds, listen to everybody, and write to this machine's
    # iptables.
    "pkg/kubemark/hollow_kubelet.go": {
        "c.NodeStatusUpdateFrequency.Duration = 10 * time.Second": (
            "c.NodeStatusUpdateFrequency.Duration = 1 * time.Second"
        ),
        'c.Address = "0.0.0.0"': 'c.Address = "127.0.0.1"',
        "c.ProtectKernelDefaults = false": (
            "c.ProtectKernelDefaults = false\n\tc.MakeIPTablesUtilChains = false"
        ),
    },
}
"""What else differs from Debian's source: by file, what is replaced by what."""


def main() -> int:
    """Build what is not there yet."""
    target = built_folder()
    began = time.monotonic()
    try:
        if os.environ.get("KUBEBUILDER_ASSETS"):
            found = find_binaries()
            if found is None:
                raise CannotBuild(why_none())
            target = found.folder
        else:
            with _alone(target):
                if Binaries(target).missing(*PROGRAMS):
                    _build(target)
    except CannotBuild as error:
        print(f"no test cluster: {error}", file=sys.stderr)
        return 1
    print(f"the test cluster's programs are in {target} ({time.monotonic() - began:.0f} s)")
    return 0


@contextlib.contextmanager
def _alone(target: Path) -> Iterator[None]:
    """One build at a time."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / f"{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(target: Path) -> None:
    if missing := [package for tool, package in _TOOLS.items() if not shutil.which(tool)]:
        raise CannotBuild(f"it needs Debian's packages {', '.join(missing)}")
    work = target.with_name(f"{target.name}.building")
    _tidy(work)
    done = work / "bin"
    tree = work / "go/src/k8s.io/kubernetes"
    with told("packages: etcd, Go, the source of Kubernetes, a current kubectl"):
        debian = Debian(work / "apt", _STABLE, _NEWER)
        debian.update()
        reflect2 = "golang-github-modern-go-reflect2-dev"
        for package in ("etcd-server", f"golang-{_GO}-go", f"golang-{_GO}-src", reflect2):
            debian.unpack(package, _STABLE, work / "root")
        debian.unpack("kubectl", _NEWER, work / "newer")
        debian.source("kubernetes", _STABLE, tree)
        _put(work / "root/usr/bin/etcd", done / "etcd")
        _put(work / "newer/usr/bin/kubectl", done / "kubectl")
        _amend(tree, work / "root/usr/share/gocode/src" / _REFLECT2)
    with told("the OpenAPI that is missing from the source"):
        _generate_openapi(work, tree)
    version = "k8s.io/kubernetes/vendor/k8s.io/component-base/version"
    major, minor, _ = VERSION.split(".")
    flags = (
        f"-s -w -X {version}.gitVersion=v{VERSION} -X {version}.gitMajor={major}"
        f" -X {version}.gitMinor={minor}"
    )
    for component in _COMPONENTS:
        if not Binaries(done).missing(component):
            print(f"  {component}: built before")
            continue
        with told(component):
            _go(work, tree, ["-ldflags", flags, "-tags", "providerless,dockerless"], component)
    shutil.rmtree(target, ignore_errors=True)
    done.rename(target)
    shutil.rmtree(work)


def _tidy(work: Path) -> None:
    """Leave of an earlier build that was ended what goes on being of use: what it had compiled."""
    for name in ("bin", "go-cache", "tmp"):
        (work / name).mkdir(parents=True, exist_ok=True)
    for path in work.iterdir():
        if path.name not in ("bin", "go-cache"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (work / "tmp").mkdir()


def _put(path: Path, to: Path) -> None:
    """Copy a program; under its name it is whole."""
    shutil.copy2(path, to.with_suffix(".new"))
    to.with_suffix(".new").rename(to)


def _amend(tree: Path, reflect2: Path) -> None:
    older = tree / "vendor" / _REFLECT2
    for path in [*older.glob("*.go"), *older.glob("*.s")]:
        path.unlink()
    for path in [*reflect2.glob("*.go"), *reflect2.glob("*.s")]:
        if not path.name.endswith("_test.go"):
            shutil.copy2(path, older)
    for name, changes in _AMENDMENTS.items():
        text = (tree / name).read_text()
        for old, new in changes.items():
            if text.count(old) != 1:
                raise CannotBuild(f"Debian's {name} is not that of Kubernetes {VERSION}")
            text = text.replace(old, new)
        (tree / name).write_text(text)


def _generate_openapi(work: Path, tree: Path) -> None:
    """What `make generated_files` would do in the whole repository."""
    _go(work, tree, [], "openapi-gen", "./vendor/k8s.io/kube-openapi/cmd/openapi-gen")
    roots = ["vendor/k8s.io", "pkg", *(f"staging/src/k8s.io/{name}" for name in _OPENAPI_FROM)]
    marked = {
        path.parent.relative_to(tree)
        for root in roots
        for path in (tree / root).rglob("*.go")
        if "+k8s:openapi-gen=" in path.read_text(errors="replace")
    }
    packages = sorted({re.sub("^staging/src/", "vendor/", str(folder)) for folder in marked})
    generator = work / "bin/openapi-gen"
    run(
        [
            generator,
            *("-i", ",".join(f"k8s.io/kubernetes/{package}" for package in packages)),
            *("-p", "k8s.io/kubernetes/pkg/generated/openapi", "-O", "zz_generated.openapi"),
            *("-h", "hack/boilerplate/boilerplate.generatego.txt", "-r", work / "violations"),
        ],
        folder=tree,
        env=_go_environment(work),
    )
    generator.unlink()


def _go(
    work: Path, tree: Path, flags: Sequence[str], name: str, package: str | None = None
) -> None:
    new, done = work / "tmp" / name, work / "bin" / name
    go = work / f"root/usr/lib/go-{_GO}/bin/go"
    command: list[str | Path] = [go, "build", *flags, "-o", new, package or f"./cmd/{name}"]
    run(command, folder=tree, env=_go_environment(work))
    new.rename(done)


def _go_environment(work: Path) -> dict[str, str]:
    root = work / f"root/usr/lib/go-{_GO}"
    return {
        "GOROOT": str(root),
        "GOPATH": str(work / "go"),
        "GOCACHE": str(work / "go-cache"),
        "GOTMPDIR": str(work / "tmp"),
        "GO111MODULE": "off",
        "GOFLAGS": "",
        # kubelet needs it; with the same for all of them, what they share is compiled once.
        "CGO_ENABLED": "1",
        "PATH": f"{root}/bin:{os.environ.get('PATH', '/usr/bin:/bin')}",
    }


if __name__ == "__main__":
    sys.exit(main())
