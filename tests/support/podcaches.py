"""A pod with a compile cache, without a kubelet: directories, an engine, the two containers."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from modelcache.compilecache.bundles.local import LocalBundle
from modelcache.compilecache.bundles.signing import unsigned
from modelcache.compilecache.pods.seeding import Seeding
from modelcache.store.durable import Durable
from tests.support.agent import COMMAND, DaemonProcess
from tests.support.archives import packed
from tests.support.trees import plant

NAME = "llama"
SEED = {"graphs/one.py": b"one" * 1000, "graphs/two.so": b"two" * 1000}


class Engine:
    """An engine's /health, and what it does to its caches."""

    def __init__(self, cache_dir: Path) -> None:
        self.cache_dir = cache_dir
        self.status = 503
        self.asked = threading.Event()
        engine = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                engine.asked.set()
                self.send_response(engine.status)
                self.end_headers()

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def health(self) -> str:
        return f"http://:{self._server.server_address[1]}/health"

    def compiles(self, files: Mapping[str, bytes]) -> None:
        plant(self.cache_dir, files)

    def loads(self) -> None:
        for path in self.cache_dir.rglob("*"):
            if path.is_file():
                path.read_bytes()

    def serves(self) -> None:
        self.status = 200

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@dataclass
class Pod:
    """Its directories."""

    folder: Path
    engine: Engine = field(init=False)

    def __post_init__(self) -> None:
        self.cache_dir = self.folder / "cache"
        self.work = self.folder / "work"
        self.bundles = self.folder / "node" / "compile"
        for path in (self.cache_dir, self.work, self.bundles):
            path.mkdir(parents=True)
        self.engine = Engine(self.cache_dir)

    def holds(self, files: Mapping[str, bytes], name: str = NAME, says: str = NAME) -> LocalBundle:
        """Let the node hold a bundle, and show it."""
        making = self.folder / f"making-{len(list(self.folder.iterdir()))}"
        (making / "scratch").mkdir(parents=True)
        said = packed(making / "root", files, making / "archive").model_copy(update={"name": says})
        key = "a" * 64
        place = self.bundles / name / key / said.digest.removeprefix("sha256:")
        place.parent.mkdir(parents=True, exist_ok=True)
        durable = Durable(making / "scratch")
        bundle = LocalBundle.write(place, unsigned(said), making / "archive", durable)
        beside = self.bundles / name / ".current"
        beside.symlink_to(f"{key}/{place.name}")
        os.replace(beside, self.bundles / name / "current")
        return bundle

    @property
    def seeding(self) -> Seeding:
        return Seeding(NAME, self.bundles, self.cache_dir, self.work)

    def seed(self, *flags: str | Path, env: Mapping[str, str] | None = None) -> str:
        """Run the init container as a process; what it said. It ends with 0."""
        ended = subprocess.run(
            [
                *(COMMAND, "compile", "seed", "--name", NAME, "--bundles", self.bundles),
                *("--cache-dir", self.cache_dir, "--work", self.work, *flags),
            ],
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert (ended.returncode, ended.stderr) == (0, "")
        return ended.stdout


@contextmanager
def pod(folder: Path) -> Iterator[Pod]:
    """A pod whose engine goes away at the end."""
    found = Pod(folder)
    try:
        yield found
    finally:
        found.engine.close()


class SidecarProcess(DaemonProcess):
    """`modelcache compile capture`."""

    def __init__(self, given: Pod, port: int, token_file: Path, *flags: str | Path) -> None:
        super().__init__(
            "compile",
            *("capture", "--name", NAME, "--engine", "other", "--cache-dir", given.cache_dir),
            *("--work", given.work, "--health", given.engine.health, "--pod", "team/engine"),
            *("--host-ip", "127.0.0.1", "--port", str(port), "--token-file", token_file),
            *("--quiet", "1s", "--look-seconds", "0.05", "--log-format", "json", *flags),
            listens=False,
        )
