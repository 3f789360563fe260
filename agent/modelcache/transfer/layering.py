"""Layers laid over each other, as a pure function: which files a model has in the end.

https://github.com/opencontainers/image-spec/blob/v1.1.1/layer.md. Nothing is made on a disk here,
so links are no danger but for what they say: each is resolved to content, within the folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from modelcache.errors import UnsafePath
from modelcache.origins.names import shown
from modelcache.store.listings import Entry

MAX_FILES: Final = 500_000
"""Files of one model, those included that links to folders show again."""
MAX_DEPTH: Final = 512
"""Folders that a file lies in: a path that may be shown has at most 1024 bytes."""
_MAX_LINKS = 40
"""Links followed for one name, as in Linux (path_resolution(7))."""


@dataclass(frozen=True, slots=True)
class Content:
    """A file's content: an entry of a layer, and its number among the layer's entries."""

    layer: str
    number: int
    entry: Entry


@dataclass(frozen=True, slots=True)
class Found:
    """A file of the model: its path, and its content, or why there is none."""

    path: str
    content: Content | None
    fault: str = ""


@dataclass(frozen=True, slots=True)
class _Link:
    target: str


@dataclass(frozen=True, slots=True)
class _Fault:
    why: str


class _Folder(dict[str, "_Node"]):
    """Names and what they are."""


_Node = Content | _Link | _Fault | _Folder


class Layers:
    """Layers, the lowest first."""

    def __init__(self, layers: Iterable[tuple[str, Sequence[Entry]]], folder: str) -> None:
        """Lay them over each other.

        Args:
            layers: each with the digest of its archive.
            folder: the folder that is the model's directory; empty for the root.

        Raises:
            UnsafePath: an entry lies below what is no folder.
        """
        self._folder = folder.split("/") if folder else []
        self._root = _Folder()
        for digest, entries in layers:
            # Whatever the order in the archive: they are about the layers below it.
            for entry in entries:
                if entry.kind in ("gone", "opaque"):
                    self._hide(entry)
            for number, entry in enumerate(entries):
                if entry.kind not in ("gone", "opaque"):
                    self._place(entry, Content(digest, number, entry))

    @property
    def has_folder(self) -> bool:
        """Whether the model's directory is there."""
        return isinstance(self._at(self._folder), _Folder)

    def files(self) -> Iterator[Found]:
        """All files, links resolved, with paths from the model's directory on.

        Raises:
            UnsafePath: links make too many of them.
        """
        top = self._at(self._folder)
        if not isinstance(top, _Folder):
            return
        left = MAX_FILES
        waiting: list[tuple[list[str], list[str], _Folder, frozenset[int]]]
        # A path, where that really is, and the folders that it lies in: a link to one of them is
        # a circle.
        waiting = [([], self._folder, top, frozenset())]
        while waiting:
            path, real, folder, above = waiting.pop()
            if id(folder) in above:
                continue
            if len(path) > MAX_DEPTH:
                raise UnsafePath(f"folders lie in each other more than {MAX_DEPTH} deep")
            within = above | {id(folder)}
            for name, node in folder.items():
                left -= 1
                if left < 0:
                    raise UnsafePath(f"more than {MAX_FILES} files: links make them of fewer")
                here, place = [*path, name], [*real, name]
                if isinstance(node, _Link):
                    place, node = self._follow(real, node.target)
                if isinstance(node, _Folder):
                    waiting.append((here, place, node, within))
                elif isinstance(node, Content):
                    yield Found("/".join(here), node)
                else:
                    assert isinstance(node, _Fault)
                    yield Found("/".join(here), None, node.why)

    # Making it

    def _hide(self, entry: Entry) -> None:
        parts = entry.path.split("/") if entry.path else []
        if entry.kind == "opaque":
            found = self._at(parts)
            if isinstance(found, _Folder):
                found.clear()
            return
        parent = self._at(parts[:-1])
        if isinstance(parent, _Folder):
            parent.pop(parts[-1], None)

    def _place(self, entry: Entry, content: Content) -> None:
        if not entry.path:
            return  # the root itself
        *parents, name = entry.path.split("/")
        folder = self._root
        for depth, part in enumerate(parents):
            child = folder.setdefault(part, _Folder())
            if not isinstance(child, _Folder):
                below = "/".join(parents[: depth + 1])
                raise UnsafePath(
                    f"an archive has {shown(entry.path)} below {shown(below)}, which is no folder"
                )
            folder = child
        if entry.kind == "folder":
            if not isinstance(folder.get(name), _Folder):
                folder[name] = _Folder()
        else:
            folder[name] = self._node(entry, content)

    def _node(self, entry: Entry, content: Content) -> _Node:
        if entry.kind == "file":
            return content
        if entry.kind == "link":
            return _Link(entry.target)
        if entry.kind == "hard":
            # The file of that name at this moment, whatever becomes of the name later.
            parts = [part for part in entry.target.split("/") if part not in ("", ".")]
            leads_out = ".." in parts or entry.target.startswith("/") or not self._is_inside(parts)
            found = self._at(parts) if not leads_out else None
            if isinstance(found, Content | _Link):
                return found
            return _Fault(f"is a hard link to {shown(entry.target)}, {_no_file(leads_out)}")
        return _Fault("is neither a file nor a link nor a folder")

    def _at(self, parts: Sequence[str]) -> _Node | None:
        """What is at a place, no link followed."""
        node: _Node | None = self._root
        for part in parts:
            if not isinstance(node, _Folder):
                return None
            node = node.get(part)
        return node

    def _is_inside(self, parts: Sequence[str]) -> bool:
        return list(parts[: len(self._folder)]) == self._folder

    # Links

    def _follow(self, start: Sequence[str], target: str) -> tuple[list[str], _Node]:
        """Where a link in the folder `start` leads: the real place, and what is there.

        An absolute target begins at the archive's root, which is the root of who runs the image.
        """
        why = f"is a link to {shown(target)}"
        here = [] if target.startswith("/") else list(start)
        waiting = _steps(target)
        links = 0
        node: _Node | None = self._at(here)
        while waiting:
            step = waiting.pop()
            if step == "..":
                leads_out = len(here) <= len(self._folder)
                here = here[:-1]
                node = self._at(here)
            else:
                here = [*here, step]
                leads_out = not self._is_inside(here) and not self._is_on_the_way(here)
                node = node.get(step) if isinstance(node, _Folder) else None
            if leads_out:
                return here, _Fault(f"{why}, {_no_file(True)}")
            if isinstance(node, _Link):
                links += 1
                if links > _MAX_LINKS or len(waiting) > _MAX_LINKS * 100:
                    return here, _Fault(f"{why}, which leads in a circle")
                waiting += _steps(node.target)
                here = [] if node.target.startswith("/") else here[:-1]
                node = self._at(here)
            elif node is None:
                break
        if node is None or not self._is_inside(here):
            return here, _Fault(f"{why}, {_no_file(node is not None)}")
        return here, node

    def _is_on_the_way(self, parts: Sequence[str]) -> bool:
        return self._folder[: len(parts)] == list(parts)


def _steps(target: str) -> list[str]:
    """The components of a link's target, the first one last."""
    return [part for part in reversed(target.split("/")) if part not in ("", ".")]


def _no_file(leads_out: bool) -> str:
    return "which leads out of the model's folder" if leads_out else "where no file is"
