"""Where each part of a manifest is written, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from scalable.manifest.document.nodes import Entry, ListNode, MappingNode, Mark, Node, ScalarNode
from scalable.manifest.document.paths import KeyPath, as_key_path, format_path
from scalable.manifest.issues import Position, Severity, ValidationIssue, one_line

__all__ = ["SourceMap"]

_MIN_SECRET_LENGTH = 4


@dataclass(frozen=True, repr=False, eq=False)
class SourceMap:
    """Answers where a place in a manifest is written, and what stands there.

    Parameters
    ----------
    root : MappingNode or None
        The merged and expanded document.
    file : str or None
        What the document is called; None for one that came from Python.
    variables : mapping of str to str
        The variables that were expanded, with their values.
    """

    root: MappingNode | None = None
    file: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)

    def position(self, path: str | KeyPath) -> Position | None:
        """Say where a place is written: its key, or its item of a list.

        A place that is not there (a missing key) has the position of what is nearest around it. None for a document
        that came from Python.
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
        """Make an issue about a place, with its position and without values of the environment."""
        _, mark, shown = self._walk(as_key_path(path))
        line, column = mark if mark and self.file is not None else (None, None)
        return ValidationIssue(
            path=format_path(shown),
            message=one_line(self.redact(message)),
            code=code,
            severity=severity,
            file=self.file,
            line=line,
            column=column,
        )

    def redact(self, text: str) -> str:
        """Put ``${VAR}`` back wherever a text shows the value of a variable.

        Values of less than four characters stay: they are no secrets, and every text is full of them.
        """
        by_length = sorted(self.variables.items(), key=lambda item: len(item[1]), reverse=True)
        for name, value in by_length:
            if len(value) >= _MIN_SECRET_LENGTH:
                text = text.replace(value, f"${{{name}}}")
        return text

    def _walk(self, path: KeyPath) -> tuple[Node | None, Mark | None, KeyPath]:
        """Go down a path: what is there, where it or what is nearest to it is written, and the path as written."""
        node: Node | None = self.root
        mark = node.mark if node is not None else None
        shown: list[str | int] = []
        for at, part in enumerate(path):
            if (entry := _entry(node, part)) is not None:
                node, mark = entry.node, entry.mark
                shown.append(entry.key)
            elif isinstance(node, ListNode) and isinstance(part, int) and part < len(node.items):
                node = node.items[part]
                mark = node.mark
                shown.append(part)
            else:
                return None, mark, (*shown, *path[at:])
        return node, mark, tuple(shown)


def _entry(node: Node | None, key: str | int) -> Entry | None:
    """Find an entry by its key, expanded or as written."""
    if not isinstance(node, MappingNode) or isinstance(key, int):
        return None
    if (found := node.entries.get(key)) is not None:
        return found
    return next((entry for entry in node.entries.values() if entry.key == key), None)
