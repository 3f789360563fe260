"""Which of a revision's files are wanted."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from fnmatch import translate
from hashlib import sha256
from itertools import islice
from pathlib import PurePosixPath
from typing import Final

from modelcache.api import Source
from modelcache.errors import NotFound, UnsafeFormat, UnsafePath
from modelcache.origins.names import check_names, shown
from modelcache.origins.protocol import RemoteFile, Revision

# https://huggingface.co/docs/hub/security-pickle
_PICKLES = {".bin", ".pt", ".pt2", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill"}
_PICKLES |= {".cloudpickle", ".pdparams", ".pdopt"}
# With a pickle (NeMo) or a Python handler (TorchServe) in them, which loading runs.
_ARCHIVES = {".nemo", ".mar"}
# A Keras Lambda layer is marshalled bytecode. safe_mode did not cover HDF5 before CVE-2025-9905,
# and has been got round for .keras.
_KERAS = {".h5", ".hdf5", ".keras"}

UNSAFE_SUFFIXES: Final = frozenset(_PICKLES | _ARCHIVES | _KERAS)
"""Formats whose ordinary loader can be made to run code by the file.

Not here: formats that run code only on request (`.npy` with allow_pickle, `.py` with
trust_remote_code), and formats that are data (`.safetensors`, `.gguf`, `.onnx`, `.msgpack`)."""

SAFE_WEIGHTS: Final = frozenset([".safetensors", ".gguf", ".onnx"])
"""Weights that stand for the whole model without the unsafe ones beside them.

Other safe formats (`.msgpack`, `.tflite`, ...) belong to frameworks whose files ride along in a
repository: where only those are left, being refused tells a person what being silently short of
the weights would not."""


def select(revision: Revision, source: Source) -> Revision:
    """The revision with the files that the source asks for.

    `include` and `exclude` are matched as by `huggingface_hub`'s `filter_repo_objects`:
    case-sensitive, `*` matches slashes too, and a pattern that ends with a slash means everything
    below. Files that can run code when loaded are left out where safe weights are selected too.

    Of a revision with archives nobody knows the files yet: all of it is wanted, and it is selected
    from when it is unpacked. Till then its rules tell one selection from another.

    Raises:
        NotFound: nothing is selected.
        UnsafeFormat: the only weights are in formats that can run code when loaded.
        UnsafePath: a selected file's name is unsafe.
    """
    if revision.archives:
        return replace(revision, rules=_rules(source))
    wanted = _matched(revision.files, source)
    if not wanted:
        raise NotFound(_nothing(revision, source))
    if not source.allow_unsafe_formats:
        wanted = _without_unsafe(wanted, source)
    check_names(file.path for file in wanted)
    return revision.only(tuple(wanted))


def may_be_selected(source: Source) -> Callable[[str], bool]:
    """Whether a file of that name can be among those that `select` gives, whatever else there is.

    For an archive, where each file passes once and not all names are known before.
    """
    include, exclude = _matcher(source.include), _matcher(source.exclude)

    def may_be(path: str) -> bool:
        if (source.include and not include(path)) or exclude(path):
            return False
        if not source.allow_unsafe_formats and _suffix(path) in UNSAFE_SUFFIXES:
            return False
        try:
            check_names([path])
        except UnsafePath:
            return False
        return True

    return may_be


def _rules(source: Source) -> str:
    """What tells the source's selection from others: nothing where it is the usual one."""
    rules = source.model_dump(
        mode="json", include={"include", "exclude", "allow_unsafe_formats"}, exclude_defaults=True
    )
    return sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()[:8] if rules else ""


def _matched(files: Iterable[RemoteFile], source: Source) -> list[RemoteFile]:
    include, exclude = _matcher(source.include), _matcher(source.exclude)
    return [
        file
        for file in files
        if (not source.include or include(file.path)) and not exclude(file.path)
    ]


def _matcher(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Whether any of the globs matches. Compiled once: there may be 256 globs, 100,000 files."""
    compiled = [re.compile(translate(_glob(pattern))).match for pattern in patterns]
    return lambda path: any(match(path) for match in compiled)


def _glob(pattern: str) -> str:
    pattern = pattern.replace("\\", "/")
    return f"{pattern}*" if pattern.endswith("/") else pattern


def _without_unsafe(files: list[RemoteFile], source: Source) -> list[RemoteFile]:
    unsafe = [file for file in files if _suffix(file.path) in UNSAFE_SUFFIXES]
    if unsafe and not any(_suffix(file.path) in SAFE_WEIGHTS for file in files):
        raise UnsafeFormat(
            f"{source.shown} has weights only in formats that can run code when loaded"
            f" ({_examples(unsafe)}), and no safetensors: set allowUnsafeFormats: true if you"
            " trust whoever made them, or exclude them"
        )
    return [file for file in files if _suffix(file.path) not in UNSAFE_SUFFIXES]


def _suffix(path: str) -> str:
    return PurePosixPath(path).suffix.lower()


def _nothing(revision: Revision, source: Source) -> str:
    if not revision.files:
        return f"{source.shown} has no files"
    globs = " and ".join(
        f"{name} {', '.join(shown(glob, 60) for glob in islice(given, 5))}"
        + (", …" if len(given) > 5 else "")
        for name, given in (("include", source.include), ("exclude", source.exclude))
        if given
    )
    return (
        f"{source.shown} has no file that {globs} leave{'' if ' and ' in globs else 's'}:"
        f" it has {_examples(revision.files)}"
    )


def _examples(files: Sequence[RemoteFile]) -> str:
    names = ", ".join(shown(file.path, 60) for file in files[:3])
    return names if len(files) <= 3 else f"{names} and {len(files) - 3} more"
