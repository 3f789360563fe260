"""What starts have told of a bundle: whether it helped, and whether it is to be seeded again.

A small durable file for each bundle, apart from it: a bundle is never changed, and that one was
withdrawn has to be known after it is gone, or it would be fetched again.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Literal

import structlog
from pydantic import Field, ValidationError

from modelcache.api.compilecache import KEY_PATTERN, BundleState
from modelcache.api.meta import API_VERSION, NAME_PATTERN, ApiModel
from modelcache.errors import UnsafePath
from modelcache.store.durable import Durable, disk_errors
from modelcache.store.layout import Layout
from modelcache.store.locking import Turns

WITHDRAWN_AFTER: Final = 3
"""Starts in a row that could not load it. One may be the node's fault, three are the bundle's."""
_MAX_BYTES: Final = 16 * 1024
_MAX_MESSAGE: Final = 1024

log = structlog.get_logger(__name__)


class Mark(ApiModel):
    """What is known of one bundle."""

    api_version: Literal["modelcache.dev/v1alpha1"] = API_VERSION
    kind: Literal["CompileBundleMark"] = "CompileBundleMark"
    loads: Annotated[int, Field(ge=0)] = 0
    """Starts that loaded it."""
    verified_at: datetime | None = None
    """When one did for the first time."""
    failures: Annotated[int, Field(ge=0)] = 0
    """Starts in a row that could not load it."""
    withdrawn_at: datetime | None = None
    """When it was withdrawn: it is seeded no more, whatever comes after."""
    message: Annotated[str, Field(max_length=_MAX_MESSAGE)] = ""
    """Why it could not be loaded, or was withdrawn."""

    @property
    def verified(self) -> bool:
        """Whether a start loaded it."""
        return self.verified_at is not None

    @property
    def withdrawn(self) -> bool:
        """Whether it is seeded no more."""
        return self.withdrawn_at is not None

    @property
    def state(self) -> BundleState:
        """The same as an object's status has it."""
        if self.withdrawn:
            return BundleState.WITHDRAWN
        return BundleState.VERIFIED if self.verified else BundleState.PUBLISHED


class Marks:
    """The marks below one root. Safe for threads, and beside other processes."""

    def __init__(self, layout: Layout, durable: Durable) -> None:
        self._layout = layout
        self._durable = durable
        self._turns = Turns(layout.compile_lock)

    def of(self, name: str, digest: str) -> Mark:
        """What is known of a bundle; `digest` with or without `sha256:`.

        Raises:
            UnsafePath: no compile cache, or no bundle, can have that name.
        """
        path = self._path(name, digest)
        try:
            with path.open("rb") as file:
                content = file.read(_MAX_BYTES + 1)
            if len(content) <= _MAX_BYTES:
                return Mark.model_validate_json(content)
        except FileNotFoundError:
            return Mark()
        except (ValidationError, OSError) as error:
            log.warning("mark.unreadable", path=str(path), message=str(error).splitlines()[0])
            return Mark()
        log.warning("mark.unreadable", path=str(path), message="too large")
        return Mark()

    def loaded(self, name: str, digest: str) -> Mark:
        """A start loaded it.

        Raises:
            InsufficientDisk: the disk is full; nothing is noted.
            UnsafePath
        """
        with self._turns.take():
            old = self.of(name, digest)
            return self._write(
                name,
                digest,
                old.model_copy(
                    update={
                        "loads": old.loads + 1,
                        "verified_at": old.verified_at or _now(),
                        "failures": 0,
                        "message": old.message if old.withdrawn else "",
                    }
                ),
            )

    def failed(self, name: str, digest: str, message: str) -> Mark:
        """A start could not load it. After `WITHDRAWN_AFTER` in a row it is withdrawn.

        Raises:
            InsufficientDisk: the disk is full; nothing is noted.
            UnsafePath
        """
        with self._turns.take():
            old = self.of(name, digest)
            failures = old.failures + 1
            gone = _now() if failures >= WITHDRAWN_AFTER else None
            return self._write(
                name,
                digest,
                old.model_copy(
                    update={
                        "failures": failures,
                        "withdrawn_at": old.withdrawn_at or gone,
                        "message": old.message if old.withdrawn else message[:_MAX_MESSAGE],
                    }
                ),
            )

    def withdraw(self, name: str, digest: str, message: str) -> Mark:
        """Have it seeded no more, because other nodes could not load it.

        Raises:
            InsufficientDisk: the disk is full; nothing is noted.
            UnsafePath
        """
        with self._turns.take():
            old = self.of(name, digest)
            if old.withdrawn:
                return old
            update = {"withdrawn_at": _now(), "message": message[:_MAX_MESSAGE]}
            return self._write(name, digest, old.model_copy(update=update))

    def _write(self, name: str, digest: str, mark: Mark) -> Mark:
        path = self._path(name, digest)
        with disk_errors():
            self._durable.make_directory(path.parent)
            content = json.dumps(mark.to_document(), indent=1).encode() + b"\n"
            self._durable.write_file(path, content)
        return mark

    def _path(self, name: str, digest: str) -> Path:
        digest = digest.removeprefix("sha256:")
        if not re.fullmatch(NAME_PATTERN, name) or not re.fullmatch(KEY_PATTERN, digest):
            raise UnsafePath(f"{name[:80]!r} has no bundle {digest[:80]!r}")
        return self._layout.compile_mark(name, digest)


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
