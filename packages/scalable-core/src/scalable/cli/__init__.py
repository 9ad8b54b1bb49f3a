"""The ``scalable`` command.

Each subcommand is a module of its own. They import what they need when they run, so that help is instant and looking
at a manifest takes no Dask.
"""

from scalable.cli.group import main

__all__ = ["main"]
