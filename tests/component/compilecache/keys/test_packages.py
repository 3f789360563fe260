"""An engine's identity outside of a container, of real Pythons."""

from __future__ import annotations

import os
import shutil
import sys
import venv
from hashlib import sha256
from pathlib import Path

import pytest

from modelcache.compilecache.keys.packages import identity_of_command, installed_identity
from modelcache.errors import UsageError


def make_python(folder: Path) -> Path:
    venv.create(folder, with_pip=False, symlinks=True)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_python(tmp_path_factory.mktemp("one") / "venv")


def install(python: Path, name: str, version: str) -> Path:
    (packages,) = (python.parent.parent / "lib").glob("python*/site-packages")
    return note(packages, name, version)


def note(packages: Path, name: str, version: str) -> Path:
    info = packages / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return info


def test_versions_count_and_what_else_there_is_does_not(python: Path, tmp_path: Path) -> None:
    before = installed_identity(python)
    assert before == installed_identity(python)
    assert before.startswith("sha256:")
    torch = install(python, "torch", "2.13.0")
    first = installed_identity(python)
    shutil.rmtree(torch)
    torch = install(python, "torch", "2.13.1")
    second = installed_identity(python)
    assert len({before, first, second}) == 3
    (torch.parent / "mine.py").touch()
    assert installed_identity(python) == second
    shutil.rmtree(torch)
    assert installed_identity(python) == before


def test_where_packages_lie_counts(python: Path, tmp_path: Path) -> None:
    assert installed_identity(make_python(tmp_path / "other")) != installed_identity(python)


def test_neither_the_working_directory_nor_the_environment_has_a_say(
    python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = installed_identity(python)
    (tmp_path / "platform.py").write_text("raise SystemExit(1)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert installed_identity(python) == before


def test_packages_of_the_users_own_and_of_its_path_count(tmp_path: Path) -> None:
    """As the engine itself has them: pip install --user, PYTHONPATH."""
    python = Path(sys.base_prefix) / "bin" / "python3"
    env = {"HOME": str(tmp_path)}
    before = installed_identity(python, env)
    info = note(tmp_path / ".local" / "lib" / python.resolve().name / "site-packages", "torch", "2")
    users = installed_identity(python, env)
    shutil.rmtree(info)
    note(tmp_path / "more", "torch", "3")
    others = installed_identity(python, {**env, "PYTHONPATH": f"/none:{tmp_path / 'more'}"})
    assert len({before, users, others}) == 3
    assert installed_identity(python, env) == before
    assert identity_of_command([str(python), "x.py"], env) == before


def test_a_python_that_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "python3"
    broken.write_text("#!/bin/sh\necho 1 2\n")
    broken.chmod(0o755)
    with pytest.raises(UsageError, match="doesn't say which packages"):
        installed_identity(broken)
    with pytest.raises(UsageError, match="No such file"):
        installed_identity(tmp_path / "none")
    broken.write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr("modelcache.compilecache.keys.packages._SECONDS", 0.05)
    with pytest.raises(UsageError, match="TimeoutExpired"):
        installed_identity(broken)


LONG = "#!/bin/sh\n'''exec' \"{python}\" \"$0\" \"$@\"\n' '''\nimport vllm\n"


@pytest.mark.parametrize(
    "head",
    [
        "#!{python}\nimport vllm\n",
        "#! {python} -sP\nimport vllm\n",
        "#!/usr/bin/env python\nimport vllm\n",
        "#!/usr/bin/env -S python -u\nimport vllm\n",
        LONG,
    ],
)
def test_a_script_of_a_python(python: Path, tmp_path: Path, head: str) -> None:
    script = tmp_path / "vllm"
    script.write_text(head.format(python=python))
    script.chmod(0o755)
    path = {"PATH": f"{tmp_path}:{python.parent}:{os.environ['PATH']}"}
    expected = installed_identity(python)
    assert identity_of_command(["vllm", "serve", "x"], path) == expected
    assert identity_of_command([str(script), "serve", "x"], path) == expected
    assert identity_of_command(["env", "A=b", "python", "x.py"], path) == expected


def test_a_program_that_is_no_pythons(tmp_path: Path) -> None:
    program = shutil.which("true")
    assert program is not None
    digest = sha256(Path(program).read_bytes()).hexdigest()
    assert identity_of_command(["nohup", program], {}) == f"sha256:{digest}"


def test_what_begins_the_engine_in_its_turn_is_none(tmp_path: Path) -> None:
    script = tmp_path / "start"
    script.write_text("#!/bin/bash\nexec python x.py\n")
    script.chmod(0o755)
    with pytest.raises(UsageError, match="begin the engine itself"):
        identity_of_command([str(script)], {"PATH": "/bin:/usr/bin"})
    with pytest.raises(UsageError, match="begin the engine itself"):
        identity_of_command(["sh", "-c", f"cd /x && {sys.executable} x.py"], {})
    with pytest.raises(UsageError, match="begins can't be told"):
        identity_of_command(["nice", "uv", "run", "python", "x.py"], {"PATH": "/bin:/usr/bin"})
    script.write_text("#!/usr/bin/env python\n")
    with pytest.raises(UsageError, match="there is no program python"):
        identity_of_command([str(script)], {"PATH": str(tmp_path)})
    with pytest.raises(UsageError, match="there is no program nowhere"):
        identity_of_command(["nowhere"], {"PATH": str(tmp_path)})
