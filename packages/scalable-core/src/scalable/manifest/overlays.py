"""Laying one document over another."""

from __future__ import annotations

from scalable.manifest.nodes import MappingNode, Node

__all__ = ["merge"]


def merge(base: Node, overlay: Node) -> Node:
    """Lay `overlay` over `base`: mappings merge key by key; everything else, null included, replaces.

    Neither is changed. A value keeps the position where it was written.
    """
    if not (isinstance(base, MappingNode) and isinstance(overlay, MappingNode)):
        return overlay
    entries = dict(base.entries)
    for key, entry in overlay.entries.items():
        below = entries.get(key)
        if below is None or not isinstance(entry.node, MappingNode):
            entries[key] = entry
        elif isinstance(below.node, MappingNode):
            entries[key] = type(below)(below.key, below.mark, merge(below.node, entry.node))
        else:
            entries[key] = entry
    return MappingNode(base.mark, entries)
