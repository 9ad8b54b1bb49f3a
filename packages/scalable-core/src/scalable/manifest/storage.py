"""Where a manifest keeps results, and the outputs that are checked without it. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from scalable.paths import expand_home

if TYPE_CHECKING:
    from scalable.manifest.schema import ManifestModel

__all__ = ["checked_outputs", "results_url"]


def results_url(manifest: ManifestModel, directory: Path) -> str | None:
    """Return where results are kept, or None if they are not.

    Parameters
    ----------
    manifest : ManifestModel
        The manifest.
    directory : Path
        What a relative path starts from.
    """
    url = manifest.project.results or manifest.project.default_storage
    if url is None or "://" in url or "::" in url:
        return url
    return str(directory / expand_home(url))


def checked_outputs(manifest: ManifestModel, *, kept: bool) -> dict[str, Mapping[str, str]]:
    """Return the outputs of those tasks where they are only checked.

    Parameters
    ----------
    manifest : ManifestModel
        The manifest.
    kept : bool
        Whether there is a store, which has those of tasks with `cache`.
    """
    return {
        name: task.outputs
        for name, task in manifest.tasks.items()
        if task.outputs and not (kept and task.cache)
    }
