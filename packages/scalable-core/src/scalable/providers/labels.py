"""Names of components and users as native systems accept them."""

from __future__ import annotations

import re
from collections.abc import Callable

from scalable.providers.base import current_owner

__all__ = ["dns_label", "owner_label", "owner_of_label"]


def dns_label(component: str) -> str:
    """Return a component's name as a label of RFC 1035, which Kubernetes and Compute Engine accept.

    Examples
    --------
    >>> dns_label("GCAM_core"), dns_label("plots_")
    ('gcam-core', 'plots')
    """
    return component.lower().replace("_", "-").rstrip("-")


def owner_label(owner: str, refused: str, length: int) -> str:
    """Return a user's name as a label: as it is, or what the native system accepts of it, and a checksum.

    Without that, ``anna.b`` and ``anna_b`` would be one user, who may remove what the other one has.

    Parameters
    ----------
    owner : str
        What `current_owner` returns.
    refused : str
        Regular expression of the characters that a label must not have.
    length : int
        Characters that it may have.

    Examples
    --------
    >>> owner_label("anna_b", "[^a-z0-9_-]", 63), owner_label("Anna.B", "[^a-z0-9_-]", 63)
    ('anna_b', 'anna_b-161a473b')
    """
    import hashlib  # which validating and planning do without

    def accepted(character: re.Match[str]) -> str:
        lower = character[0].lower()
        return "_" if re.search(refused, lower) else lower

    label = re.sub(refused, accepted, owner)
    if label == owner and len(owner) <= length:
        return owner
    checksum = hashlib.sha256(owner.encode(errors="surrogateescape")).hexdigest()[:8]
    return f"{label[: length - len(checksum) - 1]}-{checksum}"


def owner_of_label(label: str, as_label: Callable[[str], str]) -> str:
    """Return the user whom a label means: the present one, if the label is theirs, and else the label.

    Parameters
    ----------
    label : str
        The label.
    as_label : callable
        Returns a user's label, by `owner_label`.
    """
    present = current_owner()
    return present if label == as_label(present) else label
