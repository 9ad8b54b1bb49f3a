"""The sections of a document → models, one part after the other, so that no problem hides another."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from scalable.errors import did_you_mean
from scalable.manifest.checking import check_model, is_undecided
from scalable.manifest.document.nodes import MappingNode, is_expanded, to_written
from scalable.manifest.document.place import Place
from scalable.manifest.issues import Severity, ValidationIssue
from scalable.manifest.overlays import MERGED_SECTIONS
from scalable.manifest.schema import (
    NAME_PATTERN,
    NAME_RULE,
    ComponentConfig,
    FrozenModel,
    ProjectConfig,
    TargetConfig,
    TaskConfig,
)
from scalable.manifest.selection import Selection

__all__ = ["check_sections"]

_TOP_LEVEL = ("version", *MERGED_SECTIONS, "overlays")

M = TypeVar("M", bound=FrozenModel)


def check_sections(
    document: Place, selection: Selection
) -> tuple[dict[str, Any], list[ValidationIssue]]:
    """Return the sections of a `ManifestModel`, as far as they are valid, and every problem in them.

    Parameters
    ----------
    document : Place
        The merged and expanded document.
    selection : Selection
        The selected target, and the overlay that was merged.
    """
    check = _SectionCheck()
    check.keys(document, _TOP_LEVEL)
    check.version(document.child("version"))
    project = check.project(document.child("project"))
    components = check.models(document.child("components"), ComponentConfig)
    tasks = check.models(document.child("tasks"), TaskConfig)
    targets = {
        name: target
        for name, body in check.mappings(document.child("targets"))
        if (target := check.target(name, body, selected=name == selection.target))
    }
    overlays = dict(check.mappings(document.child("overlays")))
    for name, body in overlays.items():
        check.overlay(name, body, was_merged=name == selection.overlay)
    sections = {
        "version": 1,
        "project": project,
        "targets": targets,
        "components": components,
        "tasks": tasks,
        "overlays": {name: body.data for name, body in overlays.items()},
    }
    return sections, check.issues


class _SectionCheck:
    """Collects the problems of one document.

    Parameters
    ----------
    partial : bool
        The document is an overlay that is not merged: no key is required in it, and values with variables are
        not known yet.
    """

    def __init__(self, *, partial: bool = False) -> None:
        self.partial = partial
        self.issues: list[ValidationIssue] = []

    def keys(self, part: Place, known: Iterable[str]) -> None:
        for key, place in part.entries():
            if key not in known and not key.startswith("x-"):
                self._report(place, "E_UNKNOWN_KEY", f"unknown key{did_you_mean(key, known)}")

    def version(self, place: Place) -> None:
        version = place.data
        if version is None:
            message = "this key is required: write `version: 1`"
            self._report(place, "E_MISSING_KEY", message)
        elif version != 1 or type(version) is not int:
            message = "must be 1, the version of manifests that this Scalable reads"
            self._report(place, "E_BAD_VERSION", message)

    def project(self, place: Place) -> ProjectConfig | None:
        project = place.data
        if project is None:
            message = "this key is required: write `project: {name: …}`"
            self._report(place, "E_MISSING_KEY", message)
            return None
        if not isinstance(project, dict):
            self._report_not_a_mapping(place)
            return None
        made, issues = check_model(ProjectConfig, project, place, partial=self.partial)
        self.issues += issues
        return made

    def models(self, section: Place, model: type[M]) -> dict[str, M]:
        """Check a section whose entries are models by name."""
        models = {}
        for name, place in self.mappings(section):
            given = {"name": name}
            made, issues = check_model(model, place.data, place, given=given, partial=self.partial)
            self.issues += issues
            if made is not None:
                models[name] = made
        return models

    def target(self, name: str, place: Place, *, selected: bool) -> TargetConfig | None:
        body = place.data
        own = {key: value for key, value in body.items() if key in ("provider", "overlay")}
        options = {
            key: value for key, value in body.items() if key not in own and not key.startswith("x-")
        }
        given = {"name": name, "options": options}
        unset: Severity = "error" if selected else "warning"
        made, issues = check_model(
            TargetConfig, own, place, given=given, unset=unset, partial=self.partial
        )
        self.issues += issues
        if made is not None and place.node is not None and is_expanded(place.node):
            written = to_written(place.node)
            made.show_as({**written, "options": {key: written[key] for key in options}})
        return made

    def overlay(self, name: str, place: Place, *, was_merged: bool) -> None:
        """Check an overlay; once merged, its content is checked in the merged document."""
        if not re.fullmatch(NAME_PATTERN, name):
            self._report(place, "E_BAD_NAME", NAME_RULE)
        self.keys(place, MERGED_SECTIONS)
        if was_merged:
            return
        partial = _SectionCheck(partial=True)
        partial.project(place.child("project"))
        partial.models(place.child("components"), ComponentConfig)
        partial.models(place.child("tasks"), TaskConfig)
        for target, options in partial.mappings(place.child("targets")):
            partial.target(target, options, selected=False)
        self.issues += partial.issues

    def mappings(self, section: Place) -> Iterator[tuple[str, Place]]:
        """Yield the entries of a section by name; a section that is null is empty."""
        if section.node is None or (section.scalar and section.scalar.value is None):
            return
        if not isinstance(section.node, MappingNode):
            self._report_not_a_mapping(section)
            return
        for name, place in section.entries():
            if isinstance(place.node, MappingNode):
                yield name, place
            else:
                self._report_not_a_mapping(place)

    def _report_not_a_mapping(self, place: Place) -> None:
        message = "must be a mapping; write {} for one without keys"
        self._report(place, "E_BAD_VALUE", message)

    def _report(self, place: Place, code: str, message: str) -> None:
        if not (self.partial and is_undecided(place, code)):
            self.issues.append(place.issue(code, message))
