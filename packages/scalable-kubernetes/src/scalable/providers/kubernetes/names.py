"""Components by names that the Kubernetes API takes."""

from __future__ import annotations

__all__ = ["native_name"]


def native_name(component: str) -> str:
    """Turn a component's name into an RFC 1123 label: lower case, no ``_``, a letter or digit at the end.

    Examples
    --------
    >>> native_name("GCAM_core"), native_name("plots-")
    ('gcam-core', 'plots')
    """
    return component.lower().replace("_", "-").rstrip("-")
