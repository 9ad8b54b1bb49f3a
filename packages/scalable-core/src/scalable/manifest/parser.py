"""A ``scalable.yaml`` to a `ManifestModel`, or every problem in it at once.

The order: read, select the target, lay its overlay over the document, expand the environment, check each part.

A variable that is not set is an error where the selected target needs it: in ``project``, ``components``, ``tasks`` and
in that target. In another target it is a warning, and the text stays as written. In ``overlays`` and under ``x-`` keys
nothing is expanded; what an overlay says is expanded where it was merged to.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from pydantic import BaseModel

from scalable.errors import did_you_mean
from scalable.manifest.checking import BAD_NAME, check_model
from scalable.manifest.environment import expand_node
from scalable.manifest.errors import ManifestParseError, ManifestSchemaError
from scalable.manifest.issues import ValidationIssue, ValidationReport
from scalable.manifest.lock import canonical_json
from scalable.manifest.nodes import Entry, MappingNode, Node, SourceMap, to_data
from scalable.manifest.overlays import merge
from scalable.manifest.paths import KeyPath
from scalable.manifest.reader import MAX_BYTES, Reading, read_data, read_text
from scalable.manifest.references import References, find_dangling, unknown_overlay
from scalable.manifest.schema import (
    NAME_PATTERN,
    ComponentConfig,
    ManifestModel,
    ProjectConfig,
    TargetConfig,
    TaskConfig,
)

__all__ = ["load_manifest", "parse_manifest"]

M = TypeVar("M", bound=BaseModel)

ChooseTarget: TypeAlias = Callable[[Mapping[str, str]], str | None]
"""Chooses a target, given the provider of each as it is written."""

Made = tuple[M | None, list[ValidationIssue]]
"""A model, or None and what is wrong."""

_IN_OVERLAYS = ("project", "targets", "components", "tasks")
_TOP_LEVEL = ("version", *_IN_OVERLAYS, "overlays")


def load_manifest(
    path: str | os.PathLike[str],
    *,
    env: Mapping[str, str] | None = None,
    target_name: str | ChooseTarget | None = None,
    overlay_name: str | None = None,
) -> ManifestModel:
    """Read a manifest from a file.

    Parameters
    ----------
    path : path
        The file, YAML in UTF-8.
    env : mapping, optional
        Where ``${VAR}`` is looked up; by default the environment of the process.
    target_name : str or callable, optional
        The target that is meant, or what chooses it; its overlay is merged.
    overlay_name : str, optional
        The overlay to merge instead of the target's own.

    Raises
    ------
    ManifestParseError
        There is no such file, or it is not YAML that can be read.
    ManifestSchemaError
        It says something that is not allowed. Either error lists every problem that was found.
    """
    file = os.fspath(path)
    return _parsed(read_text(_content(file), file), file, env, target_name, overlay_name)


def parse_manifest(
    document: str | bytes | Mapping[str, Any],
    *,
    env: Mapping[str, str] | None = None,
    target_name: str | ChooseTarget | None = None,
    overlay_name: str | None = None,
    source: str | None = None,
) -> ManifestModel:
    """Make a manifest of text, or of data that was loaded from text; else as `load_manifest`.

    Parameters
    ----------
    document : str, bytes or mapping
        YAML, or mappings, lists and scalars.
    source : str, optional
        What positions call the document; by default ``<manifest>`` for text.

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
    return _parsed(reading, source, env, target_name, overlay_name)


def _content(file: str) -> bytes:
    try:
        with Path(file).open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        problem = "there is no such file; `scalable init` writes one to start from"
    except IsADirectoryError:
        problem = "is a directory; name the file in it, such as scalable.yaml"
    except OSError as error:
        problem = f"cannot be read: {error.strerror or error}"
    except ValueError as error:  # a NUL in the name
        problem = f"is no name of a file: {error}"
    raise ManifestParseError([ValidationIssue("", problem, "E_FILE", file=file)])


