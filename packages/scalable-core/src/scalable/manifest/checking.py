"""Parts of a document → pydantic models.

Models are checked as strict JSON, whose types are those of a manifest: ``"4"`` and ``true`` are not numbers, and a
tuple is made from a list.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any, TypeVar, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from scalable.errors import did_you_mean
from scalable.manifest.document.nodes import (
    Node,
    ScalarNode,
    child,
    is_expanded,
    mentions_variable,
    to_written,
)
from scalable.manifest.document.paths import KeyPath
from scalable.manifest.document.place import Place, Problem
from scalable.manifest.document.scalars import JSONScalar, resolve
from scalable.manifest.issues import Severity, ValidationIssue
from scalable.manifest.messages import describe_errors, field_names
from scalable.manifest.schema import FrozenModel

__all__ = ["check_model", "is_undecided"]

M = TypeVar("M", bound=BaseModel)


def check_model(
    model: type[M],
    data: Mapping[str, Any],
    place: Place,
    *,
    given: Mapping[str, Any] | None = None,
    unset: Severity = "error",
    partial: bool = False,
) -> tuple[M | None, list[ValidationIssue]]:
    """Return a model of a part of a manifest, or everything that is wrong with it.

    A ``${VAR}`` is read as what the field wants: as text, whatever its value looks like, or as a number, even if it is
    in quotes. A field of text also takes a plain number that reads back as it was written.

    The ``ValueError`` of a validator gives the message: what the value must be; a ``PydanticCustomError``
    whose type begins with ``E_`` gives its code as well.

    Parameters
    ----------
    model : type
        A pydantic model. ``extra="forbid"`` makes unknown keys errors, except those that begin with ``x-``.
    data : mapping
        The part: ``spec.target.options``.
    place : Place
        Where it stands, for positions and for what was written: ``spec.manifest.place("targets.hpc")``.
    given : mapping, optional
        Fields that do not come from the part, which must not give them.
    unset : {"error", "warning"}
        Severity of a variable that is not set. With a warning, the text stays as written.
    partial : bool
        The part belongs to an overlay that is not merged, so problems that are undecided (`is_undecided`) do not count.

    Returns
    -------
    model or None
        None if there is an error.
    list of ValidationIssue
        Every problem.

    Examples
    --------
    >>> class Options(BaseModel, extra="forbid"):
    ...     queue: str
    ...     max_workers: int = 1
    >>> place = Place(path=("targets", "hpc"))
    >>> made, issues = check_model(Options, {"max_wrokers": 2}, place)
    >>> for issue in issues:
    ...     print(issue)
    E_MISSING_KEY targets.hpc.queue: this key is required
    E_UNKNOWN_KEY targets.hpc.max_wrokers: unknown key (did you mean 'max_workers'?)
    """
    given = given or {}
    problems = [_with_severity(problem, unset) for problem in place.unexpanded()]
    unread = {problem.place.path for problem in problems}
    problems += _find_clashes(model, data, place, given)
    document = {
        key: value
        for key, value in data.items()
        if not (key.startswith("x-") or (value is None and _is_collection(model, key)))
    }
    made, errors = _validate(model, {**document, **given}, place)
    if errors:
        # A given field is not in the document: a bad name is a problem of the part as a whole.
        located = [
            (place.at(() if path and path[0] in given else path), group)
            for path, group in errors.items()
        ]
        unexplained = [each for each in located if each[0].path not in unread]
        problems += describe_errors(model, unexplained, given)
    issues = [
        each.place.issue(each.code, each.message, each.severity)
        for each in problems
        if not (partial and is_undecided(each.place, each.code))
    ]
    if made is None or any(each.severity == "error" for each in problems):
        return None, issues
    _show_written(made, place.node)
    return made, issues


def _is_collection(model: type[BaseModel], key: str) -> bool:
    """Return whether a field is a list or a mapping, of which ``key:`` with nothing behind it is an empty one."""
    for name, field in model.model_fields.items():
        if key in (name, field.validation_alias):
            return get_origin(field.annotation) in (
                Mapping,
                Sequence,
                dict,
                frozenset,
                list,
                set,
                tuple,
            )
    return False


def is_undecided(place: Place, code: str) -> bool:
    """Return whether a problem of an overlay depends on what it is merged into, or on the environment."""
    has_variable = place.node is not None and mentions_variable(place.node)
    return code == "E_MISSING_KEY" or has_variable


def _with_severity(problem: Problem, unset: Severity) -> Problem:
    """Return a problem as a warning, if `unset` asks for it; no environment would change a bad reference."""
    if unset == "warning" and problem.code != "E_BAD_VARIABLE":
        return problem._replace(code=f"W{problem.code[1:]}", severity="warning")
    return problem


def _find_clashes(
    model: type[BaseModel], data: Mapping[str, Any], place: Place, given: Mapping[str, Any]
) -> Iterator[Problem]:
    """Yield a problem for each key of the document that only the caller may give."""
    for key in data.keys() & given.keys():
        near = did_you_mean(key, field_names(model) - given.keys())
        yield Problem(place.child(key), "E_UNKNOWN_KEY", f"unknown key{near}")


def _validate(
    model: type[M], document: dict[str, Any], place: Place
) -> tuple[M | None, dict[KeyPath, list[ErrorDetails]]]:
    """Return the model, or pydantic's errors by the path in the document."""
    converted: set[KeyPath] = set()
    while True:
        try:
            return model.model_validate_json(json.dumps(document), strict=True), {}
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)
        conversions = _find_conversions(document, found, place)
        if conversions.keys() <= converted:
            return None, _group_by_path(document, found)
        document = _convert(document, conversions)
        converted |= conversions.keys()


