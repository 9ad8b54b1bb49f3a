"""``${VAR}`` and ``${VAR:-default}``.

Text of any value is expanded, and so are the host paths of ``mounts``, which are keys. A bare ``$HOME`` stays, and
``$${`` is a literal ``${``. As in a shell, a default also stands for a variable that is set to nothing. What a
variable holds is not expanded again. A scalar without quotes is read by the rules of YAML after expansion, so that
``cpus: ${N}`` is a number and ``account: ${ACCOUNT:-}`` may be null; one in quotes is text, to begin with.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace

from scalable.manifest.document.limits import INVALID_CHARACTERS
from scalable.manifest.document.nodes import Entry, ListNode, MappingNode, Node, ScalarNode
from scalable.manifest.document.paths import KeyPath
from scalable.manifest.document.scalars import JSONScalar, resolve

__all__ = ["ExpansionError", "expand_node", "expand_sections", "expand_text", "variables_in"]

_VARIABLE = re.compile(
    r"""
    (?P<escape> \$\$\{ )
    | \$\{ (?P<name> [A-Za-z_][A-Za-z0-9_]* ) (?: :- (?P<default> [^{}]* ) )? \}
    | (?P<malformed> \$\{ [^{}]{0,40} \}? )
    """,
    re.VERBOSE,
)


class ExpansionError(ValueError):
    """A text that cannot be expanded; the message names the variable, never its value."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


def variables_in(text: str) -> set[str]:
    """Return the names of the variables in a text.

    Examples
    --------
    >>> sorted(variables_in("${USER:-nobody}@${HOST} in $HOME and $${PWD}"))
    ['HOST', 'USER']
    """
    return {match["name"] for match in _VARIABLE.finditer(text) if match["name"]}


def expand_text(text: str, env: Mapping[str, str]) -> str:
    """Return a text with every variable expanded.

    Raises
    ------
    ExpansionError
        A variable without default is not set, or a ``${`` does not begin a valid variable reference.

    Examples
    --------
    >>> expand_text("${USER:-nobody} at $HOME in $${HOME}", {})
    'nobody at $HOME in ${HOME}'
    """
    unset = dict.fromkeys(
        match["name"]
        for match in _VARIABLE.finditer(text)
        if match["name"] and match["default"] is None and env.get(match["name"]) is None
    )
    if unset:
        verb, them = ("is", "it") if len(unset) == 1 else ("are", "them")
        message = (
            f"{' and '.join(unset)} {verb} not set in the environment; "
            f"set {them}, or write ${{{next(iter(unset))}:-default}}"
        )
        raise ExpansionError("E_UNSET_VARIABLE", message)
    return _VARIABLE.sub(lambda match: _value_of(match, env), text)


def _value_of(match: re.Match[str], env: Mapping[str, str]) -> str:
    if match["escape"]:
        return "${"
    if match["malformed"]:
        forms = "write ${NAME} or ${NAME:-default}, or $${ for a literal ${"
        raise ExpansionError(
            "E_BAD_VARIABLE", f"{match[0]!r} is not a valid variable reference: {forms}"
        )
    value = env.get(match["name"]) or match["default"] or ""
    if INVALID_CHARACTERS.search(value):
        raise ExpansionError("E_BAD_VARIABLE", f"the value of {match['name']} is not UTF-8 text")
    return value


def expand_sections(
    root: MappingNode, sections: Collection[str], env: Mapping[str, str]
) -> MappingNode:
    """Return a document with these sections expanded."""
    entries = {
        key: Entry(entry.key, entry.mark, expand_node(entry.node, env, (key,)))
        if key in sections
        else entry
        for key, entry in root.entries.items()
    }
    return MappingNode(root.mark, entries, has_variables=True)


def expand_node(node: Node, env: Mapping[str, str], path: KeyPath) -> Node:
    """Return the tree at `path`, expanded.

    What cannot be expanded stays as written, with its problem; unchanged parts are shared.
    """
    if isinstance(node, ScalarNode):
        return _expand_scalar(node, env) if "${" in node.written else node
    if isinstance(node, MappingNode):
        return _expand_mapping(node, env, path)
    items = [expand_node(item, env, (*path, index)) for index, item in enumerate(node.items)]
    same = all(new is old for new, old in zip(items, node.items, strict=True))
    return node if same else ListNode(node.mark, items, has_variables=True)


def _expand_scalar(node: ScalarNode, env: Mapping[str, str]) -> ScalarNode:
    try:
        text = expand_text(node.written, env)
        value: JSONScalar = resolve(text) if node.plain else text
    except ExpansionError as error:
        return replace(node, problem=(error.code, str(error)))
    except ValueError as error:
        return replace(node, problem=("E_BAD_NUMBER", f"{node.written!r}, expanded, {error}"))
    return replace(node, value=value, text=text)


def _expand_mapping(node: MappingNode, env: Mapping[str, str], path: KeyPath) -> MappingNode:
    entries: dict[str, Entry] = {}
    for key, entry in node.entries.items():
        value = (
            entry.node
            if _is_extension_key(path, key)
            else expand_node(entry.node, env, (*path, key))
        )
        if _is_mounts_path(path):
            key, value = _expand_key(key, value, env, entries)
        entries[key] = entry if value is entry.node else Entry(entry.key, entry.mark, value)
    same = entries == node.entries  # entries are equal if they are the same
    return node if same else MappingNode(node.mark, entries, has_variables=True)


def _is_extension_key(path: KeyPath, key: str) -> bool:
    """Return whether a key of the project, a target, a component or a task is the user's own."""
    return key.startswith("x-") and len(path) == (1 if path[:1] == ("project",) else 2)


def _is_mounts_path(path: KeyPath) -> bool:
    return len(path) == 3 and path[0] == "components" and path[2] == "mounts"


def _expand_key(
    key: str, value: Node, env: Mapping[str, str], taken: Mapping[str, Entry]
) -> tuple[str, Node]:
    """Return a key, expanded, and its value; a problem with the key goes to the value."""
    try:
        expanded = expand_text(key, env)
        if expanded not in taken:
            return expanded, value
        problem = ("E_DUPLICATE_KEY", "is the same as another key, once variables are expanded")
    except ExpansionError as error:
        problem = (error.code, str(error))
    return key, replace(value, problem=problem) if isinstance(value, ScalarNode) else value
