"""Manifests in YAML as kubectl reads it, not as PyYAML does: `y` is true, `1e3` is a number, and
`22:30` is a text. What is written here is read alike by both.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Final

import yaml

from modelcache.errors import UsageError

_PLAIN: Final = (
    (
        "bool",
        r"y|Y|yes|Yes|YES|true|True|TRUE|on|On|ON|n|N|no|No|NO|false|False|FALSE|off|Off|OFF",
        [*"yYtToOnNfF"],
    ),
    (
        "int",
        r"[-+]?(0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)",
        [*"-+0123456789"],
    ),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        [*"-+.0123456789"],
    ),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", ["<"]),
)
"""What a scalar without quotation marks is, other than a text: the tag, how it is written, and how
that begins."""


class _Loader(yaml.SafeLoader):
    bool_values: ClassVar = {**yaml.SafeLoader.bool_values, "y": True, "n": False}


class _Dumper(yaml.SafeDumper):
    """What either takes for something else than a text is put into quotation marks."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the base class's name
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        super().increase_indent(flow, False)

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """A text of several lines as a block."""
        style = "|" if "\n" in text else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Loader.yaml_implicit_resolvers = {}
_Dumper.yaml_implicit_resolvers = {
    beginning: [*resolvers]
    for beginning, resolvers in yaml.SafeDumper.yaml_implicit_resolvers.items()
}
_Dumper.add_representer(str, _Dumper.represent_text)
for _tag, _pattern, _beginnings in _PLAIN:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _beginnings
        )


def read_manifests(file: str) -> Iterator[Any]:
    """The documents of a file (`-` for stdin), without empty ones.

    Raises:
        UsageError: it can't be read.
    """
    try:
        text = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        found = list(yaml.load_all(text, Loader=_Loader))
        json.dumps(found, allow_nan=False)
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror or error}") from error
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise UsageError(f"{file} is no YAML as Kubernetes reads it: {error}") from error
    return (document for document in found if document is not None)


def as_yaml(documents: Iterable[Any]) -> str:
    """Documents as they are printed."""
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