def _show_written(made: object, node: Node | None) -> None:
    """Make models with values of the environment show what was written."""
    if node is None or not is_expanded(node):
        return
    if isinstance(made, FrozenModel):
        made.show_as(to_written(node))
        for name, key in made.written_keys():
            _show_written(getattr(made, name), child(node, key))
    elif isinstance(made, Mapping):
        for key, value in made.items():
            _show_written(value, child(node, key))
    elif isinstance(made, (list, tuple)):
        for index, value in enumerate(made):
            _show_written(value, child(node, index))


_DROP = object()


def _find_conversions(
    document: Mapping[str, Any], found: Sequence[ErrorDetails], place: Place
) -> dict[KeyPath, Any]:
    """Return valid parts that pydantic refuses, by path: ``x-`` keys, and scalars to be read another way."""
    conversions: dict[KeyPath, Any] = {}
    for error in found:
        path = _document_path(document, error)
        convert = _CONVERTERS.get(error["type"])
        if error["type"] == "extra_forbidden":
            if str(path[-1]).startswith("x-"):
                conversions[path] = _DROP
        elif path and convert and (scalar := place.at(path).scalar):
            value = convert(scalar)
            if value is not None:
                conversions[path] = value
    return conversions


def _as_text(scalar: ScalarNode) -> str | None:
    """Return a value of the environment as text, and so a number that reads back as it was written."""
    if isinstance(scalar.value, str):
        return None
    is_number = isinstance(scalar.value, (int, float)) and not isinstance(scalar.value, bool)
    is_exact = is_number and repr(scalar.value) == scalar.text  # unlike 007 and 1.10
    return scalar.text if scalar.text != scalar.written or is_exact else None


def _as_non_text(scalar: ScalarNode) -> JSONScalar:
    """Return a value of the environment as a number or boolean, although it is in quotes.

    YAML needs quotes around a ``${VAR}`` inside brackets and braces.
    """
    if not isinstance(scalar.value, str) or scalar.text == scalar.written:
        return None
    try:
        value = resolve(scalar.text)
    except ValueError:
        return None
    return None if isinstance(value, str) else value


_CONVERTERS: Mapping[str, Callable[[ScalarNode], JSONScalar]] = {
    "string_type": _as_text,
    "int_type": _as_non_text,
    "float_type": _as_non_text,
    "bool_type": _as_non_text,
}
"""How to read a scalar again, by pydantic's type of error."""


def _convert(document: dict[str, Any], conversions: Mapping[KeyPath, Any]) -> dict[str, Any]:
    converted = deepcopy(document)
    for place, value in conversions.items():
        parent: Any = converted
        for part in place[:-1]:
            parent = parent[part]
        if value is _DROP:
            parent.pop(place[-1], None)
        else:
            parent[place[-1]] = value
    return converted


def _group_by_path(
    document: Mapping[str, Any], found: Sequence[ErrorDetails]
) -> dict[KeyPath, list[ErrorDetails]]:
    """Return errors by their path in the document."""
    by_place: dict[KeyPath, list[ErrorDetails]] = {}
    for problem in found:
        by_place.setdefault(_document_path(document, problem), []).append(problem)
    above = {place[:length] for place in by_place for length in range(len(place))}
    return {
        place: group
        for place, group in by_place.items()
        # In a union, the branch that got deeper is the one that was meant.
        if not (place in above and all(problem["type"].endswith("_type") for problem in group))
    }


def _document_path(document: Mapping[str, Any], problem: ErrorDetails) -> KeyPath:
    """Return where in the document a problem is.

    pydantic's location also names the branches of unions and marks keys, which are not keys of the document.
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
