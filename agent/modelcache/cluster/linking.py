"""What the injected init container does: it lets the pod's own directories lead to the views that
the node has.

A hub cache that a pod may write to can't be the node's view, and a view can't be mounted where
there may be none; so the pod has an empty cache of its own, and this fills it with links. What the
node lacks the engine fetches into it, as it would without us.

It runs before every injected pod starts: only the standard library is imported, and little of that.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence

_REPOSITORY = "models--"
_HEX = frozenset("0123456789abcdef")
_NAME = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")
_FORMAT = 1
_LEFT_OUT = "modelcache_left_out"
_LOOKS = 5
_PAUSE_SECONDS = 0.2

Entries = dict[str, dict[str, str | int]]
"""Files by path, as huggingface_hub's listing of a commit has them."""


class Asked:
    """What is to be linked.

    Attributes:
        names: the models.
        hub_views: where the models' hub views are, a directory each.
        hub_cache: the pod's own hub cache, which is filled with links to them; empty: none.
        model_views: where the models' plain views are, a directory each.
        models: where a link for each model is made; empty: nowhere.
        offline: whether the engine is told to ask no Hub.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        hub_views: str = "",
        hub_cache: str = "",
        model_views: str = "",
        models: str = "",
        offline: bool = False,
    ) -> None:
        self.names = tuple(dict.fromkeys(names))
        self.hub_views = hub_views
        self.hub_cache = hub_cache
        self.model_views = model_views
        self.models = models
        self.offline = offline

    def mistake(self) -> str:
        """What is wrong with it, in a sentence; empty where nothing is."""
        if bool(self.hub_views) != bool(self.hub_cache):
            return "--hub-views and --hub-cache go together"
        if bool(self.model_views) != bool(self.models):
            return "--model-views and --models go together"
        if not self.hub_views and not self.model_views:
            return "give --hub-views and --hub-cache, or --model-views and --models, or all four"
        for name in self.names:
            if not name or not _NAME.issuperset(name):
                return f"{name[:80]!r} can't be a model's name: lower-case letters, digits, hyphens"
        return "" if self.names else "name at least one model"

    def arguments(self) -> list[str]:
        """The command line that asks for it."""
        pairs = (
            ("hub-views", self.hub_views),
            ("hub-cache", self.hub_cache),
            ("model-views", self.model_views),
            ("models", self.models),
        )
        flags = [f"--{name}={value}" for name, value in pairs if value]
        return [*flags, *(["--offline"] if self.offline else []), *self.names]


def read_arguments(arguments: Sequence[str]) -> Asked | None:
    """What a command line asks for, if it is one that `Asked.arguments` writes.

    None for every other, also for those that are as good: the command's real parser reads those,
    and knows what to say of mistakes. To import it takes longer than all the rest.
    """
    flags = {"hub-views": "", "hub-cache": "", "model-views": "", "models": ""}
    names = [argument for argument in arguments if not argument.startswith("-")]
    offline = False
    for argument in arguments[: len(arguments) - len(names)]:
        flag, is_given, value = argument.removeprefix("--").partition("=")
        if flag in flags and is_given:
            flags[flag] = value
        elif argument == "--offline":
            offline = True
        else:
            return None
    asked = Asked(
        names,
        hub_views=flags["hub-views"],
        hub_cache=flags["hub-cache"],
        model_views=flags["model-views"],
        models=flags["models"],
        offline=offline,
    )
    return asked if asked.arguments() == [*arguments] and not asked.mistake() else None


def link(asked: Asked) -> dict[str, list[str]]:
    """Link what is there, and leave out what is not: a line or more of each model.

    Nothing makes it raise: a pod has to start without the cache as well.
    """
    said: dict[str, list[str]] = {name: [] for name in asked.names}
    before = os.umask(0)  # the engine may be any user, and completes what is linked
    try:
        if asked.models:
            for name in asked.names:
                said[name] += _guarded(_link_plain, asked, name)
        if asked.hub_cache:
            cache = _Cache(asked.hub_cache, complete=not asked.offline)
            for name in asked.names:
                said[name] += _guarded(_link_hub, asked, name, cache)
    finally:
        os.umask(before)
    for lines in said.values():
        lines[:] = lines or ["is not on this node"]
    return said


def _guarded(work: object, *arguments: object) -> list[str]:
    try:
        return list(work(*arguments))  # type: ignore[operator]
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return [f"is left out: {where}{error.strerror or error}"]
    except Exception as error:  # noqa: BLE001 - see `link`; told, not dumped
        return [f"is left out, which is a defect, please report it: {error!r}"]


# Plain views


def _link_plain(asked: Asked, name: str) -> Iterator[str]:
    folder = os.path.join(asked.model_views, name)
    try:
        snapshot = os.path.basename(os.readlink(os.path.join(folder, "current")))
    except OSError:
        return
    # Not to `current`: a pod is not to load half of its files from the next revision.
    target = os.path.join(folder, snapshot)
    if not os.path.isdir(target):
        return
    os.makedirs(asked.models, exist_ok=True)
    place = os.path.join(asked.models, name)
    if not os.path.isdir(place):
        _symlink(target, place)
    yield f"linked at {place}"


def _symlink(target: str, place: str) -> None:
    """Make a link, in place of one that leads elsewhere or nowhere."""
    temporary = f"{place}.modelcache"
    if os.path.lexists(temporary):
        os.unlink(temporary)
    os.symlink(target, temporary)
    os.rename(temporary, place)


# Hub views


class _Snapshot:
    """A commit in a hub view, whole by its own listing."""

    def __init__(self, folder: str, commit: str, files: Entries, left_out: Entries | None) -> None:
        self.folder = folder
        self.commit = commit
        self.files = files
        self.left_out = left_out

    def is_there(self) -> bool:
        for path, entry in self.files.items():
            for place in (f"snapshots/{self.commit}/{path}", f"blobs/{entry['blob_id']}"):
                try:
                    found = os.stat(os.path.join(self.folder, place))
                except OSError:
                    return False
                if found.st_size != entry["size"]:
                    return False
        return True


def _link_hub(asked: Asked, name: str, cache: _Cache) -> Iterator[str]:
    view = os.path.join(asked.hub_views, name)
    for repository in _listed(view):
        if not repository.startswith(_REPOSITORY):
            continue
        folder = os.path.join(view, repository)
        refs = dict(_refs(os.path.join(folder, "refs")))
        for commit in _listed(os.path.join(folder, "snapshots")):
            what = f"{repository.removeprefix(_REPOSITORY).replace('--', '/')} at {commit[:12]}"
            if len(commit) != 40 or not _HEX.issuperset(commit):
                continue
            snapshot = _look(folder, commit)
            if snapshot is None:
                yield f"{what} is left out: it is not whole"
                continue
            mine = [ref for ref, leads_to in refs.items() if leads_to == commit]
            yield from (f"{what} {outcome}" for outcome in cache.add(snapshot, mine))


def _look(folder: str, commit: str) -> _Snapshot | None:
    """A commit of a hub view, if it is whole. Looked at again while the agent replaces it."""
    for look in range(_LOOKS):
        if look:
            time.sleep(_PAUSE_SECONDS)
        try:
            with open(os.path.join(folder, "trees", f"{commit}.json"), encoding="utf-8") as file:
                document = json.load(file)
            if document["format_version"] != _FORMAT:
                return None
            files: Entries = document["files"]
            snapshot = _Snapshot(folder, commit, files, document.get(_LEFT_OUT))
            if all(map(_is_safe, files)) and snapshot.is_there():
                return snapshot
        except FileNotFoundError:
            continue
        except (ValueError, KeyError, TypeError):
            return None
    return None


def _is_safe(path: str) -> bool:
    """Whether a file's path leads nowhere but below a snapshot."""
    return not any(part in ("", ".", "..") for part in path.split("/"))


