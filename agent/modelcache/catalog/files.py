"""The catalog as files: one file or a directory of them, with the last good state kept.

A mistake never takes away what was in force. What a broken document described stays as it was read
last; where it can't be told which object a document described, nothing that its file held is given
up. Only what is plainly gone is dropped: a document that is no longer in a file that can be read,
and the objects of a file that was deleted.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, TypeAlias

from modelcache.catalog.documents import MAX_FILE_BYTES, Document, read_documents
from modelcache.catalog.problems import ObjectKey, Problem, Severity
from modelcache.catalog.snapshot import Catalog

SUFFIXES: Final = (".yaml", ".yml", ".json")
"""What the names of catalog files in a directory end with."""

_DATA: Final = "..data"  # the link by which kubelet swaps all files of a ConfigMap at once
_TRIES: Final = 3
# File systems count time in steps of up to two seconds (ext3, NFS, FAT): what was written that
# recently may be written again without a change of its times.
_STEP_NS: Final = 2_000_000_000

_Signature: TypeAlias = tuple[int, int, int, int, int]


@dataclass(slots=True)
class _File:
    """What is known of one file.

    `documents` are those that are good, `kept` those that stand since an earlier reading.
    """

    signature: _Signature | None = None
    digest: bytes = b""
    documents: tuple[Document, ...] = ()
    problems: tuple[Problem, ...] = ()
    kept: dict[ObjectKey, Document] = field(default_factory=dict)

    def standing(self, in_force: Mapping[ObjectKey, Document]) -> dict[ObjectKey, Document]:
        """The objects of this file: of several with one key the one in force, else the first."""
        found: dict[ObjectKey, Document] = {}
        for document in (*self.kept.values(), *self.documents):
            key = document.key
            if key not in found or document is in_force.get(key):
                found[key] = document
        return found


class FileCatalog:
    """Reads a file, or a directory's *.yaml, *.yml and *.json; hidden names are passed over.

    One thread at a time may call `read`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files: dict[str, _File] = {}
        self._catalog: Catalog | None = None
        self._failure: Problem | None = None

    @property
    def path(self) -> Path:
        """The file or directory."""
        return self._path

    def read(self) -> Catalog:
        """The catalog as it stands now; the same object as before where nothing changed.

        Content and file system can't make it raise: what is wrong is in `problems`. Files that did
        not change are only looked at (`stat`), not read.
        """
        try:
            changed = self._refresh()
        except OSError as error:
            return self._failed(error)
        if changed or self._catalog is None or self._failure is not None:
            self._failure = None
            self._catalog = self._merge()
        return self._catalog

    def _failed(self, error: OSError) -> Catalog:
        stays = ": what was read before stays in force" if self._catalog else ""
        what = f"can't be read ({_reason(error)}){stays}"
        problem = Problem(str(self._path), what)
        if self._catalog is None or self._failure != problem:
            before = self._catalog or Catalog.of()
            self._catalog = replace(before, problems=(problem,))
            self._failure = problem
        return self._catalog

    def _refresh(self) -> bool:
        """Read what changed; whether anything did.

        Raises:
            OSError: nothing can be told of the path, or of a ConfigMap's content.
        """
        changed = False
        in_force = self._in_force()
        for _ in range(_TRIES):
            names, generation = _listing(self._path)
            for gone in self._files.keys() - set(names):
                del self._files[gone]
                changed = True
            for name in names:
                old = self._files.get(name)
                new = _read_file(name, old, in_force)
                if new is not old:
                    self._files[name] = new
                    changed = True
            # A swap meanwhile would mix two states of a ConfigMap.
            if _generation(self._path) == generation:
                break
        return changed

    def _in_force(self) -> Mapping[ObjectKey, Document]:
        return self._catalog.documents if self._catalog else {}

    def _merge(self) -> Catalog:
        in_force = self._in_force()
        candidates: dict[ObjectKey, list[Document]] = {}
        problems: list[Problem] = []
        for name in sorted(self._files):
            file = self._files[name]
            problems += file.problems
            for document in (*file.documents, *file.kept.values()):
                candidates.setdefault(document.key, []).append(document)
        chosen = {key: _choose(found, in_force.get(key)) for key, found in candidates.items()}
        for key, found in candidates.items():
            problems += [
                _duplicate(document, chosen[key])
                for document in found
                if document is not chosen[key]
            ]
        if not self._files:
            what = f"has no file {', '.join('*' + s for s in SUFFIXES)} in it"
            problems.append(Problem(str(self._path), what, severity=Severity.WARNING))
        problems.sort(key=lambda p: (p.file, p.document or 0, p.line or 0))
        return Catalog.of(chosen.values(), problems)


