"""The user's own modules on every worker.

A function defined in the workflow itself travels with its task. What it imports from beside the workflow
(``from helpers import simulate``) does not: a pickled task names the module, and a worker on another machine has no
such file. So a session packs these modules, and the scheduler and every worker unpack them and put them on
``sys.path``, after the installed packages.

The archive has what ``import`` finds beside the workflow: ``*.py`` files, packages with all their files, and
directories of ``*.py`` files. ``project.modules`` in the manifest names other files and directories instead. The user's
other directories on ``sys.path`` and the user's modules that this process has imported are added, as far as they are
not too large. What the user changes while a session is open is sent again before the next task.

==============  =================================================================================
`workflow`      the directory of the running workflow
`users`         which modules of this process are the user's own, and not installed
`archive`       one zip file of modules: which files, and how large it may be
`tracking`      the modules as they are now, compared with those that the workers have
`upload`        sending the archive to a cluster
`plugins`       what lets the scheduler and the workers import them, sent by value
==============  =================================================================================
"""

from scalable.modules.archive import (
    MAX_BYTES,
    MAX_FILES,
    ModuleArchive,
    pack_modules,
    pack_workflow,
)
from scalable.modules.tracking import UserModules
from scalable.modules.upload import upload_modules
from scalable.modules.workflow import workflow_directory

__all__ = [
    "MAX_BYTES",
    "MAX_FILES",
    "ModuleArchive",
    "UserModules",
    "pack_modules",
    "pack_workflow",
    "upload_modules",
    "workflow_directory",
]
