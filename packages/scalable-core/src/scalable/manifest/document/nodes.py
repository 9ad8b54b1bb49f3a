"""A document as a tree that keeps where each part was written, and how.

The tree is JSON-like: mappings with text keys, lists, scalars. Reading, merging and expanding are functions from
tree to tree, so that a value keeps its position wherever it moves. Recursion is bounded by the limit on depth that
every reader keeps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from scalable.manifest.document.scalars import JSONScalar
from scalable.manifest.issues import ValidationIssue

__all__ = [
    "Entry",
    "ListNode",
    "MappingNode",
    "Mark",
    "Node",
    "ReadResult",
    "ScalarNode",
    "child",
    "is_expanded",
    "mentions_variable",
    "to_data",
    "to_written",
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
        Written without quotes, so that the text may mean something else than text.
    mark : (int, int) or None
        Line and column; None for what came from Python.
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
    """A key as it is written, where that is, and its value."""

    key: str
    mark: Mark | None
    node: Node


@dataclass(slots=True, eq=False, repr=False)
class MappingNode:
    """A mapping, by key; by expanded key, in an expanded tree.

    `has_variables` of it and of a list: something inside was expanded, or should have been.
    """

    mark: Mark | None
    entries: dict[str, Entry] = field(default_factory=dict)
    has_variables: bool = False


@dataclass(slots=True, eq=False, repr=False)
class ListNode:
    """A list."""

    mark: Mark | None
    items: list[Node] = field(default_factory=list)
    has_variables: bool = False


Node: TypeAlias = ScalarNode | MappingNode | ListNode


class ReadResult(NamedTuple):
    """The tree that a reader made, or None if it could not, and every problem on the way."""

    root: MappingNode | None
    issues: list[ValidationIssue]


def child(node: Node | None, part: str | int) -> Node | None:
    """Return the value of a key, or an item of a list; None if there is none."""
    if isinstance(node, MappingNode) and isinstance(part, str):
        entry = node.entries.get(part)
        return entry.node if entry else None
    if isinstance(node, ListNode) and isinstance(part, int) and part < len(node.items):
        return node.items[part]
    return None


def to_data(node: Node) -> Any:
    """Return what a tree means, as dicts, lists and scalars."""
    if isinstance(node, ScalarNode):
        return node.value
    if isinstance(node, MappingNode):
        return {key: to_data(entry.node) for key, entry in node.entries.items()}
    return [to_data(item) for item in node.items]


def to_written(node: Node) -> Any:
    """Return the same as `to_data`, with ``${VAR}`` in place of its value."""
    if isinstance(node, ScalarNode):
        return node.value if node.text == node.written else node.written
    if isinstance(node, MappingNode):
        return {entry.key: to_written(entry.node) for entry in node.entries.values()}
    return [to_written(item) for item in node.items]


def is_expanded(node: Node) -> bool:
    """Return whether anything in a tree is not as it was written."""
    if isinstance(node, ScalarNode):
        return node.text != node.written
    if not node.has_variables:
        return False
    if isinstance(node, MappingNode):
        return any(
            key != entry.key or is_expanded(entry.node) for key, entry in node.entries.items()
        )
    return any(is_expanded(item) for item in node.items)


def mentions_variable(node: Node) -> bool:
    """Return whether anything in a tree is written with a ``${``, keys included."""
    if isinstance(node, ScalarNode):
        return "${" in node.written
    if isinstance(node, MappingNode):
        return any(
            "${" in entry.key or mentions_variable(entry.node) for entry in node.entries.values()
        )
    return any(mentions_variable(item) for item in node.items)