def _refs(folder: str) -> Iterator[tuple[str, str]]:
    for parent, _, names in os.walk(folder):
        for name in names:
            place = os.path.join(parent, name)
            with open(place, encoding="utf-8") as file:
                yield os.path.relpath(place, folder), file.read()


def _listed(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


class _Cache:
    """The pod's hub cache.

    `blobs/<name>` leads into the view, as into the store that huggingface_hub itself can share
    between repositories; everything else is as huggingface_hub makes it, and is the pod's own.

    A snapshot must not look whole that is not: huggingface_hub goes by the listing of its commit,
    and takes a snapshot that has none as it is when it can't ask the Hub. So the listing is there
    before the first file. To be completed it names every file of the commit, so that
    huggingface_hub asks for no listing and fetches what is missing; offline it names those that the
    views have. Where it is not known what the commit has, only blobs are linked: huggingface_hub
    asks the Hub which they are, and fetches none of them again.
    """

    def __init__(self, folder: str, *, complete: bool) -> None:
        self._folder = folder
        self._complete = complete
        self._linked: dict[tuple[str, str], Entries] = {}

    def add(self, snapshot: _Snapshot, refs: Sequence[str]) -> Iterator[str]:
        """Link a commit, with the branches and tags that lead to it; what is to be said of it."""
        repository = os.path.basename(snapshot.folder)
        folder = os.path.join(self._folder, repository)
        self._link_blobs(folder, snapshot)
        if self._complete and snapshot.left_out is None:
            yield "linked, as far as the Hub says which of its files these are"
            return
        # Two models may have different files of one commit: then it has those of both.
        files = self._linked.setdefault((repository, snapshot.commit), {})
        files.update(snapshot.files)
        listed = {**(snapshot.left_out or {}), **files} if self._complete else files
        _write(os.path.join(folder, "trees", f"{snapshot.commit}.json"), _listing(listed))
        for path, entry in snapshot.files.items():
            place = os.path.join(folder, "snapshots", snapshot.commit, path)
            if not os.path.exists(place):
                os.makedirs(os.path.dirname(place), exist_ok=True)
                ups = "../" * (2 + path.count("/"))
                _symlink(f"{ups}blobs/{entry['blob_id']}", place)
        yield "linked"
        for ref in refs:
            yield from self._write_ref(folder, ref, snapshot.commit)

    def _link_blobs(self, folder: str, snapshot: _Snapshot) -> None:
        blobs = os.path.join(folder, "blobs")
        os.makedirs(blobs, exist_ok=True)
        for blob in {str(entry["blob_id"]) for entry in snapshot.files.values()}:
            place = os.path.join(blobs, blob)
            if not os.path.exists(place):
                _symlink(os.path.join(snapshot.folder, "blobs", blob), place)

    def _write_ref(self, folder: str, ref: str, commit: str) -> Iterator[str]:
        place = os.path.join(folder, "refs", ref)
        try:
            with open(place, encoding="utf-8") as file:
                other = file.read()
        except FileNotFoundError:
            _write(place, commit)
            return
        if other != commit and os.path.isdir(os.path.join(folder, "snapshots", other)):
            # Of an earlier model; or of the engine's own, when this runs again in the same pod.
            yield f"is not what {ref} leads to in this pod: that is {other[:12]}"
        elif other != commit:
            _write(place, commit)


def _listing(files: Mapping[str, Mapping[str, str | int]]) -> str:
    return json.dumps({"format_version": _FORMAT, "files": files})


def _write(place: str, content: str) -> None:
    os.makedirs(os.path.dirname(place), exist_ok=True)
    temporary = f"{place}.modelcache"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(content)
    os.rename(temporary, place)
