"""References between the parts of a manifest: names that have to exist."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from scalable.errors import did_you_mean
from scalable.manifest.document.place import Place
from scalable.manifest.issues import ValidationIssue
from scalable.manifest.schema import ManifestModel
from scalable.manifest.selection import unknown_overlay

__all__ = ["References", "find_dangling", "find_unknown_tags"]


@dataclass(frozen=True, repr=False)
class References:
    """The names in a manifest, and where they are used.

    Parameters
    ----------
    components : collection of str
        The components.
    overlays : mapping of str to collection of str
        The overlays, each with its components.
    task_components : mapping of str to str
        The component of each task.
    targets : mapping of str to mapping
        The content of each target.
    """

    components: Collection[str]
    overlays: Mapping[str, Collection[str]]
    task_components: Mapping[str, str]
    targets: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> Self:
        """Return the names of a document that may be invalid, as far as they can be read."""
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
        """Return the names of a manifest."""
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

    def components_of(self, target: str) -> Collection[str]:
        """Return the components that a target may refer to."""
        overlay = self.targets[target].get("overlay")
        if not isinstance(overlay, str):
            return self.components
        # It may bring components of its own, which are not merged while another target is selected.
        return dict.fromkeys([*self.components, *self.overlays.get(overlay, ())])


def _mapping(section: object) -> Mapping[str, Any]:
    return section if isinstance(section, Mapping) else {}


def _mappings(section: object) -> dict[str, Mapping[str, Any]]:
    return {key: body for key, body in _mapping(section).items() if isinstance(body, Mapping)}


def find_dangling(names: References, document: Place) -> Iterator[ValidationIssue]:
    """Yield an issue for every name that does not exist."""
    hint = _Hints()
    for task, component in names.task_components.items():
        if component in names.components:
            continue
        place = document.at(("tasks", task, "component"))
        if not _is_unexpanded(place):
            near = hint(component, names.components)
            message = f"there is no component {_written(component, place)!r}{near}"
            yield place.issue("E_UNKNOWN_COMPONENT", message)
    for target, options in names.targets.items():
        place = document.at(("targets", target))
        overlay = options.get("overlay")
        if isinstance(overlay, str) and overlay not in names.overlays:
            at = place.child("overlay")
            if not _is_unexpanded(at):
                message = unknown_overlay(_written(overlay, at), names.overlays)
                yield at.issue("E_UNKNOWN_OVERLAY", message)
        yield from find_unknown_tags(target, _mapping(options.get("workers")), names, place)


def find_unknown_tags(
    target: str, tags: Iterable[str], names: References, place: Place
) -> Iterator[ValidationIssue]:
    """Yield an issue for every tag in the `workers` of the target at `place` that is not a component."""
    hint = _Hints()
    components = names.components_of(target)
    for tag in tags:
        if tag not in components:
            near = hint(tag, components)
            message = f"there is no component {tag!r}{near}; its name is the tag of a group"
            yield place.at(("workers", tag)).issue("E_UNKNOWN_TAG", message)


class _Hints:
    """A "did you mean" for the first names only, because each is compared with all names, maybe thousands."""

    most = 10

    def __init__(self) -> None:
        self._made: dict[str, str] = {}

    def __call__(self, name: str, known: Collection[str]) -> str:
        if name not in self._made and len(self._made) < self.most:
            self._made[name] = did_you_mean(name, known)
        return self._made.get(name, "")


def _is_unexpanded(place: Place) -> bool:
    return place.scalar is not None and place.scalar.problem is not None


def _written(name: str, place: Place) -> str:
    return place.scalar.written if place.scalar else name