def _listing(path: Path) -> tuple[list[str], str | None]:
    """The files, sorted, and which generation of a ConfigMap they belong to."""
    generation = _generation(path)
    if generation is None and not path.is_dir():
        path.stat()
        return [str(path)], None
    with os.scandir(path) as entries:
        names = sorted(
            entry.name
            for entry in entries
            if not entry.name.startswith(".")
            and entry.name.lower().endswith(SUFFIXES)
            and not entry.is_dir()
        )
    return [str(path / name) for name in names], generation


def _generation(path: Path) -> str | None:
    """Where `..data` leads; None where there is none.

    Raises:
        OSError: it leads nowhere: kubelet, or a restored backup, is half-way.
    """
    link = path / _DATA
    try:
        target = os.readlink(link)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINVAL, errno.ENOTDIR):
            return None
        raise
    link.stat()
    return target


def _read_file(name: str, old: _File | None, in_force: Mapping[ObjectKey, Document]) -> _File:
    """The state of a file: `old` itself where nothing changed."""
    try:
        signature = _signature(os.stat(name))
        if old is not None and old.signature == signature:
            return old
        signature, text = _content(name)
    except OSError as error:
        return _unreadable(name, error, old or _File(), in_force)
    digest = hashlib.blake2b(text, digest_size=16).digest()
    trusted = signature if time.time_ns() - max(signature[3:]) > _STEP_NS else None
    if old is not None and old.digest == digest:
        old.signature = trusted
        return old
    new = _parsed(name, text, old.standing(in_force) if old else {})
    return replace(new, signature=trusted, digest=digest)


def _content(name: str) -> tuple[_Signature, bytes]:
    # Without O_NONBLOCK, opening a named pipe waits for its writer.
    with open(os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return _signature(status), file.read(MAX_FILE_BYTES + 1)


def _signature(status: os.stat_result) -> _Signature:
    s = status
    return (s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns)


def _unreadable(
    name: str, error: OSError, old: _File, in_force: Mapping[ObjectKey, Document]
) -> _File:
    standing = old.standing(in_force)
    problem = Problem(name, f"can't be read ({_reason(error)}){_stays(standing)}")
    if old.problems == (problem,) and not old.documents:
        return old
    return _File(problems=(problem,), kept=standing)


def _parsed(name: str, text: bytes, standing: Mapping[ObjectKey, Document]) -> _File:
    """The file with its new content, and what of the old has to stand."""
    entries = read_documents(text, name)
    documents = tuple(entry for entry in entries if isinstance(entry, Document))
    problems = tuple(entry for entry in entries if isinstance(entry, Problem))
    fresh = {document.key for document in documents}
    missing = {key: kept for key, kept in standing.items() if key not in fresh}
    kept = _still_meant(missing, problems)
    if kept and all(problem.document is None for problem in problems):
        problems = tuple(replace(p, message=p.message + _stays(kept)) for p in problems)
    return _File(documents=documents, problems=problems, kept=kept)


def _still_meant(
    missing: dict[ObjectKey, Document], problems: Iterable[Problem]
) -> dict[ObjectKey, Document]:
    """Those of the missing objects that a broken document may be about."""
    suspects = {(problem.known_kind, problem.known_name) for problem in problems}
    return {
        key: document
        for key, document in missing.items()
        if not suspects.isdisjoint(
            {(None, None), (key.kind, None), (None, key.name), (key.kind, key.name)}
        )
    }


def _stays(objects: Mapping[ObjectKey, Document]) -> str:
    if not objects:
        return ""
    which = str(next(iter(objects))) if len(objects) == 1 else f"{len(objects)} objects"
    return f"; {which} read from it before: still in force until the file is corrected or deleted"


def _choose(candidates: list[Document], in_force: Document | None) -> Document:
    """Of several documents with one key the one that was in force, else the first."""
    same_file = [d for d in candidates if in_force is not None and d.file == in_force.file]
    unchanged = [d for d in same_file if in_force is not None and d.object == in_force.object]
    return (unchanged or same_file or candidates)[0]


def _duplicate(document: Document, chosen: Document) -> Problem:
    key = document.key
    return Problem(
        document.file,
        f"there is a {key.kind} of this name already ({chosen.place}): that one is in force, "
        "names are unique within a kind",
        document.number,
        document.line,
        "metadata.name",
        key.kind,
        key.name,
    )


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno is not None else str(error)
