"""What is checked of a provider's `build_cluster`: its errors name their cause, and its cluster can be used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from scalable.errors import DaskConfigurationError, IncompleteClusterError, ScalableError

__all__ = ["check_cluster", "naming_configuration"]

_USED = ("adapt_groups", "events", "explain", "groups", "scale_groups", "wait_for_group")
"""What a session uses of any cluster."""


@contextmanager
def naming_configuration(what: str = "scheduler") -> Iterator[None]:
    """Turn an error of Dask's at a start into one that names the configuration which may cause it."""
    try:
        yield
    except (ScalableError, OSError):
        raise
    except Exception as error:
        from scalable.cluster.configuration import configured_keys

        keys = configured_keys(error)
        if not keys:
            raise
        raise DaskConfigurationError(keys, error, what) from error


def check_cluster(provider: str, cluster: object) -> None:
    """Raise IncompleteClusterError for a cluster without groups, before it is used."""
    if missing := [name for name in _USED if not hasattr(cluster, name)]:
        raise IncompleteClusterError(provider, type(cluster).__name__, missing)
