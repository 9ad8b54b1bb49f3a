"""The Dask plugin that gives workers the modules that write results and files, sent there by value.

A worker's image may have none of our packages, so nothing here may import `scalable`: the standard library and
distributed only.
"""

from __future__ import annotations

import sys
from types import ModuleType

from distributed.diagnostics.plugin import WorkerPlugin

__all__ = ["PACKAGE", "StorePlugin"]

PACKAGE = "_scalable_results"
"""The package on workers that has the modules."""


class StorePlugin(WorkerPlugin):
    """Makes modules importable on every worker, present and future.

    Parameters
    ----------
    sources : dict of str to (str, str)
        By the name of the module: its source, and what tracebacks name as its file. None imports a later one.
    """

    name = "scalable-results"

    def __init__(self, sources: dict[str, tuple[str, str]]) -> None:
        self.sources = sources

    def setup(self, worker: object) -> None:
        """Load the modules, unless this process has them: there may be several workers in one."""
        loaded = sys.modules.get(PACKAGE)
        if loaded is not None and vars(loaded).get("_sources") == self.sources:
            return
        package = ModuleType(PACKAGE)
        package.__dict__.update(__path__=[], _sources=self.sources)
        sys.modules[PACKAGE] = package
        for name, (source, filename) in self.sources.items():
            module = ModuleType(f"{PACKAGE}.{name}")
            sys.modules[module.__name__] = module
            exec(compile(source, filename, "exec"), module.__dict__)  # noqa: S102 - from the client
            setattr(package, name, module)
