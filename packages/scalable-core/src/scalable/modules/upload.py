"""Send an archive of modules to a cluster."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from scalable.modules.archive import ModuleArchive

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["PROCESS_ID", "update_message", "upload_modules"]

PROCESS_ID = uuid.uuid4().hex
"""Identifies this process: a scheduler or worker inside it needs no upload."""


def upload_modules(client: Client, archive: ModuleArchive) -> None:
    """Make the modules of `archive` importable on the scheduler and on every worker, present and future.

    Parameters
    ----------
    client : Client
        Connected to the cluster. Not to be used from its event loop.
    archive : ModuleArchive
        From `UserModules`, `pack_modules` or `pack_workflow`.

    Raises
    ------
    OSError
        A worker that has already joined cannot unpack them. A worker that joins later logs the error.
    """
    # Imported here, because commands that only read manifests do not need Dask.
    from scalable.modules import plugins

    for plugin in (plugins.SchedulerModulesPlugin, plugins.WorkerModulesPlugin):
        client.register_plugin(_build(plugin, archive))


def update_message(archive: ModuleArchive) -> dict[str, Any]:
    """Return the message to the scheduler after which it and all workers have the modules of `archive`.

    `upload_modules` must have been called before. Whatever the client sends after the message finds the new modules.
    """
    import cloudpickle

    from scalable.modules import plugins

    plugin = _build(plugins.WorkerModulesPlugin, archive)
    return {"op": plugins.UPDATE, "plugin": cloudpickle.dumps(plugin)}


def _build(plugin: type[Any], archive: ModuleArchive) -> Any:
    import cloudpickle

    from scalable.modules import plugins

    cloudpickle.register_pickle_by_value(plugins)
    return plugin(
        archive.data,
        archive.digest,
        PROCESS_ID,
        {name: tuple(origin) for name, origin in archive.origins.items()},
        archive.preferred,
        archive.directories,
    )
