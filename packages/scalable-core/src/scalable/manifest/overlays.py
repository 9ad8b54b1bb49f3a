"""Overlays: parts of a manifest that are merged into it."""

from __future__ import annotations

from dataclasses import replace

from scalable.manifest.document.nodes import Entry, MappingNode, child

__all__ = ["MERGED_SECTIONS", "NAMED_SECTIONS", "NEW", "merge", "merge_overlay", "without_marks"]

MERGED_SECTIONS = ("project", "targets", "components", "tasks")
"""The sections that an overlay may have."""

NAMED_SECTIONS = ("targets", "components", "tasks")
"""Those of them whose entries have names."""

NEW = "new"
"""The key by which an entry of an overlay says that the manifest has none of its name."""


def merge_overlay(root: MappingNode, name: str | None) -> MappingNode:
    """Return a document with one of its overlays merged into it; without a name, as it is."""
    overlay = None if name is None else child(child(root, "overlays"), name)
    if not isinstance(overlay, MappingNode):
        return root
    known = {key: entry for key, entry in overlay.entries.items() if key in MERGED_SECTIONS}
    return merge(root, without_marks(MappingNode(overlay.mark, known)))


def without_marks(overlay: MappingNode) -> MappingNode:
    """Return an overlay without what says that its entries are new."""
    sections = dict(overlay.entries)
    for name in NAMED_SECTIONS:
        section = sections.get(name)
        if section is not None and isinstance(section.node, MappingNode):
            entries = {key: _without(entry, NEW) for key, entry in section.node.entries.items()}
            sections[name] = replace(section, node=MappingNode(section.node.mark, entries))
    return MappingNode(overlay.mark, sections)


def _without(entry: Entry, key: str) -> Entry:
    if not isinstance(entry.node, MappingNode) or key not in entry.node.entries:
        return entry
    kept = {each: inner for each, inner in entry.node.entries.items() if each != key}
    return replace(entry, node=MappingNode(entry.node.mark, kept))


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
