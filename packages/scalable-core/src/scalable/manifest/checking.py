"""Documents against pydantic models, with errors in words of our own.

Models are checked as strict JSON: ``"4"`` and ``true`` are no numbers, a list is a tuple. pydantic's messages never
reach users, because they would quote values that came from the environment; what is quoted is what was written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from scalable.errors import did_you_mean
from scalable.manifest.issues import Severity, ValidationIssue
from scalable.manifest.nodes import Node, SourceMap, is_expanded, to_written, under
from scalable.manifest.paths import KeyPath, as_key_path
from scalable.manifest.schema import NAME_PATTERN, FrozenModel

__all__ = ["BAD_NAME", "check_model"]

M = TypeVar("M", bound=BaseModel)

_WANTED = {
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
    "string_too_short": "text of {min_length} characters at least",
    "string_type": "text",
    "too_long": "{max_length} items at most",
    "too_short": "{min_length} items at least",
    "tuple_type": "a list",
}
"""What a value must be, by pydantic's type of error (https://docs.pydantic.dev/latest/errors/validation_errors)."""

BAD_NAME = "must begin with a letter and hold only letters, digits, _ and -, 40 at most"


def check_model(
    model: type[M],
    data: Mapping[str, Any],
    path: str | KeyPath,
    source: SourceMap,
    *,
    given: Mapping[str, Any] | None = None,
    unset: Severity = "error",
) -> tuple[M | None, list[ValidationIssue]]:
    """Make a model of a part of a manifest, or say everything that is wrong with it.

    Parameters
    ----------
    model : type
        A pydantic model. ``extra="forbid"`` makes unknown keys errors, except those that begin with ``x-``.
    data : mapping
        The part: ``spec.target.options``.
    path : str or tuple
        Where it stands in the manifest: ``"targets.hpc"``.
    source : SourceMap
        ``spec.manifest.source_map``, for positions and for what was written.
    given : mapping, optional
        Fields that do not come from the document, which must not give them.
    unset : {"error", "warning"}
        What a variable is that could not be expanded. With a warning, the text stays as written.

    Returns
    -------
    model or None
        None if there is any error.
    list of ValidationIssue
        Every problem. A text field takes a plain number that reads back as written, and any ``${VAR}``, as text. A
        ``ValueError`` of a validator gives its message; a ``PydanticCustomError`` whose type begins with ``E_`` also
        gives the code.

    Examples
    --------
    >>> class Options(BaseModel, extra="forbid"):
    ...     queue: str
    ...     max_workers: int = 1
    >>> made, issues = check_model(Options, {"max_wrokers": 2}, "targets.hpc", SourceMap())
    >>> for issue in issues:
    ...     print(issue)
    E_MISSING_KEY targets.hpc.queue: this key is required
    E_UNKNOWN_KEY targets.hpc.max_wrokers: unknown key (did you mean 'max_workers'?)
    """
    at = as_key_path(path)
    given = given or {}
    unexpanded = {where: (code, text) for where, code, text in source.problems(at)}
    issues = [
        _unexpanded_issue(source, where, code, text, unset)
        for where, (code, text) in unexpanded.items()
    ]
    known = _field_names(model) - given.keys()
    issues += [
        source.issue((*at, key), "E_UNKNOWN_KEY", f"unknown key{did_you_mean(key, known)}")
        for key in data
        if key in given
    ]
    document = {key: value for key, value in data.items() if not key.startswith("x-")}
    document.update(given)
    while True:
        try:
            made = model.model_validate_json(json.dumps(document), strict=True)
        except ValidationError as error:
            problems = error.errors(include_url=False, include_input=False)
        else:
            if any(issue.severity == "error" for issue in issues):
                return None, issues
            _remember_written(made, source.node(at))
            return made, issues
        repaired = _repaired(document, problems, at, source)
        if repaired is None:
            found = _issues(model, document, problems, at, source, unexpanded.keys(), known)
            return None, issues + found
        document = repaired


def _unexpanded_issue(
    source: SourceMap, path: KeyPath, code: str, message: str, unset: Severity
) -> ValidationIssue:
    if unset == "error" or code == "E_BAD_VARIABLE":  # which no environment would mend
        return source.issue(path, code, message)
    return source.issue(path, f"W{code[1:]}", message, "warning")


def _remember_written(made: object, node: Node | None) -> None:
    """Let models with values of the environment show what was written."""
    if node is None or not is_expanded(node):
        return
    if isinstance(made, FrozenModel):
        made._written = to_written(node)
        for name in made.model_fields_set:
            _remember_written(getattr(made, name), under(node, name))
    elif isinstance(made, Mapping):
        for key, value in made.items():
            _remember_written(value, under(node, key))
    elif isinstance(made, (list, tuple)):
        for index, value in enumerate(made):
            _remember_written(value, under(node, index))


