"""The project's image, built from its Dockerfile by Debian's buildah on a base made by debootstrap.

No registry is asked. pip gets the locked wheels from a folder that the tests' own pip filled,
through the secret that the Dockerfile foresees for an index of one's own. A built image is kept as
long as nothing that goes into it changes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import platform
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.cluster.binaries import built_folder
from tests.support.cluster.debian import mirror
from tests.support.cluster.steps import CannotBuild

IMAGE = "docker.io/modelcache/agent:dev"
"""What the manifests name `modelcache/agent:dev`, as containerd has it."""

NEEDS = ("buildah", "debootstrap")

_REPOSITORY = Path(__file__).parents[3]
_RELEASE, _PYTHON = "bookworm", "3.11"
_PACKAGES = ("python3", "python3-venv", "ca-certificates")
_TEXTS = ("doc", "locale", "man")
_LOCKS = ("requirements.txt", "requirements-build.txt")
_BASE = "localhost/modelcache-test-base"
_RECIPE = "2"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def built_image() -> Path:
    """The image as an archive that `ctr images import` takes: built now, or kept from earlier.

    Raises:
        CannotBuild
    """
    folder = built_folder().parent / "image"
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        archive = folder / f"agent-{_digest(_sources())}.tar"
        if archive.exists():
            return archive
        base, wheels = _base(folder), _wheels(folder)
        for older in folder.glob("agent-*.tar"):
            older.unlink()
        _build(folder, base, wheels, archive)
        return archive


def write_archive(archive: Path, name: str, layer: Path, command: Sequence[str] = ()) -> None:
    """An image of one layer, a tar file, in the format of `docker save`."""
    diff = hashlib.sha256(layer.read_bytes()).hexdigest()
    config = json.dumps(
        {
            "architecture": _ARCHITECTURES[platform.machine()],
            "os": "linux",
            "config": {"Entrypoint": list(command)},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{diff}"]},
        }
    )
    digest = hashlib.sha256(config.encode()).hexdigest()
    manifest = [{"Config": f"{digest}.json", "RepoTags": [name], "Layers": [f"{diff}.tar"]}]
    work = archive.parent
    (work / "config.json").write_text(config)
    (work / "manifest.json").write_text(json.dumps(manifest))
    with tarfile.open(archive, "w") as file:
        file.add(work / "config.json", f"{digest}.json")
        file.add(layer, f"{diff}.tar")
        file.add(work / "manifest.json", "manifest.json")


def _sources() -> Iterator[Path]:
    """What goes into the image, as .dockerignore has it."""
    for name in ("Dockerfile", ".dockerignore", "pyproject.toml", "README.md", *_LOCKS):
        yield _REPOSITORY / name
    for path in sorted((_REPOSITORY / "agent" / "modelcache").rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path


def _digest(paths: Iterator[Path]) -> str:
    found = hashlib.sha256(_RECIPE.encode())
    for path in paths:
        content = path.read_bytes()
        found.update(f"{path.relative_to(_REPOSITORY)} {len(content)}\n".encode())
        found.update(content)
    return found.hexdigest()[:16]


def _base(folder: Path) -> Path:
    """Debian's Python and nothing else, as a directory."""
    base = folder / f"base-{_RELEASE}-{_RECIPE}"
    if not base.exists():
        for older in folder.glob("base-*"):
            shutil.rmtree(older)
        work = folder / "base.new"
        shutil.rmtree(work, ignore_errors=True)
        url, _ = mirror()
        include = f"--include={','.join(_PACKAGES)}"
        _run("debootstrap", "--variant=minbase", include, _RELEASE, str(work), url)
        for unused in ("var/cache/apt", "var/lib/apt/lists", *(f"usr/share/{n}" for n in _TEXTS)):
            shutil.rmtree(work / unused)
        work.rename(base)
    return base


def _wheels(folder: Path) -> Path:
    """The locked wheels for the base's Python."""
    wheels = folder / f"wheels-{_digest(_REPOSITORY / lock for lock in _LOCKS)}"
    if not wheels.exists():
        for older in folder.glob("wheels-*"):
            shutil.rmtree(older)
        work = folder / "wheels.new"
        shutil.rmtree(work, ignore_errors=True)
        download = ("download", "--quiet", "--require-hashes", "--no-deps", "--python-version")
        for lock in _LOCKS:
            _run(
                *(sys.executable, "-m", "pip", *download, _PYTHON, "--only-binary=:all:"),
                *("-d", str(work), "-r", str(_REPOSITORY / lock)),
            )
        work.rename(wheels)
    return wheels


def _build(folder: Path, base: Path, wheels: Path, archive: Path) -> None:
    storage = folder / "buildah"
    shutil.rmtree(storage, ignore_errors=True)
    buildah = [
        *("buildah", "--storage-driver", "vfs"),
        *("--root", str(storage / "root"), "--runroot", str(storage / "run")),
    ]
    try:
        container = _run(*buildah, "from", "scratch").strip()
        _run(*buildah, "add", "--quiet", container, str(base), "/")
        _run(*buildah, "commit", "--quiet", "--rm", container, _BASE)
        (storage / "pip.conf").write_text("[global]\nno-index = true\nfind-links = /wheels\n")
        _run(
            *(*buildah, "build", "--isolation", "chroot", "--tag", IMAGE),
            *("--build-arg", f"BASE_IMAGE={_BASE}", "--volume", f"{wheels}:/wheels:ro"),
            *("--secret", f"id=pip.conf,src={storage / 'pip.conf'}"),
            # The Dockerfile mounts it; nobody reads it here.
            *("--secret", f"id=ca.pem,src={storage / 'pip.conf'}"),
            str(_REPOSITORY),
        )
        work = archive.with_suffix(".new")
        work.unlink(missing_ok=True)
        _run(*buildah, "push", "--quiet", IMAGE, f"docker-archive:{work}:{IMAGE}")
        work.rename(archive)
    finally:
        shutil.rmtree(storage, ignore_errors=True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One build at a time."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(*command: str) -> str:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise CannotBuild(f"{command[0]} can't be run: {error.strerror}") from error
    if done.returncode:
        last = "\n".join((done.stderr or done.stdout).strip().splitlines()[-15:])
        raise CannotBuild(f"{' '.join(command[:8])} … failed: {last}")
    return done.stdout
