"""One YAML document to nodes, within limits.

The nodes are composed from libyaml's *events* and not by `yaml.compose`, which recurses in C and
dies of a deeply nested document with the whole process (PyYAML 6.0.3, 100,000 brackets). Events
come one by one, so that nothing is held of a document that is over a limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import yaml
from yaml.reader import ReaderError

from modelcache.catalog.splitting import LINE_BREAK
from modelcache.errors import UsageError

MAX_NODES: Final = 100_000
"""Scalars, lists and mappings of one document, with what its aliases stand for."""
MAX_CHARACTERS: Final = 32 * 1024 * 1024
"""Text of one document, with what its aliases stand for."""
MAX_DEPTH: Final = 64
"""Lists and mappings within each other. An object of ours needs eleven."""

TAG: Final = "tag:yaml.org,2002:"
"""What the tags of YAML's own types begin with."""

# Without libyaml (a distribution's own build of PyYAML may lack it) the same, but slower.
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Unreadable(UsageError):
    """A text that is no YAML document, or one that is too large. `line` is counted from 1."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


@dataclass(slots=True)
class Scalar:
    """One scalar, as written: its text and the tag that YAML gives it."""

    line: int
    tag: str
    text: str


@dataclass(slots=True)
class Collection:
    """A list, or a mapping as the list of its keys and values in turn."""

    line: int
    is_mapping: bool
    nodes: list[Scalar | Collection] = field(default_factory=list)

    def pairs(self) -> Iterator[tuple[Node, Node]]:
        """A mapping's keys with their values."""
        return zip(self.nodes[::2], self.nodes[1::2], strict=True)


Node: TypeAlias = Scalar | Collection


def compose(text: str, first_line: int = 1) -> Node | None:
    """The nodes of one document; None for an empty one.

    Raises:
        Unreadable: for what is no YAML, more than one document, or over a limit.
    """
    try:
        loader = _LOADER(text)
        try:
            return _Composer(loader, first_line).compose()
        finally:
            loader.dispose()
    except ReaderError as error:
        # libyaml's position is in bytes, PyYAML's own in characters.
        before = text.encode()[: error.position].decode(errors="ignore")
        line = first_line + len(LINE_BREAK.findall(before))
        raise Unreadable(f"is no YAML: {error.reason}", line) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        within = mark.line if mark else 0
        lines = LINE_BREAK.split(text)
        written = lines[within] if within < len(lines) else ""
        if "\t" in written[: len(written) - len(written.lstrip())]:
            what = "a tab in the indentation: YAML wants spaces"
        else:
            what = ", ".join(part for part in (error.context, error.problem) if part)
        raise Unreadable(f"is no YAML: {what}", first_line + within) from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # PyYAML turns escapes and version numbers into numbers without looking at their size.
        raise Unreadable(f"is no YAML: {error}", first_line) from error


@dataclass(slots=True)
class _Anchor:
    node: Node
    nodes: int
    characters: int
    height: int = -1  # until the node has ended


class _Composer:
    """Builds nodes from events without recursion, counting what aliases would expand to."""

    def __init__(self, loader: Any, first_line: int) -> None:
        self._loader = loader
        self._first_line = first_line
        self._anchors: dict[str, _Anchor] = {}
        self._open: list[tuple[Collection, _Anchor | None]] = []
        self._heights = [0]
        self._root: Node | None = None
        self._nodes = 0
        self._characters = 0
        self._aliases = 0

    def compose(self) -> Node | None:
        while True:
            event = self._loader.get_event()
            if isinstance(event, yaml.StreamEndEvent):
                return self._root
            if isinstance(event, yaml.ScalarEvent):
                self._scalar(event)
            elif isinstance(event, yaml.CollectionStartEvent):
                self._begin(event)
            elif isinstance(event, yaml.CollectionEndEvent):
                self._end()
            elif isinstance(event, yaml.AliasEvent):
                self._alias(event)
            elif isinstance(event, yaml.DocumentStartEvent) and self._root is not None:
                raise self._unreadable("a second document begins without a line ---", event)

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        tag = event.tag
        if tag is None or tag == "!":
            tag = self._loader.resolve(yaml.ScalarNode, event.value, event.implicit)
        node = Scalar(self._line(event), tag, event.value)
        self._count(event, 1, len(event.value))
        if event.anchor is not None:
            self._anchors[event.anchor] = _Anchor(node, 1, len(event.value), height=0)
        self._attach(node, 0)

    def _begin(self, event: yaml.CollectionStartEvent) -> None:
        is_mapping = isinstance(event, yaml.MappingStartEvent)
        if event.tag not in (None, "!", TAG + ("map" if is_mapping else "seq")):
            raise self._unreadable(f"the tag {event.tag} is not allowed", event)
        node = Collection(self._line(event), is_mapping)
        anchor = None
        if event.anchor is not None:
            anchor = _Anchor(node, self._nodes, self._characters)
            self._anchors[event.anchor] = anchor
        self._count(event, 1, 0)
        self._open.append((node, anchor))
        self._heights.append(0)
        self._check_depth(event, 0)

    def _end(self) -> None:
        node, anchor = self._open.pop()
        height = self._heights.pop() + 1
        if anchor is not None:
            anchor.nodes = self._nodes - anchor.nodes
            anchor.characters = self._characters - anchor.characters
            anchor.height = height
        self._attach(node, height)

    def _alias(self, event: yaml.AliasEvent) -> None:
        anchor = self._anchors.get(event.anchor or "")
        if anchor is None:
            raise self._unreadable(f"*{event.anchor} stands for nothing: no &{event.anchor}", event)
        if anchor.height < 0:
            raise self._unreadable(f"&{event.anchor} contains itself", event)
        self._aliases += 1
        self._count(event, anchor.nodes, anchor.characters)
        self._check_depth(event, anchor.height)
        self._attach(anchor.node, anchor.height)

    def _attach(self, node: Node, height: int) -> None:
        if self._open:
            self._open[-1][0].nodes.append(node)
            self._heights[-1] = max(self._heights[-1], height)
        else:
            self._root = node

    def _count(self, event: yaml.Event, nodes: int, characters: int) -> None:
        self._nodes += nodes
        self._characters += characters
        if self._nodes <= MAX_NODES and self._characters <= MAX_CHARACTERS:
            return
        if self._aliases:
            raise self._unreadable(
                f"is a YAML bomb: its aliases expand to more than {MAX_NODES:,} values or "
                f"{MAX_CHARACTERS:,} characters",
                event,
            )
        raise self._unreadable(
            f"has more than {MAX_NODES:,} values: split it into documents with ---", event
        )

    def _check_depth(self, event: yaml.Event, below: int) -> None:
        if len(self._open) + below > MAX_DEPTH:
            raise self._unreadable(f"is nested deeper than {MAX_DEPTH} levels", event)

    def _line(self, event: yaml.Event) -> int:
        return self._first_line + (event.start_mark.line if event.start_mark else 0)

    def _unreadable(self, message: str, event: yaml.Event) -> Unreadable:
        return Unreadable(message, self._line(event))
