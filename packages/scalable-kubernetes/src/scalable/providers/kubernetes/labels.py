"""Labels as Kubernetes accepts them, and those that users must not set. Pure functions."""

from __future__ import annotations

import re

__all__ = [
    "A_LABEL_KEY",
    "A_LABEL_VALUE",
    "LABEL_KEY",
    "LABEL_VALUE",
    "is_ours",
    "label_problem",
]

# https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set
LABEL_KEY = r"([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
LABEL_VALUE = r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?"
A_LABEL_KEY = "the key of a label such as topology.kubernetes.io/zone"
A_LABEL_VALUE = "the value of a label: letters, digits, -, _ and ., 63 characters at most"

_OUR_PREFIXES = (
    "scalable/",
    "dask.org/",
    "app.kubernetes.io/managed-by",
    "kopf.zalando.org/",
    "sidecar.istio.io/inject",
)


def is_ours(key: str) -> bool:
    """Return whether Scalable or the Dask operator sets a label or an annotation.

    Examples
    --------
    >>> is_ours("scalable/run"), is_ours("example.org/team")
    (True, False)
    """
    return key.startswith(_OUR_PREFIXES)


def label_problem(key: str, value: str) -> str:
    """Return why something cannot be a label, without its value, which may be a secret; empty if it can.

    Examples
    --------
    >>> label_problem("team", "climate"), label_problem("team", "climate & energy").partition(":")[0]
    ('', 'must be the value of a label')
    """
    if is_ours(key):
        return "is set by Scalable or the Dask operator; remove it"
    if not re.fullmatch(LABEL_KEY, key, re.ASCII):
        return f"must be {A_LABEL_KEY}, with 63 characters at most after the /"
    if not re.fullmatch(LABEL_VALUE, value, re.ASCII):
        return f"must be {A_LABEL_VALUE}"
    return ""