def _repaired(
    document: dict[str, Any], problems: Sequence[ErrorDetails], at: KeyPath, source: SourceMap
) -> dict[str, Any] | None:
    """Drop ``x-`` keys and make text where text is wanted; None if there was nothing to do."""
    repaired: dict[str, Any] | None = None
    for problem in problems:
        place = _place(document, problem)
        if not place:
            continue
        drop = problem["type"] == "extra_forbidden" and str(place[-1]).startswith("x-")
        text = _text_at((*at, *place), source) if problem["type"] == "string_type" else None
        if not drop and text is None:
            continue
        repaired = repaired or deepcopy(document)
        parent: Any = repaired
        for part in place[:-1]:
            parent = parent[part]
        if drop:
            parent.pop(place[-1], None)
        else:
            parent[place[-1]] = text
    return repaired


def _text_at(path: KeyPath, source: SourceMap) -> str | None:
    """Give the text of a scalar that YAML does not read as text, if it cannot be mistaken."""
    scalar = source.scalar(path)
    if scalar is None or isinstance(scalar.value, str):
        return None
    if scalar.text != scalar.written:
        return scalar.text
    is_number = isinstance(scalar.value, (int, float)) and not isinstance(scalar.value, bool)
    return scalar.text if is_number and repr(scalar.value) == scalar.text else None


def _place(document: Mapping[str, Any], problem: ErrorDetails) -> KeyPath:
    """Find where in the document a problem is.

    pydantic's location also names the branches of unions and marks keys, which are no keys of the document.
    """
    node: Any = document
    place: list[str | int] = []
    for part in problem["loc"]:
        is_key = isinstance(node, dict) and part in node
        is_index = isinstance(node, list) and isinstance(part, int) and part < len(node)
        if is_key or is_index:
            node = node[part]
            place.append(part)
    if problem["type"] == "missing":
        place.append(problem["loc"][-1])
    return tuple(place)


def _issues(
    model: type[BaseModel],
    document: Mapping[str, Any],
    problems: Sequence[ErrorDetails],
    at: KeyPath,
    source: SourceMap,
    unexpanded: Collection[KeyPath],
    known: Collection[str],
) -> list[ValidationIssue]:
    by_place: dict[KeyPath, list[ErrorDetails]] = {}
    for problem in problems:
        by_place.setdefault(_place(document, problem), []).append(problem)
    issues = []
    for place, group in by_place.items():
        path = (*at, *place)
        if path in unexpanded:
            continue
        # Of a union, the branch that got deeper is the one that was meant.
        if all(p["type"].endswith("_type") for p in group) and any(
            len(other) > len(place) and other[: len(place)] == place for other in by_place
        ):
            continue
        names = known if len(place) == 1 else _names_at(model, group[0]["loc"][:-1])
        code, message = _described(group, path, source, names)
        issues.append(source.issue(path, code, message))
    return issues


def _described(
    group: Sequence[ErrorDetails], path: KeyPath, source: SourceMap, names: Collection[str]
) -> tuple[str, str]:
    first = group[0]
    kind = first["type"]
    if kind == "missing":
        return "E_MISSING_KEY", "this key is required"
    if kind == "extra_forbidden":
        return "E_UNKNOWN_KEY", f"unknown key{did_you_mean(str(path[-1]), names)}"
    context = first.get("ctx", {})
    if context.get("pattern") == NAME_PATTERN:
        return "EBAD_NAME", BAD_NAME
    says = _says(path, source)
    wanted = [_WANTED[p["type"]].format(**p.get("ctx", {})) for p in group if p["type"] in _WANTED]
    if wanted:
        message = f"must be {' or '.join(dict.fromkeys(wanted))}"
        message += f", not {says}" if says else ""
        if kind in ("literal_error", "enum"):
            scalar = source.scalar(path)
            written = scalar.written if scalar else ""
            message += did_you_mean(written, re.findall(r"'([^']*)'", context["expected"]))
        elif kind == "string_type" and len(wanted) == 1 and source.scalar(path) is not None:
            message += "; write it in quotes"
        return "E_BAD_VALUE", message
    hint = f" (it says {says})" if says else ""
    if kind == "value_error" or kind == "assertion_error":
        return "E_BAD_VALUE", _one_line(source.redact(str(context["error"]), path)) + hint
    if kind.startswith("E_"):
        return kind, _one_line(source.redact(first["msg"], path))
    return "E_BAD_VALUE", f"is not a valid {kind.split('_')[0]}{hint}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _says(path: KeyPath, source: SourceMap) -> str:
    """Quote what is written at a place."""
    node = source.node(path)
    if node is None:
        return ""
    written = to_written(node)
    if isinstance(written, dict):
        return "a mapping"
    if isinstance(written, list):
        return "a list"
    if not isinstance(written, str):
        return json.dumps(written)
    return repr(written if len(written) <= 60 else written[:57] + "...")


def _field_names(model: type[BaseModel]) -> set[str]:
    return {
        field.validation_alias if isinstance(field.validation_alias, str) else name
        for name, field in model.model_fields.items()
    }


def _names_at(model: type[BaseModel], location: Sequence[str | int]) -> set[str]:
    """Say which keys are known at a location of pydantic's."""
    models = [model]
    for part in location:
        fields = [found.model_fields.get(str(part)) for found in models]
        inner = [found for field in fields if field for found in _models_in(field.annotation)]
        models = inner or models
    return {name for found in models for name in _field_names(found)}


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
