"""What one part of a manifest says of another: names that have to exist, counts that have to fit."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from scalable.errors import did_you_mean
from scalable.manifest.counts import find_misfits
from scalable.manifest.issues import ValidationIssue
from scalable.manifest.schema import ManifestModel
from scalable.manifest.sourcemap import SourceMap

__all__ = ["References", "find_dangling", "unknown_overlay"]

_MOST_HINTS = 50
"""Names that get a "did you mean": each is compared with all that exist, and there may be thousands of both."""


@dataclass(frozen=True, repr=False)
class References:
    """The names in a manifest, and where they are used.

    Parameters
    ----------
    components : collection of str
        The components.
    overlays : mapping of str to collection of str
        The overlays, each with the components that it speaks of.
    task_components : mapping of str to str
        The component of each task.
    targets : mapping of str to mapping
        What each target says.
    """

    components: Collection[str]
    overlays: Mapping[str, Collection[str]]
    task_components: Mapping[str, str]
    targets: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> Self:
        """Take what can be taken from a document that may be wrong."""
        return cls(
            components=_mapping(document.get("components")),
            overlays={
                name: _mapping(body.get("components"))
                for name, body in _mappings(document.get("overlays")).items()
            },
            task_components={
                name: body["component"]
                for name, body in _mappings(document.get("tasks")).items()
                if isinstance(body.get("component"), str)
            },
            targets=_mappings(document.get("targets")),
        )

    @classmethod
    def of_manifest(cls, manifest: ManifestModel) -> Self:
        """Take them from a manifest."""
        return cls(
            components=manifest.components,
            overlays={
                name: _mapping(body.get("components")) for name, body in manifest.overlays.items()
            },
            task_components={name: task.component for name, task in manifest.tasks.items()},
            targets={
                name: {**target.options, "overlay": target.overlay}
                for name, target in manifest.targets.items()
            },
        )


def _mapping(section: object) -> Mapping[str, Any]:
    return section if isinstance(section, Mapping) else {}


def _mappings(section: object) -> dict[str, Mapping[str, Any]]:
    return {key: body for key, body in _mapping(section).items() if isinstance(body, Mapping)}


def unknown_overlay(name: str, known: Collection[str]) -> str:
    """Say that there is no such overlay."""
    listed = ", ".join(known) or "none"
    return f"there is no overlay {name!r}{did_you_mean(name, known)}; the overlays are: {listed}"


def find_dangling(names: References, source: SourceMap) -> Iterator[ValidationIssue]:
    """Find every name that refers to nothing, and every count that cannot be."""
    hints: dict[str, str] = {}

    for task, component in names.task_components.items():
        if component not in names.components:
            at = ("tasks", task, "component")
            scalar = source.scalar(at)
            written = scalar.written if scalar else component
            if component not in hints and len(hints) < _MOST_HINTS:
                hints[component] = did_you_mean(component, names.components)
            message = f"there is no component {written!r}{hints.get(component, '')}"
            yield source.issue(at, "E_UNKNOWN_COMPONENT", message)
    for target, options in names.targets.items():
        yield from _of_target(target, options, names, source)


def _of_target(
    target: str, options: Mapping[str, Any], names: References, source: SourceMap
) -> Iterator[ValidationIssue]:
    at = ("targets", target)
    overlay = options.get("overlay")
    # An overlay that is not merged now may bring components of its own.
    components = {
        **dict.fromkeys(names.components),
        **dict.fromkeys(names.overlays.get(overlay, ())),
    }
    if isinstance(overlay, str) and overlay not in names.overlays:
        message = unknown_overlay(overlay, names.overlays)
        yield source.issue((*at, "overlay"), "E_UNKNOWN_OVERLAY", message)
    for tag in _mapping(options.get("workers")):
        if tag not in components:
            message = f"there is no component {tag!r}{did_you_mean(tag, components)}"
            yield source.issue((*at, "workers", tag), "E_UNKNOWN_TAG", message)
    for path, message in find_misfits(options, components):
        yield source.issue((*at, *path), "E_BAD_COUNT", message)
