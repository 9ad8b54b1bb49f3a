"""Messages for the errors that pydantic finds.

pydantic's messages never reach users: they would quote values that came from the environment. What is quoted here is
what was written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from scalable.errors import did_you_mean
from scalable.manifest.document.nodes import ListNode, MappingNode, Node, ScalarNode
from scalable.manifest.document.place import Place, Problem
from scalable.manifest.document.scalars import resolve
from scalable.manifest.schema import (
    NAME_PATTERN,
    NAME_RULE,
    ComponentConfig,
    ProjectConfig,
    TaskConfig,
)

__all__ = ["describe_errors", "field_names"]

_EXPECTED = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "enum": "{expected}",
    "finite_number": "a number",
    "float_parsing": "a number",
    "float_type": "a number",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "int_type": "a whole number",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "list_type": "a list",
    "literal_error": "{expected}",
    "mapping_type": "a mapping",
    "model_attributes_type": "a mapping",
    "model_type": "a mapping",
    "multiple_of": "a multiple of {multiple_of}",
    "none_required": "null",
    "set_type": "a list",
    "string_pattern_mismatch": "text that matches {pattern}",
    "string_too_long": "text of {max_length} characters at most",
    "string_too_short": "text of {min_length} or more characters",
    "string_type": "text",
    "too_long": "a list or mapping of {max_length} at most",
    "too_short": "a list or mapping of {min_length} at least",
    "tuple_type": "a list",
}
"""What a value must be, by pydantic's type of error (https://docs.pydantic.dev/latest/errors/validation_errors)."""

_MAX_QUOTE = 60

_WORDS = {
    **dict.fromkeys(("yes", "y", "on"), "true"),
    **dict.fromkeys(("no", "n", "off"), "false"),
}
"""Booleans of YAML 1.1."""


def describe_errors(
    model: type[BaseModel],
    errors: Iterable[tuple[Place, Sequence[ErrorDetails]]],
    given: Collection[str] = (),
) -> Iterator[Problem]:
    """Describe the errors that pydantic found in data for `model`.

    Parameters
    ----------
    model : type
        The model.
    errors : iterable of (Place, sequence of ErrorDetails)
        The errors of each place: several only where it is a union, one for each branch.
    given : collection of str
        Fields of the model that are not keys of the document.
    """
    for place, group in errors:
        if group[0]["type"] == "extra_forbidden":
            location = group[0]["loc"][:-1]
            known = _names_at(model, location) if location else field_names(model) - {*given}
            key = str(place.path[-1])
            near = did_you_mean(key, known) or ("" if location else _belongs(key, model))
            yield Problem(place, "E_UNKNOWN_KEY", f"unknown key{near}")
        else:
            yield Problem(place, *_describe(group, place.node))


def _belongs(key: str, model: type[BaseModel]) -> str:
    """Return a hint for a key of another section."""
    for other, where in _SECTIONS.items():
        if model is not other and key in other.model_fields and key != "name":
            return f": it is a key of {where}"
    return ""


_SECTIONS: Mapping[type[BaseModel], str] = {
    ComponentConfig: "a component; write it in `components`",
    TaskConfig: "a task; write it in `tasks`",
    ProjectConfig: "the project; write it in `project`",
}


def _describe(problems: Sequence[ErrorDetails], node: Node | None) -> tuple[str, str]:
    """Describe what is wrong with what is written in one place: code and message."""
    problem = problems[0]
    kind, context = problem["type"], problem.get("ctx", {})
    if kind == "missing":
        return "E_MISSING_KEY", "this key is required"
    if context.get("pattern") == NAME_PATTERN:
        return "E_BAD_NAME", NAME_RULE
    if expected := [p for p in problems if p["type"] in _EXPECTED]:
        return "E_BAD_VALUE", _describe_mismatch(expected, node)
    if kind.startswith("E_"):  # a PydanticCustomError that brings its own code
        return kind, problem["msg"]
    quote = f" (got {_quote(node)})" if node else ""
    if "error" in context:  # the ValueError or AssertionError of a validator
        return "E_BAD_VALUE", f"{context['error']}{quote}"
    return "E_BAD_VALUE", f"is not a valid {kind.split('_')[0]}{quote}"


def _describe_mismatch(problems: Sequence[ErrorDetails], node: Node | None) -> str:
    expected = dict.fromkeys(_EXPECTED[p["type"]].format(**_facts(p)) for p in problems)
    message = f"must be {' or '.join(expected)}"
    if node is None:
        return message
    message += f", not {_quote(node)}"
    if isinstance(node, ListNode) and [*expected] == ["a mapping"]:
        return message + _as_mapping(node)
    if not isinstance(node, ScalarNode):
        return message
    if [*expected] == ["a whole number"] and isinstance(node.value, float):
        return message + (f"; write {node.value:.0f}" if node.value.is_integer() else "")
    if "expected" in (context := problems[0].get("ctx", {})):
        return message + did_you_mean(node.written, re.findall(r"'([^']*)'", context["expected"]))
    word = node.written.lower()
    if [*expected] == ["true or false"] and word in _WORDS:
        return f"{message}, which YAML 1.2 reads as text; write {_WORDS[word]}"
    if [*expected] == ["text"] and node.value is not None:
        return f"{message}; write it in quotes"
    expects_text = any(each.startswith("text") for each in expected)
    if not (expects_text or node.plain) and node.text == node.written and _is_non_text(node.text):
        return f"{message}; write it without quotes"
    return message


def _as_mapping(node: ListNode) -> str:
    """Return how to write a list of text such as NAME=VALUE as a mapping; empty if it is none."""
    for item in node.items:
        if isinstance(item, ScalarNode) and (parts := re.match("(.+?)[=:](.+)", item.written)):
            return f"; write each entry as `{parts[1].strip()}: {parts[2].strip()}`"
    return ""


def _facts(problem: ErrorDetails) -> dict[str, Any]:
    """Return the facts of a problem; pydantic gives bounds of numbers as floats."""
    return {
        name: int(fact) if isinstance(fact, float) and fact.is_integer() else fact
        for name, fact in problem.get("ctx", {}).items()
    }


def _is_non_text(text: str) -> bool:
    try:
        return not isinstance(resolve(text), str)
    except ValueError:
        return False


def _quote(node: Node) -> str:
    if isinstance(node, MappingNode):
        return "a mapping"
    if isinstance(node, ListNode):
        return "a list"
    if node.text == node.written and not isinstance(node.value, str):
        return json.dumps(node.value)
    written = node.written
    return repr(written if len(written) <= _MAX_QUOTE else f"{written[:_MAX_QUOTE]}…")


def field_names(model: type[BaseModel]) -> set[str]:
    """Return the keys that a model knows."""
    return {
        field.validation_alias if isinstance(field.validation_alias, str) else name
        for name, field in model.model_fields.items()
    }


def _names_at(model: type[BaseModel], location: Sequence[str | int]) -> set[str]:
    """Return the keys that the models at a location of pydantic's know, inside `model`."""
    models = [model]
    for part in location:
        fields = [found.model_fields.get(str(part)) for found in models]
        inner = [found for field in fields if field for found in _models_in(field.annotation)]
        # Nothing for an index, the key of a mapping and the branch of a union: the models stay.
        models = inner or models
    return {name for found in models for name in field_names(found)}


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
