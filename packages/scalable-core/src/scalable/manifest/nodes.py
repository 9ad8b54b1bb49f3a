"""A document as a tree that remembers where each part was written and how.

The tree is JSON-like: mappings with text keys, lists, scalars. Reading, merging and expanding are functions from
tree to tree, so that positions follow a value wherever it ends up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from scalable.manifest.issues import Position, Severity, ValidationIssue
from scalable.manifest.paths import KeyPath, as_key_path, format_path
from scalable.manifest.scalars import JSONScalar

__all__ = [
    "Entry",
    "ListNode",
    "MappingNode",
    "Mark",
    "Node",
    "ScalarNode",
    "SourceMap",
    "is_expanded",
    "to_data",
    "to_written",
    "under",
]

Mark: TypeAlias = tuple[int, int]
"""Line and column, counted from 1."""


# None of these has a repr of its fields: after expansion they hold values of the environment.
@dataclass(slots=True, eq=False, repr=False)
class ScalarNode:
    """Text, a number, a boolean or null.

    Parameters
    ----------
    written : str
        The text in the document, ``${VAR}`` as it is.
    value : str, int, float, bool or None
        What it means; in an expanded tree, after expansion.
    plain : bool
        Written without quotes, so that its text may mean something else than text.
    mark : (int, int) or None
        Where.
    text : str
        The text that `value` was read from: `written`, expanded.
    problem : (str, str) or None
        Code and message where it could not be expanded; `value` is then as written.
    """

    written: str
    value: JSONScalar
    plain: bool
    mark: Mark | None
    text: str
    problem: tuple[str, str] | None = None


@dataclass(slots=True, eq=False, repr=False)
class Entry:
    """One key of a mapping with its value; the key as written, and where that is."""

    key: str
    mark: Mark | None
    node: Node


@dataclass(slots=True, eq=False, repr=False)
class MappingNode:
    """A mapping, by key (expanded, in an expanded tree)."""

    mark: Mark | None
    entries: dict[str, Entry] = field(default_factory=dict)


@dataclass(slots=True, eq=False, repr=False)
class ListNode:
    """A list."""

    mark: Mark | None
    items: list[Node] = field(default_factory=list)


Node: TypeAlias = ScalarNode | MappingNode | ListNode


def to_data(node: Node) -> Any:
    """Forget positions: dicts, lists and scalars. Recursion is bounded by the reader's limit on depth."""
    if isinstance(node, ScalarNode):
        return node.value
    if isinstance(node, MappingNode):
        return {key: to_data(entry.node) for key, entry in node.entries.items()}
    return [to_data(item) for item in node.items]


@dataclass(frozen=True, repr=False, eq=False)
class SourceMap:
    """Answers where something is written, and how.

    Parameters
    ----------
    root : Node or None
        The merged and expanded document.
    file : str or None
        The name it goes by; None for a manifest that came from Python, which has no positions.
    """

    root: Node | None = None
    file: str | None = None

    def position(self, path: str | KeyPath) -> Position | None:
        """Say where a place is written: its key, or its item of a list.

        A place that is not there (a missing key) has the position of what is nearest around it.
        """
        mark = self._walk(as_key_path(path))[1]
        if mark is None or self.file is None:
            return None
        return Position(self.file, *mark)

    def node(self, path: str | KeyPath) -> Node | None:
        """Give what is written at a place, if anything is."""
        return self._walk(as_key_path(path))[0]

    def scalar(self, path: str | KeyPath) -> ScalarNode | None:
        """Give the scalar at a place, if there is one."""
        node = self.node(path)
        return node if isinstance(node, ScalarNode) else None

    def issue(
        self, path: str | KeyPath, code: str, message: str, severity: Severity = "error"
    ) -> ValidationIssue:
        """Make an issue about a place, with its position."""
        _, mark, shown = self._walk(as_key_path(path))
        line, column = mark if mark and self.file is not None else (None, None)
        return ValidationIssue(format_path(shown), message, code, severity, self.file, line, column)

    def problems(self, path: KeyPath) -> Iterator[tuple[KeyPath, str, str]]:
        """Find what could not be expanded at a place and below: path, code and message of each."""
        return _problems(self.node(path), path)

    def redact(self, text: str, path: str | KeyPath = ()) -> str:
        """Put ``${VAR}`` back for each value of the environment that stands at a place or below it."""
        secrets = dict(_expansions(self.node(path)))
        for value in sorted(secrets, key=len, reverse=True):
            text = text.replace(value, secrets[value])
        return text

    def _walk(self, path: KeyPath) -> tuple[Node | None, Mark | None, KeyPath]:
        node = self.root
        mark = node.mark if node is not None else None
        shown: list[str | int] = []
        for at, part in enumerate(path):
            if isinstance(node, MappingNode) and (entry := _entry(node, part)) is not None:
                node, mark = entry.node, entry.mark
                shown.append(entry.key)
            elif isinstance(node, ListNode) and isinstance(part, int) and part < len(node.items):
                node = node.items[part]
                mark = node.mark
                shown.append(part)
            else:
                return None, mark, (*shown, *path[at:])
        return node, mark, tuple(shown)


def _entry(node: MappingNode, key: str | int) -> Entry | None:
    """Find an entry by its key, expanded or as written."""
    if isinstance(key, int):
        return None
    if (found := node.entries.get(key)) is not None:
        return found
    return next((entry for entry in node.entries.values() if entry.key == key), None)


def _problems(node: Node | None, path: KeyPath) -> Iterator[tuple[KeyPath, str, str]]:
    if isinstance(node, ScalarNode):
        if node.problem:
            yield path, *node.problem
    elif isinstance(node, MappingNode):
        for key, entry in node.entries.items():
            yield from _problems(entry.node, (*path, key))
    elif isinstance(node, ListNode):
        for at, item in enumerate(node.items):
            yield from _problems(item, (*path, at))


def _expansions(node: Node | None) -> Iterator[tuple[str, str]]:
    """Find every expanded text below a node, with what was written for it."""
    if isinstance(node, ScalarNode):
        if node.text and node.text != node.written:
            yield node.text, node.written
    elif isinstance(node, MappingNode):
        for key, entry in node.entries.items():
            if key != entry.key:
                yield key, entry.key
            yield from _expansions(entry.node)
    elif isinstance(node, ListNode):
        for item in node.items:
            yield from _expansions(item)


def under(node: Node | None, key: str | int) -> Node | None:
    """Give the value of a key, or the item of a list; None if there is none."""
    if isinstance(node, MappingNode) and isinstance(key, str):
        entry = node.entries.get(key)
        return entry.node if entry else None
    if isinstance(node, ListNode) and isinstance(key, int) and key < len(node.items):
        return node.items[key]
    return None


def to_written(node: Node) -> Any:
    """Forget positions, and show ``${VAR}`` wherever a value was expanded."""
    if isinstance(node, ScalarNode):
        return node.value if node.text == node.written else node.written
    if isinstance(node, MappingNode):
        return {entry.key: to_written(entry.node) for entry in node.entries.values()}
    return [to_written(item) for item in node.items]


def is_expanded(node: Node | None) -> bool:
    """Tell whether a value of the environment stands in a tree."""
    return next(_expansions(node), None) is not None
