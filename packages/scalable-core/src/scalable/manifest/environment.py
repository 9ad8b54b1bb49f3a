"""``${VAR}`` and ``${VAR:-default}``.

Text of any value is expanded, and the host paths of ``mounts``, which are keys. A bare ``$HOME`` stays, and ``$${``
is a literal ``${``. As in a shell, a default also stands for a variable that is set to nothing. What a variable holds
is not expanded again. A scalar without quotes is read by the rules of YAML after expansion, so that ``cpus: ${N}``
is a number and ``account: ${ACCOUNT:-}`` may be null; one in quotes stays text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from scalable.manifest.nodes import Entry, ListNode, MappingNode, Node, ScalarNode
from scalable.manifest.paths import KeyPath
from scalable.manifest.scalars import JSONScalar, resolve

__all__ = ["ExpansionError", "expand_node", "expand_text"]

_VARIABLE = re.compile(
    r"""
    (?P<escape>\$\$\{)
    | \$\{ (?P<name>[A-Za-z_][A-Za-z0-9_]*) (?: :-(?P<default>[^{}]*) )? \}
    | (?P<malformed>\$\{ [^{}]{0,40} \}?)
    """,
    re.VERBOSE,
)
_NOT_TEXT = re.compile("[\x00\ud800-\udfff]")


class ExpansionError(ValueError):
    """A text cannot be expanded; the message names the variable, never its value."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


def expand_text(text: str, env: Mapping[str, str]) -> str:
    """Expand every variable of a text.

    Raises
    ------
    ExpansionError
        A variable without default is not set, or a ``${`` begins no variable.

    Examples
    --------
    >>> expand_text("${USER:-nobody} at $HOME in $${HOME}", {})
    'nobody at $HOME in ${HOME}'
    """

    def value_of(match: re.Match[str]) -> str:
        if match["escape"]:
            return "${"
        if match["malformed"]:
            raise ExpansionError(
                "E_BAD_VARIABLE",
                f"{match[0]!r} is no variable: write ${{NAME}} or ${{NAME:-default}}, or $${{ for a literal ${{",
            )
        name, default = match["name"], match["default"]
        value = env.get(name)
        if not value and default is not None:
            return default
        if value is None:
            raise ExpansionError(
                "E_UNSET_VARIABLE",
                f"the variable {name} is not set; set it, or write ${{{name}:-default}}",
            )
        if _NOT_TEXT.search(value):
            raise ExpansionError("E_BAD_VARIABLE", f"the variable {name} does not hold UTF-8 text")
        return value

    return _VARIABLE.sub(value_of, text)


def expand_node(node: Node, env: Mapping[str, str], path: KeyPath = ()) -> Node:
    """Expand a tree. What cannot be expanded stays as written, with its problem; what needs no change is shared."""
    if isinstance(node, ScalarNode):
        return _expanded_scalar(node, env) if "${" in node.written else node
    if isinstance(node, MappingNode):
        return _expanded_mapping(node, env, path)
    items = [expand_node(item, env, (*path, at)) for at, item in enumerate(node.items)]
    same = all(new is old for new, old in zip(items, node.items, strict=True))
    return node if same else ListNode(node.mark, items)


def _expanded_scalar(node: ScalarNode, env: Mapping[str, str]) -> ScalarNode:
    try:
        text = expand_text(node.written, env)
        value: JSONScalar = resolve(text) if node.plain else text
    except ExpansionError as error:
        return replace(node, problem=(error.code, str(error)))
    except ValueError as error:
        return replace(node, problem=("E_BAD_NUMBER", f"{node.written!r}, expanded, {error}"))
    return replace(node, value=value, text=text)


def _expanded_mapping(node: MappingNode, env: Mapping[str, str], path: KeyPath) -> MappingNode:
    is_mounts = len(path) == 3 and path[0] == "components" and path[2] == "mounts"
    entries: dict[str, Entry] = {}
    for key, entry in node.entries.items():
        value = expand_node(entry.node, env, (*path, key))
        if is_mounts and "${" in key:
            key, value = _expanded_key(key, value, env, entries)
        entries[key] = entry if value is entry.node else Entry(entry.key, entry.mark, value)
    same = all(new is old for new, old in zip(entries.values(), node.entries.values(), strict=True))
    return (
        node if same and entries.keys() == node.entries.keys() else MappingNode(node.mark, entries)
    )


def _expanded_key(
    key: str, value: Node, env: Mapping[str, str], taken: Mapping[str, Entry]
) -> tuple[str, Node]:
    try:
        expanded = expand_text(key, env)
        if expanded not in taken:
            return expanded, value
        problem = ("E_DUPLICATE_KEY", "once expanded, this key is the same as another one")
    except ExpansionError as error:
        problem = (error.code, str(error))
    return key, replace(value, problem=problem) if isinstance(value, ScalarNode) else value
