"""What became of one start: a document for programs, and a few lines for people."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Final, Literal

import structlog
from pydantic import Field, ValidationError

from modelcache.api.compilecache import Digest
from modelcache.api.meta import API_VERSION, ApiModel
from modelcache.compilecache.engines.evidence import Evidence
from modelcache.compilecache.keys.parts import Key
from modelcache.store.durable import Durable, disk_errors
from modelcache.store.layout import Layout

MAX_BYTES: Final = 1024 * 1024
"""Of a document: a long command line's key has some 30 KiB."""
_MAX_NOTES: Final = 32

Result = Literal["Hit", "Partial", "Miss", "Unknown"]

log = structlog.get_logger(__name__)


class Seeding(ApiModel):
    """What the cache directory had in it when the engine started."""

    digest: Digest | None = None
    """The bundle that it was seeded from; absent: none."""
    source: Literal["held", "place", "kept", "nothing"] = "nothing"
    """Whether the bundle was here, or was fetched from the place; or an earlier start's files were
    still there, from which no bundle was made."""
    files: Annotated[int, Field(ge=0)] = 0
    bytes: Annotated[int, Field(ge=0)] = 0
    seconds: Annotated[float, Field(ge=0)] = 0.0
    """For looking it up, fetching it, and unpacking it."""
    message: str = ""
    """Why there is nothing, or not the newest."""


class Capturing(ApiModel):
    """What was taken of the cache directory after the engine had compiled."""

    digest: Digest | None = None
    """The bundle; absent: none was made."""
    files: Annotated[int, Field(ge=0)] = 0
    bytes: Annotated[int, Field(ge=0)] = 0
    archive_bytes: Annotated[int, Field(ge=0)] = 0
    seconds: Annotated[float, Field(ge=0)] = 0.0
    """For signing and publishing."""
    place: str = ""
    """Where it was published; empty: nowhere."""
    message: str = ""
    """Why there is none, or why it was not published."""


class Start(ApiModel):
    """One start of an engine, by this program."""

    api_version: Literal["modelcache.dev/v1alpha1"] = API_VERSION
    kind: Literal["CompileStart"] = "CompileStart"
    name: str
    """The compile cache."""
    engine: str
    cache_dir: str
    key: Key | None = None
    """What it was started for; absent: it could not be told."""
    started_at: datetime
    ended_at: datetime | None = None
    """Absent: the engine still ran when this was written."""
    exit_code: int | None = None
    result: Result = "Unknown"
    """Whether the engine used what it was given."""
    reason: str = ""
    """For a miss, the likely reason, as one CamelCase word."""
    message: str = ""
    """The same as a sentence, with what to do."""
    compile_seconds: float | None = None
    """How long it compiled, as far as its log says."""
    cold_seconds: float | None = None
    """How long the start compiled that the bundle was captured from."""
    evidence: Evidence | None = None
    seeding: Seeding = Seeding()
    capturing: Capturing = Capturing()
    notes: tuple[str, ...] = ()
    """What else is to be known: caches elsewhere, which part of the key other bundles differ in."""


def lines(start: Start) -> Iterator[str]:
    """A start for people, the most telling first."""
    yield _headline(start)
    seeded = start.seeding
    if seeded.digest is not None:
        yield (
            f"seeded from {_short(seeded.digest)} ({seeded.files} files, {seeded.seconds:.1f} s)"
        )
    if seeded.source == "kept":
        yield "started with what an earlier start had left in the cache directory"
    if seeded.message:
        yield f"{'but' if seeded.digest else 'not seeded'}: {seeded.message}"
    captured = start.capturing
    if captured.digest is not None:
        where = f", published to {captured.place}" if captured.place else ""
        yield (
            f"captured for {start.name} as {_short(captured.digest)} ({captured.files} files,"
            f" {captured.seconds:.1f} s{where})"
        )
    if captured.message and start.result != "Hit":
        yield f"{'but' if captured.digest else 'not captured'}: {captured.message}"
    yield from start.notes


def _headline(start: Start) -> str:
    words = {
        "Hit": "hit",
        "Partial": "partial hit",
        "Miss": "miss",
        "Unknown": "whether the compile cache helped can't be told",
    }
    text = words[start.result]
    if start.compile_seconds is not None:
        text += f", {start.compile_seconds:.1f} s of compiling"
        if start.cold_seconds is not None and start.result in ("Hit", "Partial"):
            text += f" instead of {start.cold_seconds:.1f} s"
    return f"{text}: {start.message}" if start.message else text


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


def write_last(layout: Layout, durable: Durable, start: Start) -> None:
    """Note it as the compile cache's last start on this machine.

    Raises:
        InsufficientDisk: the disk is full.
    """
    path = layout.compile_last_start(start.name)
    with disk_errors():
        durable.make_directory(path.parent)
        durable.write_file(path, to_bytes(start))


def read_last(layout: Layout, name: str) -> Start | None:
    """The last start of a compile cache on this machine, where it is known and can be read."""
    path = layout.compile_last_start(name)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        return Start.model_validate_json(content) if len(content) <= MAX_BYTES else None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValidationError) as error:
        log.warning("start.unreadable", path=str(path), message=str(error).splitlines()[0])
        return None


def to_bytes(start: Start) -> bytes:
    """The document as it is written to files."""
    bounded = start.model_copy(update={"notes": start.notes[:_MAX_NOTES]})
    return json.dumps(bounded.to_document(), indent=1, ensure_ascii=False).encode() + b"\n"
