"""A value of a document together with its place: what is written there, its path and its position.

A `Place` is handed from one stage to the next, so that each of them can go further down and report a problem without
asking another one where something was written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from scalable.manifest.document.nodes import (
    Entry,
    ListNode,
    MappingNode,
    Mark,
    Node,
    ScalarNode,
    to_data,
)
from scalable.manifest.document.paths import KeyPath, format_path, parse_path
from scalable.manifest.document.redaction import redact
from scalable.manifest.issues import Position, Severity, ValidationIssue, one_line

__all__ = ["Place", "Problem", "Source"]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Source:
    """Where a document comes from.

    Parameters
    ----------
    file : str or None
        What the document is called; None for one that came from Python.
    variables : mapping of str to str
        The variables that were expanded, with their values.
    """

    file: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)

    def redact(self, text: str) -> str:
        """Return a text with ``${VAR}`` wherever it shows the value of a variable; see `redaction`."""
        return redact(text, self.variables)


# No repr of the fields: after expansion they hold values of the environment.
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Place:
    """A value of a document, with its place.

    Parameters
    ----------
    node : Node or None
        What is written there; None if nothing is.
    path : tuple
        Its keys from the top of the document down, as they are written.
    mark : (int, int) or None
        Where its key is written, or where it is as an item of a list; for what is not there, the mark of what is
        nearest around it. None for what came from Python.
    source : Source
        Where the document comes from.
    """

    node: Node | None = None
    path: KeyPath = ()
    mark: Mark | None = None
    source: Source = field(default_factory=Source)

    @classmethod
    def of_document(cls, root: MappingNode, source: Source) -> Self:
        """Return the place of a whole document."""
        return cls(root, (), root.mark, source)

    @property
    def position(self) -> Position | None:
        """Where it is written; None for a document that came from Python."""
        if self.mark is None or self.source.file is None:
            return None
        return Position(self.source.file, *self.mark)

    @property
    def scalar(self) -> ScalarNode | None:
        """The node, if it is a scalar."""
        return self.node if isinstance(self.node, ScalarNode) else None

    @property
    def data(self) -> Any:
        """What it means, as dicts, lists and scalars; None if nothing is written."""
        return None if self.node is None else to_data(self.node)

    def child(self, part: str | int) -> Place:
        """Return the place of a key, expanded or as written, or of an index; it may be empty."""
        node = self.node
        if (entry := _entry(node, part)) is not None:
            return Place(entry.node, (*self.path, entry.key), entry.mark, self.source)
        if isinstance(node, ListNode) and isinstance(part, int) and part < len(node.items):
            item = node.items[part]
            return Place(item, (*self.path, part), item.mark, self.source)
        return Place(None, (*self.path, part), self.mark, self.source)

    def at(self, path: str | KeyPath) -> Place:
        """Return the place at a path from here."""
        place = self
        for part in parse_path(path) if isinstance(path, str) else path:
            place = place.child(part)
        return place

    def entries(self) -> Iterator[tuple[str, Place]]:
        """Yield each key of a mapping, expanded, with its place; nothing if this is not a mapping."""
        if isinstance(self.node, MappingNode):
            for key, entry in self.node.entries.items():
                yield key, Place(entry.node, (*self.path, entry.key), entry.mark, self.source)

    def items(self) -> Iterator[Place]:
        """Yield the place of each item of a list; nothing if this is not a list."""
        if isinstance(self.node, ListNode):
            for index, item in enumerate(self.node.items):
                yield Place(item, (*self.path, index), item.mark, self.source)

    def unexpanded(self) -> Iterator[Problem]:
        """Find what could not be expanded here and below."""
        node = self.node
        if isinstance(node, ScalarNode):
            if node.problem is not None:
                yield Problem(self, *node.problem)
        elif node is not None and node.has_variables:
            for inner in (*(place for _, place in self.entries()), *self.items()):
                yield from inner.unexpanded()

    def issue(self, code: str, message: str, severity: Severity = "error") -> ValidationIssue:
        """Return an issue about this place, without values of the environment."""
        position = self.position
        return ValidationIssue(
            path=format_path(self.path),
            message=one_line(self.source.redact(message)),
            code=code,
            severity=severity,
            file=self.source.file,
            line=position and position.line,
            column=position and position.column,
        )


class Problem(NamedTuple):
    """What is wrong at a place."""

    place: Place
    code: str
    message: str
    severity: Severity = "error"


def _entry(node: Node | None, key: str | int) -> Entry | None:
    """Find an entry by its key, expanded or as written."""
    if not isinstance(node, MappingNode) or isinstance(key, int):
        return None
    if (found := node.entries.get(key)) is not None:
        return found
    return next((entry for entry in node.entries.values() if entry.key == key), None)
