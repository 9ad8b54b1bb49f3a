"""Laying one document over another."""

from __future__ import annotations

from scalable.manifest.document.nodes import Entry, MappingNode

__all__ = ["merge"]


def merge(base: MappingNode, overlay: MappingNode) -> MappingNode:
    """Lay `overlay` over `base`: mappings merge key by key; everything else, null included, replaces.

    Neither is changed, and what is the same in the result is shared. A value keeps the position where it was written.
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
