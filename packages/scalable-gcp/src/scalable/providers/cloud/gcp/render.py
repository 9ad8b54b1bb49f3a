"""The requests of a run as text for people. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from scalable.providers.rendering import redacted

__all__ = ["KEY", "rendered"]

KEY = "(the run's private key)"
"""What is shown in place of the private key."""


def rendered(body: Mapping[str, Any], redact: Callable[[str], str]) -> str:
    """Return the body of a request as JSON, without the values of variables.

    Parameters
    ----------
    body : mapping
        The body.
    redact : callable
        Returns a text with ``${VAR}`` in place of the values that the manifest takes from the environment.
    """
    return json.dumps(redacted(body, redact), indent=2, ensure_ascii=False) + "\n"
