"""A real consumer of the views: huggingface_hub and safetensors, offline, in its own process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

# huggingface_hub reads its environment when it is imported, so each question has a process of its
# own. What needs imports is imported before the process turns into somebody who can't read them.
_READER = """
import json, os, sys
from hashlib import sha256
from pathlib import Path
from huggingface_hub import hf_hub_download, scan_cache_dir, snapshot_download
from safetensors.numpy import load_file

def digest(path):
    return sha256(path.read_bytes()).hexdigest()

def files(given):
    folder = Path(given)
    found = sorted(path for path in folder.rglob("*") if not path.is_dir())
    return {path.relative_to(folder).as_posix(): digest(path) for path in found}

def scan(path):
    found = scan_cache_dir(path)
    return {
        "warnings": [str(warning) for warning in found.warnings],
        "repos": {
            repo.repo_id: {
                revision.commit_hash: sorted(revision.refs) for revision in repo.revisions
            }
            for repo in found.repos
        },
    }

def tensors(path):
    return {name: array.tolist() for name, array in load_file(path).items()}

def write(path):
    Path(path, "probe").touch()

ANSWERS = {
    "snapshot": lambda **asked: files(snapshot_download(**asked)),
    "file": lambda **asked: digest(Path(hf_hub_download(**asked))),
    "files": files,
    "scan": scan,
    "tensors": tensors,
    "write": write,
}
questions, uid = json.loads(sys.argv[1]), int(sys.argv[2])
if uid != os.getuid():
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
answers = []
for name, arguments in questions:
    try:
        answers.append(ANSWERS[name](**arguments))
    except Exception as error:
        answers.append({"error": type(error).__name__})
print(json.dumps(answers))
"""

Question = tuple[str, dict[str, Any]]


def digests(files: dict[str, bytes]) -> dict[str, str]:
    """What a reader answers for these files."""
    return {name: sha256(content).hexdigest() for name, content in files.items()}


def read(
    cache: Path,
    *questions: Question,
    hub_url: str = "",
    uid: int | None = None,
    online: bool = False,
) -> list[Any]:
    """Have a process read an HF cache, offline unless it is to be `online`, as user `uid`; its
    answers.

    An error is answered with `{"error": <its type>}`. Were it to ask a hub, it would be `hub_url`.
    """
    with tempfile.TemporaryDirectory() as home:
        Path(home).chmod(0o777)
        finished = subprocess.run(
            [
                sys.executable,
                "-c",
                _READER,
                json.dumps(questions),
                str(os.getuid() if uid is None else uid),
            ],
            env={
                **os.environ,
                "HF_HUB_OFFLINE": "0" if online else "1",
                "HF_HUB_CACHE": str(cache),
                "HF_HOME": home,
                "HF_ENDPOINT": hub_url or "http://127.0.0.1:1",
            },
            cwd="/",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert finished.returncode == 0, finished.stderr
    answers: list[Any] = json.loads(finished.stdout)
    return answers
