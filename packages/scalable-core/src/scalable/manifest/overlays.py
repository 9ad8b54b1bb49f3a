"""Overlays: parts of a manifest that are merged into it."""

from __future__ import annotations

from scalable.manifest.document.nodes import Entry, MappingNode, child

__all__ = ["MERGED_SECTIONS", "merge", "merge_overlay"]

MERGED_SECTIONS = ("project", "targets", "components", "tasks")
"""The sections that an overlay may have."""


def merge_overlay(root: MappingNode, name: str | None) -> MappingNode:
    """Return a document with one of its overlays merged into it; without a name, as it is."""
    overlay = None if name is None else child(child(root, "overlays"), name)
    if not isinstance(overlay, MappingNode):
        return root
    known = {key: entry for key, entry in overlay.entries.items() if key in MERGED_SECTIONS}
    return merge(root, MappingNode(overlay.mark, known))


def merge(base: MappingNode, overlay: MappingNode) -> MappingNode:
    """Return `overlay` merged into `base`: mappings merge key by key; everything else, null included, replaces.

    Neither is changed; parts that stay the same are shared. A value keeps the position where it was written.
    """
    entries = dict(base.entries)
    for key, entry in overlay.entries.items():
        below = entries.get(key)
        if (
            below is not None
            and isinstance(below.node, MappingNode)
            and isinstance(entry.node, MappingNode)
        ):
            entries[key] = Entry(below.key, below.mark, merge(below.node, entry.node))
        else:
            entries[key] = entry
    return MappingNode(base.mark, entries)
