"""The Dask plugin that gives workers the modules that write results and files, sent there by value.

A worker's image may have none of our packages, so nothing here may import `scalable`: the standard library and
distributed only.
"""

from __future__ import annotations

import sys
from types import ModuleType

from distributed.diagnostics.plugin import WorkerPlugin

__all__ = ["MODULE", "OUTPUTS_MODULE", "StorePlugin"]

MODULE = "_scalable_results_storage"
"""The name under which tasks find the module of the store on workers."""

OUTPUTS_MODULE = "_scalable_results_outputs"
"""The same for the module of files that tasks write."""


class StorePlugin(WorkerPlugin):
    """Makes modules importable on every worker, present and future.

    Parameters
    ----------
    sources : dict of str to (str, str)
        By the name of the module: its source, and what tracebacks name as its file.
    """

    name = "scalable-results"

    def __init__(self, sources: dict[str, tuple[str, str]]) -> None:
        self.sources = sources

    def setup(self, worker: object) -> None:
        """Load the modules, unless this process has them: there may be several workers in one."""
        for name, (source, filename) in self.sources.items():
            loaded = sys.modules.get(name)
            if loaded is not None and vars(loaded).get("_source") == source:
                continue
            module = ModuleType(name)
            module.__dict__["_source"] = source
            exec(compile(source, filename, "exec"), module.__dict__)  # noqa: S102 - from the client
            sys.modules[name] = module
