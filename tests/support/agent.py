"""A real `modelcache agent` in a process of its own, and how tests follow what it does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

COMMAND = str(Path(sys.executable).parent / "modelcache")


def modelcache(
    *arguments: str | Path, env: Mapping[str, str] | None = None, timeout: float = 120.0
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    return subprocess.run(
        [COMMAND, *map(str, arguments)],
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


class DaemonProcess:
    """A daemon of ours, from its start to its end. Its JSON log lines are `events`."""

    started = "agent.started"
    """The event that tells where its endpoints are."""

    def __init__(
        self,
        command: str,
        *flags: str | Path,
        env: Mapping[str, str] | None = None,
        listens: bool = True,
    ) -> None:
        usual = ["--listen", "127.0.0.1:0", "--log-format", "json"] if listens else []
        self.events: list[dict[str, Any]] = []
        self.output: list[str] = []
        self._news = threading.Condition()
        self._ended = False
        self.process = subprocess.Popen(
            [COMMAND, command, *usual, *flags],
            env={**os.environ, **(env or {})},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._news:
                self.output.append(line)
                with suppress(ValueError):
                    self.events.append(json.loads(line))
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        self._reader.join(10)
        assert self.process.stderr is not None
        self.process.stderr.close()

    def wait_for(
        self, what: Callable[[dict[str, Any]], bool], timeout: float = 60.0, *, count: int = 1
    ) -> dict[str, Any]:
        """Wait until `count` log events fit, and return the last of them.

        Fails when the agent ends before, or too much time passes.
        """
        with self._news:
            if not self._news.wait_for(
                lambda: self._ended or sum(map(what, self.events)) >= count, timeout
            ):
                raise AssertionError("no such event in time; the agent said:\n" + self.log)
            found = [event for event in self.events if what(event)]
            if len(found) < count:
                raise AssertionError("the agent ended before; it said:\n" + self.log)
            return found[count - 1]

    def wait_for_event(self, name: str, timeout: float = 60.0, **keys: Any) -> dict[str, Any]:
        """Wait for a log event by its name and some of its keys."""
        return self.wait_for(
            lambda e: e.get("event") == name and all(e.get(k) == v for k, v in keys.items()),
            timeout,
        )

    @property
    def log(self) -> str:
        """All that it said."""
        return "".join(self.output)

    @property
    def url(self) -> str:
        """Where its endpoints are."""
        return f"http://{self.wait_for_event(self.started)['listen']}"

    def get(self, path: str) -> str:
        """The body of one of its endpoints."""
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return str(answer.read().decode())

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.process.kill()
        self.process.wait(10)

    def terminate(self, timeout: float = 5.0) -> int:
        """SIGTERM; its exit status. Fails when it takes longer than it may."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def peak_memory(self) -> int:
        """VmHWM in bytes, as of now."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("the process is gone")


class AgentProcess(DaemonProcess):
    """`modelcache agent`."""

    def __init__(
        self, root: Path, catalog: Path | None, *flags: str, env: Mapping[str, str] | None = None
    ) -> None:
        """`catalog` None: it is the API server's."""
        self.root = root
        given = ("--catalog", catalog) if catalog else ()
        super().__init__("agent", "--root", root, *given, *flags, env=env)

    def wait_ready(self, *models: str, timeout: float = 60.0) -> None:
        """Wait until models are ready: fetched, or found again after a restart."""
        for model in models:
            self.wait_for_event("model.ready", timeout, model=model)

    def wait_failed(self, model: str, timeout: float = 60.0) -> dict[str, Any]:
        """Wait until a model has failed; its report."""
        self.wait_for_event("model.failed", timeout, model=model)
        return self.model(model)

    def node(self) -> dict[str, Any]:
        """What `/v1/node` says."""
        found: dict[str, Any] = json.loads(self.get("/v1/node"))
        return found

    def model(self, name: str) -> dict[str, Any]:
        """One model of `/v1/node`; empty when it isn't there."""
        models = self.node()["status"].get("models", [])
        return next((model for model in models if model["name"] == name), {})


def write_catalog(path: Path, *models: Mapping[str, Any]) -> Path:
    """Write a catalog of CachedModels: `{"name": …, "uri": …}` and other fields beside."""
    documents = []
    for given in models:
        model = dict(given)
        source_fields = ("uri", "include", "exclude", "allowUnsafeFormats", "secretName")
        name = model.pop("name")
        source = {field: model.pop(field) for field in source_fields if field in model}
        documents.append(
            {
                "apiVersion": "modelcache.dev/v1alpha1",
                "kind": "CachedModel",
                "metadata": {"name": name},
                "spec": {"source": source, **model},
            }
        )
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text("\n---\n".join(json.dumps(document) for document in documents))
    temporary.rename(path)
    return path


def told_failure(printed: str) -> tuple[str, str]:
    """Reason and message of the one document of a prefetch that failed.

    It is an Error where nothing could begin, else the result, with its one model.
    """
    document: dict[str, Any] = json.loads(printed)
    assert document["apiVersion"] == "modelcache.dev/v1alpha1"
    if document["kind"] == "PrefetchResult":
        (document,) = document["models"]
        assert document["state"] == "Failed"
    else:
        assert document["kind"] == "Error"
    return document["reason"], document["message"]
