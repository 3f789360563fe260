"""Layers laid over each other, as a pure function: which files a model has in the end.

https://github.com/opencontainers/image-spec/blob/v1.1.1/layer.md. Nothing is made on a disk here,
so links are no danger but for what they say: each is resolved to content, within the folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from modelcache.errors import UnsafePath
from modelcache.origins.names import shown
from modelcache.store.listings import Entry

MAX_FILES: Final = 500_000
"""Files of one model, those included that links to folders show again; also the entries of its
archives, and the folders that these are in."""
MAX_NAME_BYTES: Final = 64 * 1024 * 1024
"""Names of one model's entries with the targets of its links, and paths of its files."""
MAX_DEPTH: Final = 512
"""Folders that a file lies in: a path that may be shown has at most 1024 bytes."""
_MAX_LINKS = 40
"""Links followed for one name, as in Linux (path_resolution(7))."""
_MAX_STEPS = 20 * MAX_FILES
"""Steps from folder to folder for all links of a model."""


class Names:
    """Counts the entries of one model's archives, which all have to be in memory at once."""

    def __init__(self) -> None:
        self._entries = 0
        self._bytes = 0

    def add(self, entry: Entry) -> None:
        """Count one more entry.

        Raises:
            UnsafePath: there are too many, or their names are too long.
        """
        self._entries += 1
        if self._entries > MAX_FILES:
            raise UnsafePath(f"more than {MAX_FILES} names in the archives of one model")
        self.add_name(entry.path)
        self.add_name(entry.target)

    def add_name(self, name: str) -> None:
        """Count the bytes of a name alone.

        Raises:
            UnsafePath: there are too many.
        """
        self._bytes += len(name.encode("utf-8", "surrogatepass"))
        if self._bytes > MAX_NAME_BYTES:
            raise UnsafePath(f"names of more than {MAX_NAME_BYTES} bytes in one model")


@dataclass(frozen=True, slots=True)
class Content:
    """A file's content: an entry of a layer."""

    layer: str
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


@dataclass(frozen=True, slots=True)
class _Place:
    """A folder, and the one that it lies in; None: nobody may go there."""

    folder: _Folder
    above: _Place | None


_Node = Content | _Link | _Fault | _Folder


