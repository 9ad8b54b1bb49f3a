"""The target and the overlay to use."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from scalable.errors import did_you_mean
from scalable.manifest.document.place import Place
from scalable.manifest.environment import ExpansionError, expand_text
from scalable.manifest.issues import ValidationIssue

__all__ = ["ChooseTarget", "Selection", "select", "unknown_overlay"]

ChooseTarget: TypeAlias = Callable[[Mapping[str, str]], str | None]
"""Chooses a target, given the provider of each as written."""


@dataclass(frozen=True)
class Selection:
    """The target and the overlay of a run.

    Parameters
    ----------
    target : str or None
        None if no target is selected.
    overlay : str or None
        None if nothing is to be merged.
    issue : ValidationIssue or None
        The problem, if the target or the overlay does not exist.
    """

    target: str | None = None
    overlay: str | None = None
    issue: ValidationIssue | None = None


def select(
    document: Place,
    target_name: str | ChooseTarget | None,
    overlay_name: str | None,
    env: Mapping[str, str],
) -> Selection:
    """Select a target and an overlay of a document that is neither merged nor expanded.

    The overlay that the caller names replaces the target's own.
    """
    section = document.child("targets")
    targets = dict(section.entries())
    if callable(target_name):
        scalars = {name: place.child("provider").scalar for name, place in targets.items()}
        target_name = target_name(
            {name: scalar.written if scalar else "" for name, scalar in scalars.items()}
        )
    if target_name is not None and target_name not in targets:
        near = did_you_mean(target_name, targets)
        listed = ", ".join(targets) or "none"
        message = f"there is no target {target_name!r}{near}; the targets are: {listed}"
        return Selection(target_name, None, section.issue("E_UNKNOWN_TARGET", message))
    place = document.child("overlays")
    overlays = [name for name, _ in place.entries()]
    written = overlay_name
    if overlay_name is None and target_name is not None:
        place = targets[target_name].child("overlay")
        written, overlay_name = _overlay_at(place, env)
    if written is None or overlay_name is None or overlay_name in overlays:
        return Selection(target_name, overlay_name)
    issue = place.issue("E_UNKNOWN_OVERLAY", unknown_overlay(written, overlays))
    return Selection(target_name, None, issue)


def _overlay_at(place: Place, env: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Return the overlay of a target: as written, and expanded."""
    scalar = place.scalar
    if scalar is None or not isinstance(scalar.value, str):
        return None, None
    try:
        return scalar.written, expand_text(scalar.written, env)
    except ExpansionError:  # which is reported when the whole document is expanded
        return scalar.written, None


def unknown_overlay(name: str, known: Collection[str]) -> str:
    """Return the message for an overlay that does not exist."""
    listed = ", ".join(known) or "none"
    return f"there is no overlay {name!r}{did_you_mean(name, known)}; the overlays are: {listed}"
