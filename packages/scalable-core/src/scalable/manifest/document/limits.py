"""How much a manifest may be, and what text may hold."""

from __future__ import annotations

import re

__all__ = ["INVALID_CHARACTERS", "MAX_BYTES", "MAX_DEPTH", "MAX_KEY", "MAX_NODES"]

MAX_BYTES = 10_000_000
"""The size of a document."""

MAX_DEPTH = 100
"""Collections within collections."""

MAX_NODES = 250_000
"""Values in a document, each alias counted with everything that it stands for."""

MAX_KEY = 1_000
"""Characters of a key."""

INVALID_CHARACTERS = re.compile("[\x00\ud800-\udfff]")
"""What no path, environment and JSON can hold: NUL, and half of a surrogate pair."""
