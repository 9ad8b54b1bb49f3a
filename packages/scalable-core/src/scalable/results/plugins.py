"""The Dask plugin that gives workers the module that writes results, sent there by value.

A worker's image may have none of our packages, so nothing here may import `scalable`: the standard library and
distributed only.
"""

from __future__ import annotations

import sys
from types import ModuleType

from distributed.diagnostics.plugin import WorkerPlugin

__all__ = ["MODULE", "StorePlugin"]

MODULE = "_scalable_results_storage"
"""The name under which tasks find the module on workers."""


class StorePlugin(WorkerPlugin):
    """Makes a module importable on every worker, present and future, under the name `MODULE`.

    Parameters
    ----------
    source : str
        Its source.
    filename : str
        What tracebacks name as its file.
    """

    name = "scalable-results"

    def __init__(self, source: str, filename: str) -> None:
        self.source, self.filename = source, filename

    def setup(self, worker: object) -> None:
        """Load the module, unless this process has it: there may be several workers in one."""
        loaded = sys.modules.get(MODULE)
        if getattr(loaded, "__doc__", None) is not None and vars(loaded)["_source"] == self.source:
            return
        module = ModuleType(MODULE)
        module.__dict__["_source"] = self.source
        exec(compile(self.source, self.filename, "exec"), module.__dict__)  # noqa: S102 - from the client
        sys.modules[MODULE] = module
