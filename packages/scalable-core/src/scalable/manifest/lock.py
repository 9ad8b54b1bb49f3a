"""The lock: one hash for the content of a manifest, whatever its layout, comments and key order."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

__all__ = ["canonical_json", "manifest_lock"]


def canonical_json(raw: Mapping[str, Any]) -> str:
    """Return a merged, unexpanded document as JSON, the same text for equal documents.

    Examples
    --------
    >>> canonical_json({"version": 1, "project": {"name": "x"}})
    '{"project":{"name":"x"},"version":1}'
    """
    return json.dumps(
        raw, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def manifest_lock(raw: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the canonical JSON of a merged, unexpanded document, in hex.

    Examples
    --------
    >>> manifest_lock({"version": 1, "project": {"name": "x"}})[:12]
    '207ab5aee18f'
    """
    return sha256(canonical_json(raw).encode()).hexdigest()
