"""YAML 1.2 text → a tree, without trusting its size, its depth or its aliases.

PyYAML gives the events; everything that YAML 1.1 would decide (scalars, merge keys, duplicate keys) is decided here.
Its own composer is not used: it recurses in C, and 50,000 nested brackets end the interpreter.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml

from scalable.manifest.document.decoding import UnreadableTextError, decode
from scalable.manifest.document.limits import INVALID_CHARACTERS, MAX_DEPTH, MAX_KEY, MAX_NODES
from scalable.manifest.document.nodes import (
    Entry,
    ListNode,
    MappingNode,
    Mark,
    Node,
    ReadResult,
    ScalarNode,
)
from scalable.manifest.document.paths import format_path
from scalable.manifest.document.scalars import JSONScalar, resolve
from scalable.manifest.issues import ValidationIssue, one_line

__all__ = ["read_text"]

# libyaml's parser where PyYAML was built with it, else the same in Python.
_FAST_LOADER = getattr(yaml, "CBaseLoader", yaml.BaseLoader)

_TAGS_WITHOUT_EFFECT = {
    yaml.ScalarEvent: {"!", "tag:yaml.org,2002:str"},
    yaml.MappingStartEvent: {"!", "tag:yaml.org,2002:map"},
    yaml.SequenceStartEvent: {"!", "tag:yaml.org,2002:seq"},
}


def read_text(document: str | bytes, file: str) -> ReadResult:
    """Return the tree of a YAML document. `file` is its name in positions."""
    try:
        text = decode(document)
    except UnreadableTextError as error:
        builder = _TreeBuilder(file)
        builder.report(error.code, str(error), error.mark)
        return ReadResult(None, builder.issues)
    # YAML forbids tabs in indentation, but a line of nothing else has none; libyaml refuses some of those.
    text = _BLANK_WITH_TAB.sub(lambda blank: blank[0].replace("\t", " "), text)
    try:
        result = _read(text, file, _FAST_LOADER)
    except _ScannerDepthError:
        result = _read(text, file, yaml.BaseLoader)
    if result.root is None and _is_python(text):
        builder = _TreeBuilder(file)
        builder.report("E_NOT_A_MAPPING", _PYTHON, (1, 1))
        return ReadResult(None, builder.issues)
    return result


_BLANK_WITH_TAB = re.compile(r"^[ \t]*\t[ \t]*(?=#|\r?$)", re.MULTILINE)

_PYTHON = (
    "this is a Python program, not a manifest; a run takes both, each in its place: "
    "`scalable run scalable.yaml --workflow workflow.py`"
)


def _read(text: str, file: str, loader: Any) -> ReadResult:
    builder = _TreeBuilder(file)
    try:
        builder.build(text, loader)
    except yaml.MarkedYAMLError as error:
        if loader is not yaml.BaseLoader and _SCANNER_DEPTH in (error.problem or ""):
            raise _ScannerDepthError from error
        builder.report("E_SYNTAX", *_describe(error, text))
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # The two builtins come from PyYAML's own scanner: an escape or a version number out of range.
        builder.report("E_SYNTAX", f"not valid YAML: {error}", None)
    except _LimitError as error:
        builder.report(error.code, str(error), error.mark)
    else:
        return ReadResult(builder.mapping(), builder.issues)
    return ReadResult(None, builder.issues)


def _describe(error: yaml.MarkedYAMLError, text: str) -> tuple[str, Mark | None]:
    """Return the message for an error of PyYAML's, with what to write instead where that is clear, and its position."""
    problem = ", ".join(part for part in (error.context, error.problem) if part)
    message = f"not valid YAML: {problem}"
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return message, None
    line, column = _mark_of(mark)
    written = "".join(text.split("\n")[line - 1 : line])
    if (tab := written.find("\t")) >= 0 and not written[:tab].strip(" -?:"):
        message = "not valid YAML: a tab; indent with spaces instead"
        return message, (line, tab + 1)
    if "flow" in message and "${" in written:
        message += "; between { } or [ ], a ${VAR} needs quotes around it"
    elif error.context_mark is not None and (begun := _mark_of(error.context_mark)) < (line, 0):
        message += f"; it begins in line {begun[0]}, column {begun[1]}"
    elif "escape character" in message:
        message += r"; write \\ for \, or use single quotes"
    elif (first := written[column - 1 : column]) and "start any token" in message:
        message += f"; text that begins with {first} needs quotes around it"
    elif "mapping values are not allowed" in message:
        message += "; text with a colon and a blank in it needs quotes around it"
    elif "scanning an alias" in message or "scanning an anchor" in message:
        message += "; text that begins with * or & needs quotes around it"
    return message, (line, column)


