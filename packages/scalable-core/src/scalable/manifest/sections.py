"""The sections of a document to models, one part after the other, so that no problem hides another."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from scalable.errors import did_you_mean
from scalable.manifest.checking import check_model
from scalable.manifest.document.nodes import is_expanded, to_data, to_written
from scalable.manifest.document.paths import KeyPath
from scalable.manifest.document.sourcemap import SourceMap
from scalable.manifest.issues import Severity, ValidationIssue
from scalable.manifest.lock import canonical_json
from scalable.manifest.messages import BAD_NAME
from scalable.manifest.schema import (
    NAME_PATTERN,
    ComponentConfig,
    FrozenModel,
    ProjectConfig,
    TargetConfig,
    TaskConfig,
)
from scalable.manifest.selection import Selection

__all__ = ["MERGED_SECTIONS", "check_sections"]

MERGED_SECTIONS = ("project", "targets", "components", "tasks")
"""What an overlay may say something about."""

_TOP_LEVEL = ("version", *MERGED_SECTIONS, "overlays")

M = TypeVar("M", bound=FrozenModel)


def check_sections(
    source: SourceMap, selection: Selection
) -> tuple[dict[str, Any], list[ValidationIssue]]:
    """Make the sections of a `ManifestModel`, as far as they are right, and say everything that is wrong.

    Parameters
    ----------
    source : SourceMap
        The merged and expanded document.
    selection : Selection
        The target that is meant, and the overlay that was merged.
    """
    document = to_data(source.root) if source.root else {}
    check = _SectionCheck(source)
    check.keys(document, (), _TOP_LEVEL)
    check.version(document)
    project = check.project(document, ())
    components = check.named(document, (), "components", ComponentConfig)
    tasks = check.named(document, (), "tasks", TaskConfig)
    targets = {
        name: target
        for name, body in check.bodies(document, (), "targets")
        if (target := check.target((), name, body, selected=name == selection.target))
    }
    overlays = dict(check.bodies(document, (), "overlays"))
    for name, body in overlays.items():
        check.overlay(name, body, was_merged=name == selection.overlay)
    sections = {
        "version": 1,
        "project": project,
        "targets": targets,
        "components": components,
        "tasks": tasks,
        "overlays": overlays,
    }
    return sections, check.issues


class _SectionCheck:
    """Collects the problems of one document."""

    def __init__(self, source: SourceMap) -> None:
        self.source = source
        self.issues: list[ValidationIssue] = []

    def keys(self, body: Mapping[str, Any], at: KeyPath, known: Iterable[str]) -> None:
        for key in body:
            if key not in known and not key.startswith("x-"):
                self._report((*at, key), "E_UNKNOWN_KEY", f"unknown key{did_you_mean(key, known)}")

    def version(self, document: Mapping[str, Any]) -> None:
        version = document.get("version")
        if version is None:
            message = "this key is required: write `version: 1`"
            self._report(("version",), "E_MISSING_KEY", message)
        elif version != 1 or type(version) is not int:
            message = "must be 1, the version of manifests that this Scalable reads"
            self._report(("version",), "E_BAD_VERSION", message)

    def project(self, document: Mapping[str, Any], at: KeyPath) -> ProjectConfig | None:
        project, where = document.get("project"), (*at, "project")
        if project is None:
            message = "this key is required: write `project: {name: …}`"
            self._report(where, "E_MISSING_KEY", message)
            return None
        if not isinstance(project, dict):
            self._report_not_a_mapping(where)
            return None
        made, issues = check_model(ProjectConfig, project, where, self.source)
        self.issues += issues
        return made

    def named(
        self, document: Mapping[str, Any], at: KeyPath, section: str, model: type[M]
    ) -> dict[str, M]:
        """Check a section whose entries are models by name."""
        models = {}
        for name, body in self.bodies(document, at, section):
            where = (*at, section, name)
            made, issues = check_model(model, body, where, self.source, given={"name": name})
            self.issues += issues
            if made is not None:
                models[name] = made
        return models

    def target(
        self, at: KeyPath, name: str, body: Mapping[str, Any], *, selected: bool
    ) -> TargetConfig | None:
        where = (*at, "targets", name)
        own = {key: value for key, value in body.items() if key in ("provider", "overlay")}
        options = {
            key: value for key, value in body.items() if key not in own and not key.startswith("x-")
        }
        given = {"name": name, "options": options}
        unset: Severity = "error" if selected else "warning"
        made, issues = check_model(TargetConfig, own, where, self.source, given=given, unset=unset)
        self.issues += issues
        node = self.source.node(where)
        if made is not None and node is not None and is_expanded(node):
            written = to_written(node)
            made.show_as({**written, "options": {key: written[key] for key in options}})
        return made

    def overlay(self, name: str, body: Mapping[str, Any], *, was_merged: bool) -> None:
        """Check a part of a manifest: nothing is required in it, and what has variables is not known yet."""
        at = ("overlays", name)
        if not re.fullmatch(NAME_PATTERN, name):
            self._report(at, "E_BAD_NAME", BAD_NAME)
        self.keys(body, at, MERGED_SECTIONS)
        if was_merged:
            return
        partial = _SectionCheck(self.source)
        partial.project(body, at)
        partial.named(body, at, "components", ComponentConfig)
        partial.named(body, at, "tasks", TaskConfig)
        for target, options in partial.bodies(body, at, "targets"):
            partial.target(at, target, options, selected=False)
        self.issues += [
            issue
            for issue in partial.issues
            if issue.code != "E_MISSING_KEY" and not self._has_variable(issue.path)
        ]

    def bodies(
        self, document: Mapping[str, Any], at: KeyPath, section: str
    ) -> Iterable[tuple[str, dict[str, Any]]]:
        """Give the entries of a section by name; the section may be null, which is empty."""
        entries = document.get(section)
        if entries is None:
            return
        if not isinstance(entries, dict):
            self._report_not_a_mapping((*at, section))
            return
        for name, body in entries.items():
            if isinstance(body, dict):
                yield name, body
            else:
                self._report_not_a_mapping((*at, section, name))

    def _has_variable(self, path: str) -> bool:
        node = self.source.node(path)
        return node is not None and "${" in canonical_json({"": to_data(node)})

    def _report_not_a_mapping(self, path: KeyPath) -> None:
        message = "must be a mapping; write {} for one without keys"
        self._report(path, "E_BAD_VALUE", message)

    def _report(self, path: KeyPath, code: str, message: str) -> None:
        self.issues.append(self.source.issue(path, code, message))