def _parsed(
    reading: Reading,
    file: str | None,
    env: Mapping[str, str] | None,
    target_name: str | ChooseTarget | None,
    overlay_name: str | None,
) -> ManifestModel:
    if reading.root is None:
        raise ManifestParseError(reading.issues)
    written = SourceMap(reading.root, file)
    if callable(target_name):
        target_name = target_name(_providers(written))
    overlay, issues = _chosen_overlay(written, target_name, overlay_name)
    merged = _merged(reading.root, overlay)
    source = SourceMap(_expanded(merged, os.environ if env is None else env), file)
    parts, found = _checked(source, target_name)
    report = ValidationReport.of([*reading.issues, *issues, *found])
    if not report.ok:
        # Also what names something that is not there, so that one run shows everything.
        document = to_data(source.root) if source.root else {}
        dangling = find_dangling(References.of_document(document), source)
        everything = report.merge(ValidationReport.of(dangling))
        raise (ManifestParseError if reading.issues else ManifestSchemaError)(everything.errors)
    manifest = ManifestModel(**parts, raw=to_data(merged), source=file, selected_target=target_name)
    manifest._source_map = source
    manifest._warnings = report.warnings
    return manifest


def _chosen_overlay(
    source: SourceMap, target_name: str | None, overlay_name: str | None
) -> tuple[MappingNode | None, list[ValidationIssue]]:
    """Find the overlay that the caller names, or else the selected target."""
    named_at: KeyPath = ("overlays",)
    if target_name is not None and source.node(("targets", target_name)) is None:
        known = _keys(source, "targets")
        problem = f"there is no target {target_name!r}{did_you_mean(target_name, known)}"
        listed = ", ".join(known) or "none"
        message = f"{problem}; the targets are: {listed}"
        return None, [source.issue(("targets",), "E_UNKNOWN_TARGET", message)]
    if overlay_name is None and target_name is not None:
        named_at = ("targets", target_name, "overlay")
        scalar = source.scalar(named_at)
        # Anything else than text is told by the check of the target.
        overlay_name = scalar.value if scalar and isinstance(scalar.value, str) else None
    if overlay_name is None:
        return None, []
    overlay = source.node(("overlays", overlay_name))
    if overlay is None:
        message = unknown_overlay(overlay_name, _keys(source, "overlays"))
        return None, [source.issue(named_at, "E_UNKNOWN_OVERLAY", message)]
    return (overlay if isinstance(overlay, MappingNode) else None), []


def _providers(source: SourceMap) -> dict[str, str]:
    scalars = {
        name: source.scalar(("targets", name, "provider")) for name in _keys(source, "targets")
    }
    return {name: scalar.written if scalar else "" for name, scalar in scalars.items()}


def _keys(source: SourceMap, section: str) -> list[str]:
    node = source.node((section,))
    return list(node.entries) if isinstance(node, MappingNode) else []


def _merged(root: MappingNode, overlay: MappingNode | None) -> MappingNode:
    if overlay is None:
        return root
    known = {key: entry for key, entry in overlay.entries.items() if key in _IN_OVERLAYS}
    merged = merge(root, MappingNode(overlay.mark, known))
    return merged if isinstance(merged, MappingNode) else root


def _expanded(root: MappingNode, env: Mapping[str, str]) -> MappingNode:
    """Expand the sections that a run reads."""
    entries = {
        key: Entry(entry.key, entry.mark, expand_node(entry.node, env, (key,)))
        if key in _IN_OVERLAYS
        else entry
        for key, entry in root.entries.items()
    }
    return MappingNode(root.mark, entries)


def _checked(
    source: SourceMap, target_name: str | None
) -> tuple[dict[str, Any], list[ValidationIssue]]:
    """Make a model of each part."""
    document = to_data(source.root) if source.root else {}
    issues = [
        source.issue((key,), "E_UNKNOWN_KEY", f"unknown key{did_you_mean(key, _TOP_LEVEL)}")
        for key in document
        if key not in _TOP_LEVEL and not key.startswith("x-")
    ]
    issues += _check_version(document, source)
    parts: dict[str, Any] = {"version": 1}
    parts["project"], found = _check_project(document, source)
    issues += found

    def entries(section: str, make: Callable[[str, dict[str, Any]], Made[M]]) -> dict[str, M]:
        made: dict[str, M] = {}
        bodies, found = _bodies(document, (section,), source)
        issues.extend(found)
        for name, body in bodies.items():
            model, found = make(name, body)
            issues.extend(found)
            if model is not None:
                made[name] = model
        return made

    def component(name: str, body: dict[str, Any]) -> Made[ComponentConfig]:
        return check_model(
            ComponentConfig, body, ("components", name), source, given={"name": name}
        )

    def task(name: str, body: dict[str, Any]) -> Made[TaskConfig]:
        return check_model(TaskConfig, body, ("tasks", name), source, given={"name": name})

    def target(name: str, body: dict[str, Any]) -> Made[TargetConfig]:
        return _check_target(name, body, source, selected=name == target_name)

    parts["components"] = entries("components", component)
    parts["tasks"] = entries("tasks", task)
    parts["targets"] = entries("targets", target)
    parts["overlays"], found = _bodies(document, ("overlays",), source)
    for name, body in parts["overlays"].items():
        found += _check_overlay(name, body, source)
    return parts, [*issues, *found]