def _is_python(text: str) -> bool:
    r"""Return whether a text that is no manifest is a Python program.

    Examples
    --------
    >>> _is_python("import sys\nprint(sys.argv)\n"), _is_python("version: 1\nproject\n"), _is_python("climate")
    (True, False, False)
    """
    if not re.search(r"^(from|import|def|class|with|if|for|print\()", text, re.MULTILINE):
        return False
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


class _ScannerDepthError(Exception):
    """libyaml's scanner has met its own limit of depth, which is above ours.

    It reads up to a line ahead of the event that it returns, so ``[`` a thousand times raises this before the hundredth
    of them is seen here. The scanner in Python has no limit and stops at ours, at the same place as without libyaml.
    """


_SCANNER_DEPTH = "nesting depth"
"""In the message of that error, since PyYAML 6.0.4."""


class _LimitError(Exception):
    """The rest of the document is not read."""

    def __init__(self, code: str, message: str, mark: Mark) -> None:
        self.code, self.mark = code, mark
        super().__init__(message)


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
    """Of a mapping: the key whose value comes next."""
    keep: bool = True
    """Whether that value goes into the mapping; False after a key that was refused."""
    is_merge: bool = False
    """Whether that key is ``<<``."""
    merged: list[MappingNode] = field(default_factory=list)
    """Of a mapping: those whose keys it has, too, where it does not have its own."""


_NULL = ScalarNode("", None, plain=True, mark=None, text="")


