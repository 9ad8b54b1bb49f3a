"""Parts of a document against pydantic models.

Models are checked as strict JSON, whose types are those of a manifest: ``"4"`` and ``true`` are no numbers, and a list
is what a tuple is made of.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from scalable.errors import did_you_mean
from scalable.manifest.issues import Severity, ValidationIssue
from scalable.manifest.nodes import Node, child, is_expanded, problems, to_written
from scalable.manifest.paths import KeyPath, as_key_path
from scalable.manifest.schema import FrozenModel
from scalable.manifest.sourcemap import SourceMap
from scalable.manifest.wording import describe, field_names, names_at

__all__ = ["check_model"]

M = TypeVar("M", bound=BaseModel)


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

    A field of text takes a ``${VAR}`` as text, whatever its value looks like, and a number that reads back as it was
    written. The ``ValueError`` of a validator gives its message, which says what the value must be; a
    ``PydanticCustomError`` whose type begins with ``E_`` gives its code as well.

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
        Fields that do not come from the part, which must not give them.
    unset : {"error", "warning"}
        What it is that a variable is not set. With a warning, the text stays as written.

    Returns
    -------
    model or None
        None if there is any error.
    list of ValidationIssue
        Every problem.

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
    known = field_names(model) - given.keys()
    unexpanded = {
        where: _unexpanded(source, where, code, message, unset)
        for where, code, message in problems(source.node(at), at)
    }
    issues = list(unexpanded.values())
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
            found = error.errors(include_url=False, include_input=False)
        else:
            if any(issue.severity == "error" for issue in issues):
                return None, issues
            _show_written(made, source.node(at))
            return made, issues
        repaired = _repaired(document, found, at, source)
        if repaired is None:
            break
        document = repaired
    for where, group in _by_place(document, found).items():
        # What was given is no part of the document: a bad name is a problem of the part as a whole.
        place = (*at, *where) if where and where[0] not in given else at
        if place not in unexpanded:
            names = known if len(where) <= 1 else names_at(model, group[0]["loc"][:-1])
            code, message = describe(group, place[-1] if place else "", source.node(place), names)
            issues.append(source.issue(place, code, message))
    return None, issues


def _unexpanded(
    source: SourceMap, path: KeyPath, code: str, message: str, unset: Severity
) -> ValidationIssue:
    if unset == "warning" and code != "E_BAD_VARIABLE":  # which no environment would mend
        return source.issue(path, f"W{code[1:]}", message, "warning")
    return source.issue(path, code, message)


def _show_written(made: object, node: Node | None) -> None:
    """Let models with values of the environment show what was written."""
    if node is None or not is_expanded(node):
        return
    if isinstance(made, FrozenModel):
        made.show_as(to_written(node))
        for name in made.model_fields_set:
            _show_written(getattr(made, name), child(node, name))
    elif isinstance(made, Mapping):
        for key, value in made.items():
            _show_written(value, child(node, key))
    elif isinstance(made, (list, tuple)):
        for index, value in enumerate(made):
            _show_written(value, child(node, index))


def _repaired(
    document: dict[str, Any], found: Sequence[ErrorDetails], at: KeyPath, source: SourceMap
) -> dict[str, Any] | None:
    """Drop ``x-`` keys, and make text where text is wanted; None if there was nothing to do."""
    repaired: dict[str, Any] | None = None
    for problem in found:
        place = _place(document, problem)
        if not place:
            continue
        drop = problem["type"] == "extra_forbidden" and str(place[-1]).startswith("x-")
        text = _as_text((*at, *place), source) if problem["type"] == "string_type" else None
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


def _as_text(path: KeyPath, source: SourceMap) -> str | None:
    """Give the text of a scalar that is not read as text, unless it could be mistaken."""
    scalar = source.scalar(path)
    if scalar is None or isinstance(scalar.value, str):
        return None
    is_number = isinstance(scalar.value, (int, float)) and not isinstance(scalar.value, bool)
    is_exact = is_number and repr(scalar.value) == scalar.text  # unlike 007 and 1.10
    return scalar.text if scalar.text != scalar.written or is_exact else None


def _by_place(
    document: Mapping[str, Any], found: Sequence[ErrorDetails]
) -> dict[KeyPath, list[ErrorDetails]]:
    """Sort problems by the place in the document where they are."""
    by_place: dict[KeyPath, list[ErrorDetails]] = {}
    for problem in found:
        by_place.setdefault(_place(document, problem), []).append(problem)
    return {
        place: group
        for place, group in by_place.items()
        # Of a union, the branch that got deeper is the one that was meant.
        if not (_is_wrong_kind(group) and _has_below(place, by_place))
    }


def _is_wrong_kind(group: Sequence[ErrorDetails]) -> bool:
    return all(problem["type"].endswith("_type") for problem in group)


def _has_below(place: KeyPath, places: Collection[KeyPath]) -> bool:
    return any(len(other) > len(place) and other[: len(place)] == place for other in places)


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
