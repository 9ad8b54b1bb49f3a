"""What a manifest says of results: where they are kept, and which tasks' are. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalable.results.naming import TaskRule

if TYPE_CHECKING:
    from scalable.manifest.schema import ManifestModel

__all__ = ["checked_outputs", "results_url", "store_options", "task_rules"]


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
    return str(directory / Path(url).expanduser())


def task_rules(manifest: ManifestModel) -> dict[str, TaskRule]:
    """Return how the results of tasks are kept, for those with `cache`."""
    return {
        name: TaskRule(
            manifest.components[task.component].image,
            "" if task.version is None else str(task.version),
            task.ignore,
            tuple(sorted(task.outputs.items())),
        )
        for name, task in manifest.tasks.items()
        if task.cache
    }


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


def store_options(manifest: ManifestModel) -> dict[str, Any]:
    """Return the options for `scalable.results.reuse.open_results`."""
    return {
        "trusted": manifest.project.trust_results,
        "on_store_error": manifest.project.on_store_error,
        "redact": manifest.redact,
        "copies": manifest.project.local_cache,
        "images": {name: each.image for name, each in manifest.components.items()},
    }
