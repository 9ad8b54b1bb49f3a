"""What a manifest says of results: how they are kept, and which tasks' are. Pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scalable.results.naming import TaskRule

if TYPE_CHECKING:
    from scalable.manifest.schema import ManifestModel

__all__ = ["store_options", "task_rules"]


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


def store_options(manifest: ManifestModel) -> dict[str, Any]:
    """Return the options for `scalable.results.reuse.open_results`."""
    return {
        "trusted": manifest.project.trust_results,
        "on_store_error": manifest.project.on_store_error,
        "redact": manifest.redact,
        "copies": manifest.project.local_cache,
        "images": {name: each.image for name, each in manifest.components.items()},
    }
