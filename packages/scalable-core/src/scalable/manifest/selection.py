"""Which target is meant, and which overlay goes with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from scalable.errors import did_you_mean
from scalable.manifest.document.nodes import MappingNode
from scalable.manifest.document.paths import KeyPath
from scalable.manifest.document.sourcemap import SourceMap
from scalable.manifest.environment import ExpansionError, expand_text
from scalable.manifest.issues import ValidationIssue
from scalable.manifest.references import unknown_overlay

__all__ = ["ChooseTarget", "Selection", "select"]

ChooseTarget: TypeAlias = Callable[[Mapping[str, str]], str | None]
"""Chooses a target, given the provider of each as it is written."""


@dataclass(frozen=True)
class Selection:
    """The target and the overlay of a run.

    Parameters
    ----------
    target : str or None
        None if no target is meant.
    overlay : str or None
        None if nothing is to be merged.
    issue : ValidationIssue or None
        What was asked for and is not there.
    """

    target: str | None = None
    overlay: str | None = None
    issue: ValidationIssue | None = None


def select(
    written: SourceMap,
    target_name: str | ChooseTarget | None,
    overlay_name: str | None,
    env: Mapping[str, str],
) -> Selection:
    """Select a target and an overlay of a document that is neither merged nor expanded.

    The overlay that the caller names takes the place of the target's own.
    """
    targets = _names(written, "targets")
    if callable(target_name):
        scalars = {name: written.scalar(("targets", name, "provider")) for name in targets}
        providers = {name: scalar.written if scalar else "" for name, scalar in scalars.items()}
        target_name = target_name(providers)
    if target_name is not None and target_name not in targets:
        near = did_you_mean(target_name, targets)
        listed = ", ".join(targets) or "none"
        message = f"there is no target {target_name!r}{near}; the targets are: {listed}"
        issue = written.issue(("targets",), "E_UNKNOWN_TARGET", message)
        return Selection(target_name, None, issue)
    at: KeyPath = ("overlays",)
    shown = overlay_name
    if overlay_name is None and target_name is not None:
        at = ("targets", target_name, "overlay")
        shown, overlay_name = _overlay_at(at, written, env)
    overlays = _names(written, "overlays")
    if shown is None or overlay_name is None or overlay_name in overlays:
        return Selection(target_name, overlay_name)
    issue = written.issue(at, "E_UNKNOWN_OVERLAY", unknown_overlay(shown, overlays))
    return Selection(target_name, None, issue)


def _overlay_at(
    at: KeyPath, written: SourceMap, env: Mapping[str, str]
) -> tuple[str | None, str | None]:
    """Read the overlay of a target: as written, and what that means."""
    scalar = written.scalar(at)
    if scalar is None or not isinstance(scalar.value, str):
        return None, None
    try:
        return scalar.written, expand_text(scalar.written, env)
    except ExpansionError:  # which is told when the whole document is expanded
        return scalar.written, None


def _names(written: SourceMap, section: str) -> list[str]:
    node = written.node((section,))
    return list(node.entries) if isinstance(node, MappingNode) else []
