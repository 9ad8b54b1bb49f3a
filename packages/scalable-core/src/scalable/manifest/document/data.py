"""Data that Python has already loaded → a tree without positions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from scalable.manifest.document.limits import INVALID_CHARACTERS, MAX_DEPTH, MAX_KEY, MAX_NODES
from scalable.manifest.document.nodes import (
    Entry,
    ListNode,
    MappingNode,
    Node,
    ReadResult,
    ScalarNode,
)
from scalable.manifest.document.paths import KeyPath, format_path
from scalable.manifest.document.scalars import JSONScalar, is_storable_number
from scalable.manifest.issues import ValidationIssue

__all__ = ["read_data"]


def read_data(data: Mapping[str, Any]) -> ReadResult:
    """Return the tree of what ``json`` or ``yaml`` loads: mappings with text keys, lists, scalars.

    Text with variables counts as written without quotes: ``{"cpus": "${N}"}`` is a number.
    """
    if not isinstance(data, Mapping):
        message = f"a manifest is a mapping, not a {type(data).__name__}"
        return ReadResult(None, [ValidationIssue("", message, "E_NOT_A_MAPPING")])
    reader = _DataReader()
    try:
        return ReadResult(reader.mapping(data, ()), reader.issues)
    except _TooLargeError as error:
        return ReadResult(None, [*reader.issues, error.issue])


class _TooLargeError(Exception):
    """Data beyond a limit, such as data that contains itself."""

    def __init__(self, code: str, message: str) -> None:
        self.issue = ValidationIssue("", message, code)
        super().__init__(message)


@dataclass
class _DataReader:
    issues: list[ValidationIssue] = field(default_factory=list)
    size: int = 0

    def mapping(self, data: Mapping[Any, Any], path: KeyPath) -> MappingNode:
        entries: dict[str, Entry] = {}
        for key, value in data.items():
            if isinstance(key, str) and len(key) <= MAX_KEY and not INVALID_CHARACTERS.search(key):
                text = str.__str__(key)  # an enumeration's own would be another text
                entries[text] = Entry(text, None, self.node(value, (*path, text)))
            else:
                self._report(
                    path,
                    "E_BAD_KEY",
                    f"a key must be text of at most {MAX_KEY:,} characters, not {key!r:.40}",
                )
        return MappingNode(None, entries)

    def node(self, data: object, path: KeyPath) -> Node:
        self.size += 1
        if self.size > MAX_NODES:
            raise _TooLargeError("E_TOO_LARGE", f"more than {MAX_NODES:,} values")
        if isinstance(data, (Mapping, list, tuple)):
            if len(path) >= MAX_DEPTH:
                raise _TooLargeError("E_TOO_DEEP", f"nested more than {MAX_DEPTH} deep")
            if isinstance(data, Mapping):
                return self.mapping(data, path)
            return ListNode(None, [self.node(item, (*path, i)) for i, item in enumerate(data)])
        value = self._scalar(data, path)
        written = value if isinstance(value, str) else _as_json(value)
        return ScalarNode(written, value, plain=True, mark=None, text=written)

    def _scalar(self, data: object, path: KeyPath) -> JSONScalar:
        if data is None or isinstance(data, bool):
            return data
        if isinstance(data, str):
            if INVALID_CHARACTERS.search(data):
                self._report(path, "E_CHARACTER", "contains a NUL or an unpaired surrogate")
            return INVALID_CHARACTERS.sub("\ufffd", data)
        if isinstance(data, (int, float)):
            if is_storable_number(data):
                return int(data) if isinstance(data, int) else float(data)
            self._report(path, "E_BAD_NUMBER", "is not finite, or too large for 64 bits")
            return None
        kind = type(data).__name__
        self._report(path, "E_BAD_VALUE", f"a manifest cannot hold a {kind}; write it as text")
        return None

    def _report(self, path: KeyPath, code: str, message: str) -> None:
        self.issues.append(ValidationIssue(format_path(path), message, code))


def _as_json(value: float | bool | None) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else repr(value)
