"""The sections of a document → models, one part after the other, so that no problem hides another."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

from scalable.errors import did_you_mean
from scalable.manifest.checking import check_model, is_undecided
from scalable.manifest.document.nodes import MappingNode, is_expanded, to_written
from scalable.manifest.document.place import Place
from scalable.manifest.issues import Severity, ValidationIssue
from scalable.manifest.overlays import MERGED_SECTIONS, NAMED_SECTIONS, NEW, without_marks
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
    document: Place, selection: Selection, base: Place
) -> tuple[dict[str, Any], list[ValidationIssue]]:
    """Return the sections of a `ManifestModel`, as far as they are valid, and every problem in them.

    Parameters
    ----------
    document : Place
        The merged and expanded document.
    selection : Selection
        The selected target, and the overlay that was merged.
    base : Place
        The document without any overlay merged.
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
        check.names(body, base)
    sections = {
        "version": 1,
        "project": project,
        "targets": targets,
        "components": components,
        "tasks": tasks,
        "overlays": {name: body.data for name, body in overlays.items()},
    }
    return sections, check.issues


_ENTRIES = {
    "targets": ("local", "provider", "local"),
    "components": ("model", "cpus", "1"),
    "tasks": ("simulate", "component", "model"),
    "overlays": ("big", "components", "{model: {cpus: 16}}"),
}
"""For each section: the name of an entry, and a key in it with its value."""

_UNKNOWN = {
    "targets": "E_UNKNOWN_TARGET",
    "components": "E_UNKNOWN_COMPONENT",
    "tasks": "E_UNKNOWN_TASK",
}

_MEANT_BY_TEXT = {"targets": "provider", "tasks": "component", "components": "image"}
"""The key that a text stands for which is written in the place of an entry."""


def _as_mapping(place: Place) -> str:
    """Return how to write as a mapping what is none."""
    *above, key = map(str, place.path)
    if not above and key == "project":
        name = place.scalar.written if place.scalar else "climate"
        return f"`project: {{name: {name}}}`"
    section = key if not above else above[-1]
    if section not in _ENTRIES:
        return "{} for one without keys"
    name, inner, value = _ENTRIES[section]
    if above:  # an entry
        text = place.scalar and isinstance(place.scalar.value, str) and section in _MEANT_BY_TEXT
        if text and place.scalar:
            inner, value = _MEANT_BY_TEXT[section], place.scalar.written
        return f"`{key}: {{{inner}: {value}}}`"
    for item in place.items():
        written = item.child("name").scalar or item.scalar
        name = written.written if written else name
        break
    return f"each entry under its name, such as `{name}: {{{inner}: {value}}}`"


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
        if isinstance(place.node, MappingNode):
            place = replace(place, node=without_marks(place.node))
        partial.project(place.child("project"))
        partial.models(place.child("components"), ComponentConfig)
        partial.models(place.child("tasks"), TaskConfig)
        for target, options in partial.mappings(place.child("targets")):
            partial.target(target, options, selected=False)
        self.issues += partial.issues

    def names(self, overlay: Place, base: Place) -> None:
        """Check that an overlay changes what there is, or says of what it adds that it is new."""
        for section in NAMED_SECTIONS:
            known = [name for name, _ in base.child(section).entries()]
            for name, place in overlay.child(section).entries():
                new = place.child(NEW)
                if new.node is not None and new.data is not True:
                    self._report(new, "E_BAD_VALUE", "must be true, or left out")
                elif new.node is not None and name in known:
                    self._report(new, "E_BAD_VALUE", f"there is {name!r} already; remove `{NEW}`")
                elif new.node is None and name not in known and re.fullmatch(NAME_PATTERN, name):
                    what = f"there is no {section.removesuffix('s')} {name!r} to change"
                    remedy = f"write `{NEW}: true` in it to add one"
                    message = f"{what}{did_you_mean(name, known)}; {remedy}"
                    self._report(place, _UNKNOWN[section], message)

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
            elif place.scalar and place.scalar.value is None and not place.scalar.text:
                yield (
                    name,
                    replace(place, node=MappingNode(place.mark)),
                )  # `model:`, and nothing behind it
            else:
                self._report_not_a_mapping(place)

    def _report_not_a_mapping(self, place: Place) -> None:
        self._report(place, "E_BAD_VALUE", f"must be a mapping; write {_as_mapping(place)}")

    def _report(self, place: Place, code: str, message: str) -> None:
        if not (self.partial and is_undecided(place, code)):
            self.issues.append(place.issue(code, message))