@dataclass
class _TreeBuilder:
    """Builds the tree from events, with a stack of its own."""

    file: str
    issues: list[ValidationIssue] = field(default_factory=list)
    root: Node | None = None
    frames: list[_Frame] = field(default_factory=list)
    anchors: dict[str, _Anchor | None] = field(default_factory=dict)
    """None for a collection that is still open."""
    size: int = 0
    documents: int = 0
    second: Mark | None = None
    """Where a second document begins, which may only be empty: after a ``---`` at the end."""

    def build(self, text: str, loader: Any) -> None:
        handlers = {
            yaml.ScalarEvent: self.scalar,
            yaml.MappingStartEvent: self.start,
            yaml.SequenceStartEvent: self.start,
            yaml.MappingEndEvent: self.end,
            yaml.SequenceEndEvent: self.end,
            yaml.AliasEvent: self.alias,
            yaml.DocumentStartEvent: self.document,
        }
        for event in yaml.parse(text, Loader=loader):
            if self.second is not None and isinstance(event, yaml.NodeEvent):
                if isinstance(event, yaml.ScalarEvent) and not event.value and not event.style:
                    continue
                message = "a second document begins here; a manifest is one document"
                raise _LimitError("E_MULTIPLE_DOCUMENTS", message, self.second)
            handler = handlers.get(type(event))
            if handler:
                handler(event, _mark_of(event.start_mark))

    def mapping(self) -> MappingNode | None:
        """Return the document, which has to be a mapping."""
        root = self.root
        if isinstance(root, MappingNode):
            return root
        if root is None or (isinstance(root, ScalarNode) and root.value is None):
            message = "the document is empty; `scalable init` writes one to start from"
            self.report("E_EMPTY", message, (1, 1))
        else:
            kind = "a list" if isinstance(root, ListNode) else "a single value"
            message = f"the document is {kind}, not a mapping that begins with `version: 1`"
            self.report("E_NOT_A_MAPPING", message, root.mark)
        return None

    def document(self, event: Any, mark: Mark) -> None:
        self.documents += 1
        if self.documents > 1 and self.second is None:
            self.second = mark

    def scalar(self, event: Any, mark: Mark) -> None:
        self._grow(1, mark)
        self._check_tag(event, mark)
        text = event.value
        if INVALID_CHARACTERS.search(text):
            message = "contains a NUL or an unpaired surrogate; remove the escape"
            self.report("E_CHARACTER", message, mark)
            text = INVALID_CHARACTERS.sub("\ufffd", text)
        plain = not event.style and event.tag is None
        value: JSONScalar = text
        if plain:
            try:
                value = resolve(text)
            except ValueError as error:
                self.report("E_BAD_NUMBER", f"{text!r:.40} {error}", mark)
        node = ScalarNode(text, value, plain, mark, text)
        if event.anchor is not None:
            self.anchors[event.anchor] = _Anchor(node, 1, 0)
        self._place(node, 0, mark)

    def start(self, event: Any, mark: Mark) -> None:
        if len(self.frames) == MAX_DEPTH:
            raise _LimitError("E_TOO_DEEP", f"nested more than {MAX_DEPTH} deep", mark)
        self._check_tag(event, mark)
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        is_mapping = type(event) is yaml.MappingStartEvent
        node = MappingNode(mark) if is_mapping else ListNode(mark)
        self.frames.append(_Frame(node, event.anchor, self.size))
        self._grow(1, mark)

    def end(self, event: Any, mark: Mark) -> None:
        frame = self.frames.pop()
        if isinstance(frame.node, MappingNode) and frame.merged:
            # The first of several has precedence: https://yaml.org/type/merge.html
            keys = {k: e for each in reversed(frame.merged) for k, e in each.entries.items()}
            frame.node.entries = keys | frame.node.entries
        if frame.anchor is not None:
            size = self.size - frame.size_before
            self.anchors[frame.anchor] = _Anchor(frame.node, size, frame.height)
        self._place(frame.node, frame.height, frame.node.mark or mark)

    def alias(self, event: Any, mark: Mark) -> None:
        anchor = self.anchors.get(event.anchor)
        if anchor is None:
            is_open = event.anchor in self.anchors
            what = (
                "a value that contains it" if is_open else "an anchor that is not defined before it"
            )
            self.report("E_ALIAS", f"*{event.anchor} refers to {what}", mark)
            anchor = _Anchor(_NULL, 1, 0)
        if len(self.frames) + anchor.height > MAX_DEPTH:
            raise _LimitError("E_TOO_DEEP", f"aliases nest more than {MAX_DEPTH} deep", mark)
        self._grow(anchor.size, mark)
        self._place(anchor.node, anchor.height, mark)

    def _place(self, node: Node, height: int, mark: Mark) -> None:
        """Add a finished node to its parent: as the root, an item, a key or a value."""
        if not self.frames:
            self.root = node
            return
        frame = self.frames[-1]
        frame.height = max(frame.height, height + 1)
        if isinstance(frame.node, ListNode):
            frame.node.items.append(node)
        elif frame.key is None:
            key = node.written if isinstance(node, ScalarNode) else "?"
            frame.key = Entry(key[:MAX_KEY], mark, _NULL)
            frame.is_merge = key == "<<" and isinstance(node, ScalarNode) and node.plain
            frame.keep = not frame.is_merge and self._is_usable_key(node, key, frame.node, mark)
        else:
            frame.key.node = node
            if frame.is_merge:
                frame.merged += self._mappings_in(node, mark)
            elif frame.keep:
                frame.node.entries[frame.key.key] = frame.key
            frame.key = None

    def _mappings_in(self, node: Node, mark: Mark) -> list[MappingNode]:
        """Return the mappings that a merge key names."""
        named = node.items if isinstance(node, ListNode) else [node]
        found = [each for each in named if isinstance(each, MappingNode)]
        if len(found) < len(named):
            message = "`<<` takes a mapping or a list of them, such as `<<: *name`"
            self.report("E_MERGE_KEY", message, mark)
        return found

    def _is_usable_key(self, node: Node, key: str, mapping: MappingNode, mark: Mark) -> bool:
        if not isinstance(node, ScalarNode):
            self.report("E_BAD_KEY", "a key must be text, not a list or a mapping", mark)
            return False
        if len(key) > MAX_KEY:
            self.report("E_BAD_KEY", f"a key has at most {MAX_KEY:,} characters", mark)
            return False
        if not isinstance(node.value, str):
            self.report("E_BAD_KEY", f"a key must be text; write {key!r} in quotes", mark)
        if (first := mapping.entries.get(key)) is not None:
            line = first.mark[0] if first.mark else 0
            message = f"duplicate key {key!r}, first in line {line}; remove one"
            self.report("E_DUPLICATE_KEY", message, mark)
            return False
        return True

    def _check_tag(self, event: Any, mark: Mark) -> None:
        if event.tag is not None and event.tag not in _TAGS_WITHOUT_EFFECT[type(event)]:
            self.report("E_TAG", f"the tag {event.tag!r} is not supported; remove it", mark)

    def _grow(self, by: int, mark: Mark) -> None:
        self.size += by
        if self.size > MAX_NODES:
            message = f"more than {MAX_NODES:,} values, aliases counted with what they stand for"
            raise _LimitError("E_TOO_LARGE", message, mark)

    def report(self, code: str, message: str, mark: Mark | None) -> None:
        path: list[str | int] = []
        if code not in _WITHOUT_PATH:
            for frame in self.frames:
                if isinstance(frame.node, ListNode):
                    path.append(len(frame.node.items))
                elif frame.key is not None:
                    path.append(frame.key.key)
        line, column = mark or (None, None)
        where, what = format_path(tuple(path)), one_line(message)
        self.issues.append(
            ValidationIssue(where, what, code, file=self.file, line=line, column=column)
        )


# Problems of the whole document; the path to where they show may be a hundred keys long.
_WITHOUT_PATH = {"E_TOO_DEEP", "E_TOO_LARGE", "E_SYNTAX", "E_MULTIPLE_DOCUMENTS"}


def _mark_of(mark: Any) -> Mark:
    """Return a mark of PyYAML's, which counts from 0."""
    return mark.line + 1, mark.column + 1
