"""YAML 1.2 text, or data from Python, to a tree; without ever trusting its size, its depth or its aliases.

PyYAML gives the events; everything that YAML 1.1 would decide (scalars, merge keys, duplicate keys) is decided here.
Its own composer is not used: it recurses in C, and 50,000 nested brackets end the interpreter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml

from scalable.manifest.issues import ValidationIssue
from scalable.manifest.nodes import Entry, ListNode, MappingNode, Mark, Node, ScalarNode
from scalable.manifest.paths import KeyPath, format_path
from scalable.manifest.scalars import JSONScalar, is_storable_number, resolve

__all__ = ["MAX_BYTES", "MAX_DEPTH", "MAX_NODES", "Reading", "read_data", "read_text"]

MAX_BYTES = 10_000_000
"""The size of a document."""
MAX_DEPTH = 100
"""Collections within collections."""
MAX_NODES = 500_000
"""Values in a document, each alias counted with everything that it stands for."""

# What YAML allows (https://yaml.org/spec/1.2.2/#51-character-set) without the byte order mark, which nobody can see.
_NOT_ALLOWED = re.compile(
    "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)
# What an escape in double quotes can still make, and no path, environment or JSON can hold.
_NOT_TEXT = re.compile("[\x00\ud800-\udfff]")

_TAGS = {
    yaml.ScalarEvent: {"!", "tag:yaml.org,2002:str"},
    yaml.MappingStartEvent: {"!", "tag:yaml.org,2002:map"},
    yaml.SequenceStartEvent: {"!", "tag:yaml.org,2002:seq"},
}
_Loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


class Reading(NamedTuple):
    """A tree, or None where there is none to speak of; and every problem on the way."""

    root: MappingNode | None
    issues: list[ValidationIssue]


class _Stop(Exception):  # noqa: N818 - control flow of this module, never seen outside
    """The rest cannot be read; the last issue says why."""


def read_text(document: str | bytes, file: str | None) -> Reading:
    """Read YAML. `file` is what positions call it."""
    builder = _TreeBuilder(file)
    try:
        _build(_decoded(document, builder), builder)
    except _Stop:
        return Reading(None, builder.issues)
    return Reading(builder.mapping(), builder.issues)


def read_data(data: Mapping[str, Any]) -> Reading:
    """Read what ``yaml`` or ``json`` would have loaded: mappings with text keys, lists, scalars."""
    reader = _DataReader()
    try:
        root = reader.node(data, ())
    except _Stop:
        return Reading(None, reader.issues)
    return Reading(root if isinstance(root, MappingNode) else None, reader.issues)


def _decoded(document: str | bytes, builder: _TreeBuilder) -> str:
    if len(document) > MAX_BYTES:
        raise builder.stop("E_TOO_LARGE", f"the document is larger than {MAX_BYTES // 10**6} MB")
    text = document if isinstance(document, str) else _utf8(document, builder)
    text = text.removeprefix("\ufeff")
    if bad := _NOT_ALLOWED.search(text):
        message = f"character U+{ord(bad[0]):04X} is not allowed in YAML; remove it"
        raise builder.stop("E_CHARACTER", message, _mark_at(text, bad.start()))
    return text


def _utf8(document: bytes, builder: _TreeBuilder) -> str:
    if document[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise builder.stop("E_ENCODING", "the file is UTF-16; save it as UTF-8", (1, 1))
    try:
        return document.decode()
    except UnicodeDecodeError as error:
        before = document[: error.start].decode()
        message = f"byte 0x{document[error.start]:02x} is not UTF-8; save the file as UTF-8"
        raise builder.stop("E_ENCODING", message, _mark_at(before, len(before))) from None


def _mark_at(text: str, offset: int) -> Mark:
    before = text[:offset]
    return before.count("\n") + 1, len(before) - before.rfind("\n")


def _build(text: str, builder: _TreeBuilder) -> None:
    handlers = {
        yaml.ScalarEvent: builder.scalar,
        yaml.MappingStartEvent: builder.start,
        yaml.SequenceStartEvent: builder.start,
        yaml.MappingEndEvent: builder.end,
        yaml.SequenceEndEvent: builder.end,
        yaml.AliasEvent: builder.alias,
        yaml.DocumentStartEvent: builder.document,
    }
    try:
        for event in yaml.parse(text, Loader=_Loader):
            if handler := handlers.get(type(event)):
                handler(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = " ".join(part for part in (error.context, error.problem) if part)
        where = (mark.line + 1, mark.column + 1) if mark else None
        raise builder.stop("E_SYNTAX", f"not valid YAML: {problem}", where) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # The pure Python scanner lets these two out for an escape or a version number out of range.
        raise builder.stop("E_SYNTAX", f"not valid YAML: {' '.join(str(error).split())}") from None


class _Anchor(NamedTuple):
    node: Node
    size: int
    height: int


@dataclass(slots=True)
class _Frame:
    """A collection that is being read."""

    node: MappingNode | ListNode
    anchor: str | None
    size_before: int
    height: int = 1
    key: Entry | None = None
    """Of a mapping: the key whose value comes next; its node is not there yet."""
    keep: bool = True
    """Whether that value goes into the mapping; not after a key that was refused."""


_NOTHING = ScalarNode("", None, True, None, "")


@dataclass
class _TreeBuilder:
    """Builds the tree from events, with a stack of its own."""

    file: str | None
    issues: list[ValidationIssue] = field(default_factory=list)
    _root: Node | None = None
    _frames: list[_Frame] = field(default_factory=list)
    _anchors: dict[str, _Anchor | None] = field(default_factory=dict)  # None: still open
    _documents: int = 0
    _size: int = 0

    def mapping(self) -> MappingNode | None:
        """Give the document, which has to be a mapping."""
        root = self._root
        if isinstance(root, MappingNode):
            return root
        if root is None or (isinstance(root, ScalarNode) and root.value is None):
            self._report(
                "E_EMPTY", "the document is empty; `scalable init` writes one to start from", (1, 1)
            )
        else:
            kind = "a list" if isinstance(root, ListNode) else "a single value"
            message = (
                f"the document is {kind}; a manifest is a mapping that begins with `version: 1`"
            )
            self._report("E_NOT_A_MAPPING", message, root.mark)
        return None

    def document(self, event: Any) -> None:
        self._documents += 1
        if self._documents > 1:
            message = "a second document begins here; a manifest is one document"
            raise self.stop("E_MULTIPLE_DOCUMENTS", message, _mark(event))

    def scalar(self, event: Any) -> None:
        mark = _mark(event)
        plain = not event.style and event.tag is None
        text = event.value
        self._grow(1, mark)
        self._check_tag(event, mark)
        if _NOT_TEXT.search(text):
            self._report(
                "E_CHARACTER", "holds a NUL or half a surrogate pair; remove the escape", mark
            )
            text = _NOT_TEXT.sub("\ufffd", text)
        value: JSONScalar = text
        if plain:
            try:
                value = resolve(text)
            except ValueError as error:
                self._report("E_BAD_NUMBER", f"{text[:40]!r} {error}", mark)
        node = ScalarNode(text, value, plain, mark, text)
        if event.anchor is not None:
            self._anchors[event.anchor] = _Anchor(node, 1, 0)
        self._place(node, 0, mark)

    def start(self, event: Any) -> None:
        mark = _mark(event)
        if len(self._frames) == MAX_DEPTH:
            raise self.stop("E_TOO_DEEP", f"nested more than {MAX_DEPTH} deep", mark)
        self._check_tag(event, mark)
        is_mapping = type(event) is yaml.MappingStartEvent
        node = MappingNode(mark) if is_mapping else ListNode(mark)
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        self._frames.append(_Frame(node, event.anchor, self._size))
        self._grow(1, mark)

    def end(self, event: Any) -> None:
        frame = self._frames.pop()
        if frame.anchor is not None:
            size = self._size - frame.size_before
            self._anchors[frame.anchor] = _Anchor(frame.node, size, frame.height)
        self._place(frame.node, frame.height, frame.node.mark)

    def alias(self, event: Any) -> None:
        mark = _mark(event)
        if event.anchor not in self._anchors:
            self._report("E_ALIAS", f"*{event.anchor} refers to no anchor before it", mark)
            return self._place(_NOTHING, 0, mark)
        anchor = self._anchors[event.anchor]
        if anchor is None:
            self._report("E_ALIAS", f"*{event.anchor} refers to what it is part of", mark)
            return self._place(_NOTHING, 0, mark)
        if len(self._frames) + anchor.height > MAX_DEPTH:
            raise self.stop("E_TOO_DEEP", f"aliases nest more than {MAX_DEPTH} deep", mark)
        self._grow(anchor.size, mark)
        return self._place(anchor.node, anchor.height, mark)

    def _place(self, node: Node, height: int, mark: Mark | None) -> None:
        if not self._frames:
            self._root = node
            return
        frame = self._frames[-1]
        frame.height = max(frame.height, height + 1)
        if isinstance(frame.node, ListNode):
            frame.node.items.append(node)
        elif frame.key is None:
            frame.key, frame.keep = self._key(frame.node, node, mark)
        else:
            frame.key.node = node
            if frame.keep:
                frame.node.entries[frame.key.key] = frame.key
            frame.key = None

    def _key(self, mapping: MappingNode, node: Node, mark: Mark | None) -> tuple[Entry, bool]:
        if not isinstance(node, ScalarNode):
            self._report("E_BAD_KEY", "a key must be text, not a list or a mapping", mark)
            return Entry("?", mark, _NOTHING), False
        key = node.written
        if key == "<<" and node.plain:
            message = "YAML 1.2 has no merge keys; repeat what is meant, or use an overlay"
            self._report("E_MERGE_KEY", message, mark)
            return Entry(key, mark, _NOTHING), False
        if not isinstance(node.value, str):
            self._report("E_BAD_KEY", f"a key must be text; write {key!r} in quotes", mark)
        if (first := mapping.entries.get(key)) is not None:
            line = first.mark[0] if first.mark else "?"
            message = f"the key {key!r} is given twice, first in line {line}; remove one"
            self._report("E_DUPLICATE_KEY", message, mark)
            return Entry(key, mark, _NOTHING), False
        return Entry(key, mark, _NOTHING), True

    def _check_tag(self, event: Any, mark: Mark) -> None:
        if event.tag is not None and event.tag not in _TAGS[type(event)]:
            self._report("E_TAG", f"the tag {event.tag!r} means nothing here; remove it", mark)

    def _grow(self, by: int, mark: Mark) -> None:
        self._size += by
        if self._size > MAX_NODES:
            raise self.stop(
                "E_TOO_LARGE", f"more than {MAX_NODES:,} values once aliases are expanded", mark
            )

    def _report(self, code: str, message: str, mark: Mark | None) -> None:
        line, column = mark or (None, None)
        path = format_path(self._path())
        self.issues.append(ValidationIssue(path, message, code, "error", self.file, line, column))

    def _path(self) -> KeyPath:
        path: list[str | int] = []
        for frame in self._frames:
            if isinstance(frame.node, ListNode):
                path.append(len(frame.node.items))
            elif frame.key is not None:
                path.append(frame.key.key)
        return tuple(path)

    def stop(self, code: str, message: str, mark: Mark | None = None) -> _Stop:
        line, column = mark or (None, None)
        # Without its path, which is of no help here and may be a hundred keys long.
        self.issues.append(ValidationIssue("", message, code, "error", self.file, line, column))
        return _Stop()


def _mark(event: Any) -> Mark:
    mark = event.start_mark
    return mark.line + 1, mark.column + 1


@dataclass
class _DataReader:
    """Builds a tree without positions from Python data."""

    issues: list[ValidationIssue] = field(default_factory=list)
    _size: int = 0

    def node(self, data: object, path: KeyPath) -> Node:
        self._size += 1
        if self._size > MAX_NODES:
            raise self._stop("E_TOO_LARGE", f"more than {MAX_NODES:,} values")
        if isinstance(data, (Mapping, list, tuple)) and len(path) == MAX_DEPTH:
            raise self._stop("E_TOO_DEEP", f"nested more than {MAX_DEPTH} deep")
        if isinstance(data, Mapping):
            entries = {}
            for key, value in data.items():
                if text := self._key(key, path):
                    entries[text] = Entry(text, None, self.node(value, (*path, text)))
            return MappingNode(None, entries)
        if isinstance(data, (list, tuple)):
            return ListNode(None, [self.node(item, (*path, at)) for at, item in enumerate(data)])
        return self._scalar(data, path)

    def _key(self, key: object, path: KeyPath) -> str | None:
        if isinstance(key, str) and not _NOT_TEXT.search(key):
            return str.__str__(key)
        self._report("E_BAD_KEY", f"a key must be text, not {key!r:.40}", path)
        return None

    def _scalar(self, data: object, path: KeyPath) -> ScalarNode:
        value: JSONScalar = None
        if isinstance(data, str):
            value = str.__str__(data)
            if _NOT_TEXT.search(value):
                self._report("E_CHARACTER", "holds a NUL or half a surrogate pair", path)
                value = _NOT_TEXT.sub("\ufffd", value)
        elif data is None or isinstance(data, bool):
            value = data
        elif isinstance(data, (int, float)):
            if is_storable_number(data):
                value = int(data) if isinstance(data, int) else float(data)
            else:
                self._report("E_BAD_NUMBER", "is no number that 64 bits can hold", path)
        else:
            kind = type(data).__name__
            self._report(
                "E_BAD_VALUE", f"a {kind} has no place in a manifest; write it as text", path
            )
        written = value if isinstance(value, str) else _json_word(value)
        return ScalarNode(written, value, True, None, written)

    def _report(self, code: str, message: str, path: KeyPath) -> None:
        self.issues.append(ValidationIssue(format_path(path), message, code))

    def _stop(self, code: str, message: str) -> _Stop:
        self.issues.append(ValidationIssue("", message, code))
        return _Stop()


def _json_word(value: JSONScalar) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else repr(value)
