"""The requests of a run as text for people. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Callable

from scalable.providers.cloud.aws.instances import shown_user_data
from scalable.providers.cloud.aws.tasks import Request
from scalable.providers.rendering import redacted

__all__ = ["KEY", "rendered"]

KEY = "(the run's private key)"
"""What is shown in place of the private key."""


def rendered(request: Request, redact: Callable[[str], str]) -> str:
    """Return the parameters of a request as JSON, without the values of variables, and user data as text.

    Parameters
    ----------
    request : Request
        The request.
    redact : callable
        Returns a text with ``${VAR}`` in place of the values that the manifest takes from the environment.
    """
    shown = {**request.params}
    if "UserData" in shown:
        shown["UserData"] = shown_user_data(shown["UserData"], redact)
    return json.dumps(redacted(shown, redact), indent=2, ensure_ascii=False) + "\n"
