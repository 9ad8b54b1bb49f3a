"""Whether two processes can run one Dask cluster, and the image that fits this one."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Any

from distributed.versions import get_versions

from scalable.cluster.plugin import describe_version_mismatch
from scalable.errors import VersionMismatchError

__all__ = ["check_scheduler_versions", "matching_image"]


def matching_image() -> str:
    """Return Dask's own image with the versions of this process.

    Source: https://github.com/dask/dask-docker, whose tags name the release and the Python.

    Examples
    --------
    >>> matching_image().startswith("ghcr.io/dask/dask:20")
    True
    """
    major, minor = sys.version_info[:2]
    return f"ghcr.io/dask/dask:{version('dask')}-py{major}.{minor}"


def check_scheduler_versions(scheduler: dict[str, Any]) -> None:
    """Raise VersionMismatchError if a scheduler cannot run what this process sends: code of its own Python.

    Parameters
    ----------
    scheduler : dict
        As `distributed.versions.get_versions` returns it there.
    """
    difference = describe_version_mismatch(
        {"the client": get_versions(), "the scheduler": scheduler}
    )
    if difference:
        raise VersionMismatchError(difference, matching_image())
