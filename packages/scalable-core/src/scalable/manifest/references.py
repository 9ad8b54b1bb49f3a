"""What one part of a manifest says of another: names that have to exist, counts that have to fit."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from scalable.errors import did_you_mean
from scalable.manifest.issues import ValidationIssue
from scalable.manifest.schema import ManifestModel
from scalable.manifest.sourcemap import SourceMap

__all__ = ["References", "find_dangling", "unknown_overlay"]


@dataclass(frozen=True, repr=False)
class References:
    """The names in a manifest, and where they are used.

    Parameters
    ----------
    components : collection of str
        The components.
    overlays : mapping of str to collection of str
        The overlays, each with the components that it adds.
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

        def mappings(section: object) -> dict[str, dict[str, Any]]:
            found = section if isinstance(section, dict) else {}
            return {name: body for name, body in found.items() if isinstance(body, dict)}

        tasks = mappings(document.get("tasks"))
        components = document.get("components")
        return cls(
            components=list(components) if isinstance(components, dict) else [],
            overlays={
                name: list(mappings(body.get("components")))
                for name, body in mappings(document.get("overlays")).items()
            },
            task_components={
                name: body["component"]
                for name, body in tasks.items()
                if isinstance(body.get("component"), str)
            },
            targets=mappings(document.get("targets")),
        )

    @classmethod
    def of_manifest(cls, manifest: ManifestModel) -> Self:
        """Take them from a manifest."""
        return cls(
            components=list(manifest.components),
            overlays={
                name: list(body.get("components") or ()) for name, body in manifest.overlays.items()
            },
            task_components={name: task.component for name, task in manifest.tasks.items()},
            targets={
                name: {"overlay": target.overlay, **target.options}
                for name, target in manifest.targets.items()
            },
        )


def unknown_overlay(name: str, known: Collection[str]) -> str:
    """Say that there is no such overlay."""
    listed = ", ".join(known) or "none"
    return f"there is no overlay {name!r}{did_you_mean(name, known)}; the overlays are: {listed}"


def find_dangling(names: References, source: SourceMap) -> Iterator[ValidationIssue]:
    """Find every name that refers to nothing, and every count that cannot be."""
    for task, component in names.task_components.items():
        if component not in names.components:
            near = did_you_mean(component, names.components)
            shown = _shown(component, ("tasks", task, "component"), source)
            message = f"there is no component {shown}{near}"
            yield source.issue(("tasks", task, "component"), "E_UNKNOWN_COMPONENT", message)
    for target, options in names.targets.items():
        yield from _dangling_of_target(target, options, names, source)


def _dangling_of_target(
    target: str, options: Mapping[str, Any], names: References, source: SourceMap
) -> Iterator[ValidationIssue]:
    overlay = options.get("overlay")
    components = set(names.components)
    if isinstance(overlay, str):
        components |= set(names.overlays.get(overlay, ()))
        if overlay not in names.overlays:
            message = unknown_overlay(overlay, names.overlays)
            yield source.issue(("targets", target, "overlay"), "E_UNKNOWN_OVERLAY", message)
    workers = options.get("workers")
    if isinstance(workers, dict):
        for tag in workers:
            if tag not in components:
                near = did_you_mean(tag, components)
                message = f"there is no component {tag!r}{near}; its name is the tag of a group"
                yield source.issue(("targets", target, "workers", tag), "E_UNKNOWN_TAG", message)


def _shown(text: str, path: tuple[str, ...], source: SourceMap) -> str:
    scalar = source.scalar(path)
    return repr(scalar.written if scalar else text)