class Layers:
    """Layers, the lowest first."""

    def __init__(self, layers: Iterable[tuple[str, Iterable[Entry]]], folder: str) -> None:
        """Lay them over each other.

        Args:
            layers: each with the digest of its archive.
            folder: the folder that is the model's directory; empty for the root.

        Raises:
            UnsafePath: an entry lies below what is no folder; or there is too much of it.
        """
        self._folder = folder.split("/") if folder else []
        self._root = _Folder()
        self._folders_left = MAX_FILES
        self._steps_left = _MAX_STEPS
        names = Names()
        for digest, entries in layers:
            kept = []
            # Whatever the order in the archive: they are about the layers below it.
            for entry in entries:
                names.add(entry)
                if entry.kind in ("gone", "opaque"):
                    self._hide(entry)
                else:
                    kept.append(entry)
            for entry in kept:
                self._place(entry, Content(digest, entry))

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
        left, names = MAX_FILES, Names()
        # A path, what is there, and the folders that it lies in: a link to one of them is a circle.
        waiting: list[tuple[str, _Place, frozenset[int]]] = [("", _Place(top, None), frozenset())]
        while waiting:
            path, place, above = waiting.pop()
            if id(place.folder) in above:
                continue
            if len(above) > MAX_DEPTH:
                raise UnsafePath(f"folders lie in each other more than {MAX_DEPTH} deep")
            within = above | {id(place.folder)}
            for name, node in place.folder.items():
                left -= 1
                if left < 0:
                    raise UnsafePath(f"more than {MAX_FILES} files: links make them of fewer")
                here = f"{path}/{name}" if path else name
                names.add_name(here)
                found = self._follow(place, node.target) if isinstance(node, _Link) else node
                if isinstance(found, _Folder):
                    found = _Place(found, place)
                if isinstance(found, _Place):
                    waiting.append((here, found, within))
                elif isinstance(found, Content):
                    yield Found(here, found)
                else:
                    assert isinstance(found, _Fault)
                    yield Found(here, None, found.why)

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
            child = folder.get(part)
            if child is None:
                child = folder[part] = self._new_folder()
            if not isinstance(child, _Folder):
                below = "/".join(parents[: depth + 1])
                raise UnsafePath(
                    f"an archive has {shown(entry.path)} below {shown(below)}, which is no folder"
                )
            folder = child
        if entry.kind != "folder":
            folder[name] = self._node(entry, content)
        elif not isinstance(folder.get(name), _Folder):
            folder[name] = self._new_folder()

    def _new_folder(self) -> _Folder:
        self._folders_left -= 1
        if self._folders_left < 0:
            raise UnsafePath(f"more than {MAX_FILES} folders in the archives of one model")
        return _Folder()

    def _node(self, entry: Entry, content: Content) -> _Node:
        if entry.kind == "file":
            return content
        if entry.kind == "link":
            return _Link(entry.target)
        if entry.kind == "hard":
            # The file of that name at this moment, whatever becomes of the name later.
            parts = [part for part in entry.target.split("/") if part not in ("", ".")]
            leads_out = ".." in parts or parts[: len(self._folder)] != self._folder
            found = self._at(parts) if not leads_out else None
            if isinstance(found, Content | _Link):
                return found
            return _Fault(f"is a hard link to {shown(entry.target)}, {_no_file(leads_out)}")
        if entry.kind == "unsafe":
            return _Fault("has a name in an archive that may lead elsewhere")
        return _Fault("is neither a file nor a link nor a folder")

    def _at(self, parts: Iterable[str]) -> _Node | None:
        """What is at a place, no link followed."""
        node: _Node | None = self._root
        for part in parts:
            if not isinstance(node, _Folder):
                return None
            node = node.get(part)
        return node

    # Links

    def _follow(self, start: _Place, target: str) -> _Place | Content | _Fault:
        """Where a link in the folder `start` leads.

        An absolute target begins at the archive's root, which is the root of who runs the image.

        Raises:
            UnsafePath: all links together are too long.
        """

        def fault(why: str) -> _Fault:
            return _Fault(f"is a link to {shown(target)}, {why}")

        place, links, link = start, 0, target
        waiting: list[str] = []
        while True:
            waiting += self._steps(link)
            if link.startswith("/"):
                top = self._enter(waiting)
                if top is None:
                    return fault(_no_file(True))
                place = top
            node: _Node | None = place.folder
            while waiting and not isinstance(node, _Link):
                if not isinstance(node, _Folder):
                    return fault(_no_file(False))
                step = waiting.pop()
                if step != "..":
                    node = node.get(step)
                elif place.above is None:
                    return fault(_no_file(True))
                else:
                    place = place.above
                    node = place.folder
                    continue
                if isinstance(node, _Folder):
                    place = _Place(node, place)
            if isinstance(node, _Folder):
                return place
            if not isinstance(node, _Link):
                return node if node is not None else fault(_no_file(False))
            links += 1
            if links > _MAX_LINKS or len(waiting) > _MAX_LINKS * 100:
                return fault("which leads in a circle")
            link = node.target

    def _enter(self, waiting: list[str]) -> _Place | None:
        """The model's directory, and those steps taken off that lead there from the root."""
        for part in self._folder:
            if not waiting or waiting.pop() != part:
                return None
        top = self._at(self._folder)
        assert isinstance(top, _Folder)
        return _Place(top, None)

    def _steps(self, target: str) -> list[str]:
        """The components of a link's target, the first one last."""
        steps = [part for part in reversed(target.split("/")) if part not in ("", ".")]
        self._steps_left -= len(steps) + 1
        if self._steps_left < 0:
            raise UnsafePath("the links of one model lead over too many folders")
        return steps


def _no_file(leads_out: bool) -> str:
    return "which leads out of the model's folder" if leads_out else "where no file is"
