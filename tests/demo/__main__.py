"""One node fills its cache, and shows what it holds.

Everything is real but the size of the models: a Hugging Face Hub and an S3 (both on loopback), an
agent in a process of its own, its root in a temporary directory. Ends by itself with status 0.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rich.console import Console
from safetensors.numpy import save

from tests.support.agent import COMMAND
from tests.support.hub import GeneratedContent, HubServer, Source
from tests.support.s3 import ACCESS_KEY, REGION, SECRET_KEY, S3Server

MIB = 1024 * 1024
RATE = 60 * MIB
"""Bytes a second that the demo's Hub gives out: slow enough to watch."""

CATALOG = """\
# What this node is to hold.
apiVersion: modelcache.dev/v1alpha1
kind: CachedModel
metadata:
  name: llama-demo
spec:
  source:
    uri: hf://demo/llama-demo@main
    exclude: ["original/*"]
  priority: 100
---
apiVersion: modelcache.dev/v1alpha1
kind: CachedModel
metadata:
  name: whisper-demo
spec:
  source:
    uri: s3://models/whisper-demo
  priority: 50
---
apiVersion: modelcache.dev/v1alpha1
kind: CachedModel
metadata:
  name: embedder-demo
spec:
  source:
    uri: file://{shared}/embedder-demo
---
# One that goes wrong: it holds up none of the others, and its reason is visible.
apiVersion: modelcache.dev/v1alpha1
kind: CachedModel
metadata:
  name: gone-demo
spec:
  source:
    uri: hf://demo/gone
"""

console = Console(stderr=True, highlight=False)


def heading(text: str) -> None:
    console.print(f"\n[bold]── {text}[/bold]")


def run(root: Path, *arguments: str) -> None:
    """Run a command as a person would, and show it."""
    heading(f"modelcache {' '.join(arguments)}")
    subprocess.run([COMMAND, *arguments, "--root", root], check=True)


def tensors(seed: int, mebibytes: int) -> bytes:
    """A real safetensors file."""
    numbers = np.random.default_rng(seed).standard_normal((mebibytes, 256, 1024), dtype="float32")
    return save({f"layers.{n}.weight": numbers[n] for n in range(mebibytes)})


@contextmanager
def origins(folder: Path) -> Iterator[dict[str, str]]:
    """A Hub, an S3 and a shared folder with a model each. Gives the agent's environment."""
    shards: dict[str, Source] = {
        f"model-{n + 1:05}-of-00004.safetensors": GeneratedContent(160 * MIB, seed=n)
        for n in range(4)
    }
    small: dict[str, Source] = {
        "config.json": b'{"model_type": "llama"}',
        "tokenizer.json": b"{}" * 2000,
    }
    left_out: dict[str, Source] = {
        "pytorch_model.bin": b"a pickle, left out beside safetensors",
        "original/consolidated.00.pth": b"excluded",
    }
    shared = folder / "shared" / "embedder-demo"
    shared.mkdir(parents=True)
    (shared / "model.safetensors").write_bytes(tensors(1, 24))
    (shared / "config.json").write_text("{}")
    with HubServer() as hub, S3Server() as s3:
        hub.add_repo("demo/llama-demo", {**shards, **small, **left_out})
        hub.set_rate(RATE)
        client = s3.client()
        client.create_bucket(Bucket="models")
        client.put_object(
            Bucket="models", Key="whisper-demo/model.safetensors", Body=tensors(2, 24)
        )
        client.put_object(Bucket="models", Key="whisper-demo/config.json", Body=b"{}")
        yield {
            "HF_ENDPOINT": hub.url,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "AWS_ENDPOINT_URL_S3": s3.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": REGION,
        }


def main() -> int:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="modelcache-demo-") as temporary:
        folder = Path(temporary)
        root = folder / "root"
        catalog = folder / "catalog.yaml"
        catalog.write_text(CATALOG.replace("{shared}", str(folder / "shared")))
        with origins(folder) as environment:
            os.environ.update(environment)
            heading(f"modelcache validate {catalog.name}")
            subprocess.run([COMMAND, "validate", catalog], check=True)
            status = fill(folder, root, catalog)
        if status:
            return status
        # The origins are gone now; what follows is the node's own.
        run(root, "ls")
        run(root, "show", "embedder-demo")
        run(root, "labels")
        run(root, "verify")
        read_offline(root)
    console.print(f"\n[bold]Done in {time.monotonic() - began:.0f} s.[/bold]")
    return 0


def fill(folder: Path, root: Path, catalog: Path) -> int:
    """Run an agent until everything was tried, show its metrics, and end it."""
    heading(f"modelcache agent --catalog {catalog.name}")
    port = free_port()
    command: list[str | Path] = [
        *(COMMAND, "agent", "--root", root, "--catalog", catalog),
        *("--file-roots", folder / "shared", "--listen", f"127.0.0.1:{port}"),
        *("--log-format", "console"),
    ]
    with subprocess.Popen(command) as agent:
        try:
            wait_until_tried(agent, root / "node.json", timeout=150)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                metrics = answer.read().decode()
        finally:
            agent.send_signal(signal.SIGTERM)
            status = agent.wait(10)
    heading("curl /metrics, as the agent said before it was told to stop")
    show_metrics(metrics)
    return status


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_until_tried(agent: subprocess.Popen[bytes], report: Path, timeout: float) -> None:
    """Follow `node.json`, as anybody may, until each model is ready or has failed."""
    deadline = time.monotonic() + timeout
    states: dict[str, str] = {}
    while not states or not set(states.values()) <= {"Ready", "Failed"}:
        assert agent.poll() is None, "the agent ended too early"
        assert time.monotonic() < deadline, f"not done in {timeout} s: {states}"
        time.sleep(0.2)
        if report.exists():
            models = json.loads(report.read_text())["status"]["models"]
            states = {model["name"]: model["state"] for model in models}
    assert sorted(states.values()) == ["Failed", "Ready", "Ready", "Ready"], states


def show_metrics(exposition: str) -> None:
    """The lines that speak of the node's models, its disk, and what was fetched."""
    shown = ("modelcache_model_state", "modelcache_disk", "modelcache_received", "modelcache_fetch")
    for line in exposition.splitlines():
        uninteresting = line.endswith(" 0.0") or "_bucket" in line or "_created" in line
        if line.startswith(shown) and not uninteresting:
            print(line)


def read_offline(root: Path) -> None:
    """Let huggingface_hub find the model in the cache, without a Hub."""
    heading("HF_HUB_OFFLINE=1 HF_HUB_CACHE=…/hub/llama-demo python -c 'snapshot_download(…)'")
    script = (
        "from huggingface_hub import snapshot_download; from pathlib import Path;"
        "folder = Path(snapshot_download('demo/llama-demo'));"
        "found = (f'{p.name} ({p.stat().st_size:,} bytes)' for p in folder.iterdir());"
        "print(*sorted(found), sep='\\n')"
    )
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_CACHE": str(root / "hub/llama-demo"),
    }
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)


if __name__ == "__main__":
    sys.exit(main())
