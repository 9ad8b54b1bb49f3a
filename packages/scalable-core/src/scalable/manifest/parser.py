"""A ``scalable.yaml`` → a `ManifestModel`, or every problem in it at once.

The order: read, select the target, merge its overlay, expand the environment, check each part.

A variable that is not set is an error where the selected target needs it: in ``project``, ``components``, ``tasks`` and
in that target. In another target it is a warning, and the text stays as written. In ``overlays`` and under ``x-`` keys
nothing is expanded; the content of an overlay is expanded once it is merged.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from scalable.manifest.document.data import read_data
from scalable.manifest.document.limits import MAX_BYTES
from scalable.manifest.document.nodes import MappingNode, ReadResult, to_data
from scalable.manifest.document.place import Place, Source
from scalable.manifest.document.reader import read_text
from scalable.manifest.dotenv import environment_beside
from scalable.manifest.environment import expand_sections, variables_in
from scalable.manifest.errors import ManifestError, ManifestParseError, ManifestSchemaError
from scalable.manifest.files import read_file
from scalable.manifest.issues import ValidationIssue, ValidationReport
from scalable.manifest.lock import canonical_json
from scalable.manifest.overlays import MERGED_SECTIONS, merge_overlay
from scalable.manifest.references import References, find_dangling
from scalable.manifest.schema import ManifestModel
from scalable.manifest.sections import check_sections
from scalable.manifest.selection import ChooseTarget, select

__all__ = ["CheckTargets", "load_manifest", "load_targets", "parse_manifest"]

CheckTargets: TypeAlias = Callable[[Place, str | None], Iterable[ValidationIssue]]
"""Finds problems of targets, given the place of the section and the name of the selected target."""


def load_manifest(
    path: str | os.PathLike[str],
    *,
    env: Mapping[str, str] | None = None,
    target_name: str | ChooseTarget | None = None,
    overlay_name: str | None = None,
    check_targets: CheckTargets | None = None,
) -> ManifestModel:
    """Return the manifest in a file.

    Parameters
    ----------
    path : path
        The file, YAML in UTF-8.
    env : mapping, optional
        Where ``${VAR}`` is looked up; by default the environment of the process, and where that has no such variable,
        the file ``.env`` beside the manifest.
    target_name : str or callable, optional
        The target to select, or a function that chooses it; its overlay is merged.
    overlay_name : str, optional
        The overlay to merge instead of the target's own.
    check_targets : callable, optional
        Finds more problems of the targets if the manifest cannot be used, so that one run shows everything.

    Raises
    ------
    ManifestParseError
        There is no such file, or it is not YAML that can be read.
    ManifestSchemaError
        Its content is not valid. Either error lists every problem that was found.
    """
    file = os.fspath(path)
    reading = read_text(_read_file(file), file)
    env = environment_beside(file) if env is None else env
    return _build_manifest(reading, file, env, target_name, overlay_name, check_targets)


def parse_manifest(
    document: str | bytes | Mapping[str, Any],
    *,
    env: Mapping[str, str] | None = None,
    target_name: str | ChooseTarget | None = None,
    overlay_name: str | None = None,
    source: str | None = None,
) -> ManifestModel:
    """Return the manifest in a text, or in data that was loaded from text; otherwise as `load_manifest`.

    Parameters
    ----------
    document : str, bytes or mapping
        YAML, or mappings, lists and scalars.
    source : str, optional
        Name of the document in positions; by default ``<manifest>`` for text.

    Examples
    --------
    >>> manifest = parse_manifest('''
    ... version: 1
    ... project: {name: climate}
    ... targets: {laptop: {provider: local, max_workers: 4}}
    ... components: {fair: {memory: 2G, env: {TOKEN: "${TOKEN}"}}}
    ... tasks: {run: {component: fair}}
    ... ''', env={"TOKEN": "s3cret"})
    >>> manifest.components["fair"].memory
    2000000000
    >>> manifest.components["fair"]
    ComponentConfig(name='fair', memory='2G', env={'TOKEN': '${TOKEN}'})
    """
    if isinstance(document, (str, bytes)):
        source = source or "<manifest>"
        reading = read_text(document, source)
    else:
        reading = read_data(document)
    return _build_manifest(reading, source, env, target_name, overlay_name)


def load_targets(
    path: str | os.PathLike[str],
    *,
    env: Mapping[str, str] | None = None,
    overlay_name: str | None = None,
) -> dict[str, ManifestModel | ManifestError]:
    """Return for each target a manifest of it alone, or what is wrong with it.

    Such a manifest has no components and tasks. So neither a problem of theirs nor one of another target prevents
    asking what exists at the target.

    Parameters
    ----------
    path, env, overlay_name
        As for `load_manifest`.

    Raises
    ------
    ManifestParseError
        There is no such file, or it is not YAML that can be read.
    """
    file = os.fspath(path)
    reading = read_text(_read_file(file), file)
    if reading.root is None or reading.issues:
        raise ManifestParseError(reading.issues)
    env = environment_beside(file) if env is None else env
    found: dict[str, ManifestModel | ManifestError] = {}
    for name, _ in Place.of_document(reading.root, Source(file)).child("targets").entries():
        try:
            found[name] = _build_manifest(reading, file, env, name, overlay_name, target_only=True)
        except ManifestError as error:
            found[name] = error
    return found


def _read_file(file: str) -> bytes:
    try:
        return read_file(file, MAX_BYTES + 1)
    except FileNotFoundError:
        problem = "there is no such file; `scalable init` writes one to start from"
    except IsADirectoryError:
        problem = "is a directory; name the file in it, such as scalable.yaml"
    except OSError as error:
        problem = f"cannot be read: {error.strerror or error}"
    except ValueError as error:  # a NUL in the name
        problem = f"is not a valid file name: {error}"
    raise ManifestParseError([ValidationIssue("", problem, "E_FILE", file=file)])


def _build_manifest(
    reading: ReadResult,
    file: str | None,
    env: Mapping[str, str] | None,
    target_name: str | ChooseTarget | None,
    overlay_name: str | None,
    check_targets: CheckTargets | None = None,
    target_only: bool = False,
) -> ManifestModel:
    if reading.root is None:
        raise ManifestParseError(reading.issues)
    env = os.environ if env is None else env
    written = Place.of_document(reading.root, Source(file))
    selection = select(written, target_name, overlay_name, env)
    merged = merge_overlay(reading.root, selection.overlay)
    if target_only:
        merged = _without_others(merged, selection.target)
    raw = to_data(merged)
    variables = _used_variables(raw, env)
    expanded = expand_sections(merged, MERGED_SECTIONS, variables)
    document = Place.of_document(expanded, Source(file, variables))
    sections, issues = check_sections(document, selection, written)
    # What the reader has reported is not reported again.
    reported = {issue.path for issue in reading.issues}
    issues = [issue for issue in issues if issue.path not in reported]
    if selection.issue:
        issues.append(selection.issue)
    report = ValidationReport.of([*reading.issues, *issues])
    if not report.ok:
        # Dangling references too, so that one run shows everything.
        more = [*find_dangling(References.of_document(to_data(expanded)), document)]
        if check_targets is not None:
            more += check_targets(document.child("targets"), selection.target)
        errors = (report + ValidationReport.of(more)).errors
        raise ManifestParseError(errors) if reading.issues else ManifestSchemaError(errors)
    manifest = ManifestModel(**sections, raw=raw, source=file, selected_target=selection.target)
    manifest._document = document
    manifest._warnings = report.warnings
    return manifest


def _without_others(merged: MappingNode, target: str | None) -> MappingNode:
    """Return a document, whose overlay is merged, with one target and without what targets refer to."""
    entries = {key: each for key, each in merged.entries.items() if key in ("version", "project")}
    targets = merged.entries["targets"]
    if target is not None and isinstance(targets.node, MappingNode):
        body = targets.node.entries[target]
        if isinstance(body.node, MappingNode):
            kept = {key: each for key, each in body.node.entries.items() if key != "overlay"}
            body = replace(body, node=MappingNode(body.node.mark, kept))
        entries["targets"] = replace(targets, node=MappingNode(targets.node.mark, {target: body}))
    return MappingNode(merged.mark, entries)


def _used_variables(raw: Mapping[str, Any], env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a document uses and that are set."""
    names = variables_in(canonical_json(raw))
    return {name: env[name] for name in sorted(names) if name in env}