def _check_version(document: dict[str, Any], source: SourceMap) -> list[ValidationIssue]:
    if "version" not in document:
        message = "this key is required: write `version: 1`"
        return [source.issue(("version",), "E_MISSING_KEY", message)]
    version = document["version"]
    if version == 1 and type(version) is int:
        return []
    message = f"must be 1, the version of manifests that this version of Scalable reads, not {version!r:.40}"
    return [source.issue(("version",), "E_BAD_VERSION", message)]


def _check_project(document: dict[str, Any], source: SourceMap) -> Made[ProjectConfig]:
    project = document.get("project")
    if "project" not in document:
        message = "this key is required: write `project: {name: …}`"
        return None, [source.issue(("project",), "E_MISSING_KEY", message)]
    if not isinstance(project, dict):
        return None, [_no_mapping(("project",), source)]
    return check_model(ProjectConfig, project, ("project",), source)


def _check_target(
    name: str, body: dict[str, Any], source: SourceMap, *, selected: bool
) -> Made[TargetConfig]:
    own = {key: value for key, value in body.items() if key in ("provider", "overlay")}
    options = {
        key: value for key, value in body.items() if key not in own and not key.startswith("x-")
    }
    return check_model(
        TargetConfig,
        own,
        ("targets", name),
        source,
        given={"name": name, "options": options},
        unset="error" if selected else "warning",
    )


def _check_overlay(name: str, body: dict[str, Any], source: SourceMap) -> list[ValidationIssue]:
    """Check a part of a manifest: nothing is required in it, and what has variables is not known yet."""
    at = ("overlays", name)
    issues = [
        source.issue((*at, key), "E_UNKNOWN_KEY", f"unknown key{did_you_mean(key, _IN_OVERLAYS)}")
        for key in body
        if key not in _IN_OVERLAYS and not key.startswith("x-")
    ]
    found: list[ValidationIssue] = []
    if isinstance(project := body.get("project"), dict):
        found += check_model(ProjectConfig, project, (*at, "project"), source)[1]
    for section, model in (("components", ComponentConfig), ("tasks", TaskConfig)):
        entries, wrong = _bodies(body, (*at, section), source)
        issues += wrong
        for key, entry in entries.items():
            given = {"name": key}
            found += check_model(model, entry, (*at, section, key), source, given=given)[1]
    issues += _bodies(body, (*at, "targets"), source)[1]
    return issues + [
        issue
        for issue in found
        if issue.code != "E_MISSING_KEY" and not _has_variable(source.node(issue.path))
    ]


def _has_variable(node: Node | None) -> bool:
    return node is not None and "${" in canonical_json({"": to_data(node)})


def _bodies(
    document: dict[str, Any], at: KeyPath, source: SourceMap
) -> tuple[dict[str, dict[str, Any]], list[ValidationIssue]]:
    """Give the entries of a section, by name; a section may be null."""
    section = document.get(str(at[-1]))
    if section is None:
        return {}, []
    if not isinstance(section, dict):
        return {}, [_no_mapping(at, source)]
    issues, bodies = [], {}
    for name, body in section.items():
        if not re.fullmatch(NAME_PATTERN, name):
            issues.append(source.issue((*at, name), "E_BAD_NAME", f"the name {BAD_NAME}"))
        elif not isinstance(body, dict):
            issues.append(_no_mapping((*at, name), source))
        else:
            bodies[name] = body
    return bodies, issues


def _no_mapping(path: KeyPath, source: SourceMap) -> ValidationIssue:
    message = "must be a mapping; write {} for one without keys"
    return source.issue(path, "E_BAD_VALUE", message)
