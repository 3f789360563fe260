"""What an API server was asked, by its audit log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

POLICY = """
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
"""
"""Who asked for what, and the answer's status; no bodies."""


class AuditLog:
    """The log as it grows.

    A request is in it when it has been answered, which may be a moment after its client knows: one
    that is expected is waited for with `eventually`. A watch is in it when it has ended.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_to = 0
        self._entries: list[dict[str, Any]] = []

    def requests(self, **wanted: str) -> list[dict[str, Any]]:
        """The entries that fit: by `user`, `verb`, `resource`, `name`, `subresource`."""
        return [
            entry
            for entry in self._all()
            if all(_known(entry)[key] == value for key, value in wanted.items())
        ]

    def _all(self) -> list[dict[str, Any]]:
        with self._path.open("rb") as file:
            file.seek(self._read_to)
            # The last line may still be written.
            whole, newline, _ = file.read().rpartition(b"\n")
        self._read_to += len(whole) + len(newline)
        entries = map(json.loads, whole.splitlines())
        self._entries += [entry for entry in entries if entry.get("stage") == "ResponseComplete"]
        return self._entries


def _known(entry: dict[str, Any]) -> dict[str, str | None]:
    about = entry.get("objectRef", {})
    return {
        "user": entry["user"].get("username"),
        "verb": entry["verb"],
        "resource": about.get("resource"),
        "name": about.get("name"),
        "subresource": about.get("subresource", ""),
    }
