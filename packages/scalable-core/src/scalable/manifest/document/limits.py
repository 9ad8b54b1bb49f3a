"""Limits on the size of a document, and the characters that text must not contain."""

from __future__ import annotations

import re

__all__ = ["INVALID_CHARACTERS", "MAX_BYTES", "MAX_DEPTH", "MAX_KEY", "MAX_NODES"]

MAX_BYTES = 10_000_000
"""Bytes of a document."""

MAX_DEPTH = 100
"""Levels of collections within collections."""

MAX_NODES = 250_000
"""Values in a document; an alias counts as everything that it stands for."""

MAX_KEY = 1_000
"""Characters of a key."""

INVALID_CHARACTERS = re.compile("[\x00\ud800-\udfff]")
"""What paths, environments and JSON cannot hold: NUL, and unpaired surrogates."""
