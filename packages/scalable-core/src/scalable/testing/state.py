"""The state of the process that belongs to the program, and that a cluster must leave as it is."""

from __future__ import annotations

import copy
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["changes", "global_state"]


def global_state() -> dict[str, Any]:
    """Return the global state of the process, to be compared with a later one.

    It has Dask's configuration, environment variables, signal handlers, levels and handlers of loggers, the working
    directory, the umask, the path of modules, hooks of exceptions, and filters of warnings.
    """
    loggers = {"": logging.root, **logging.root.manager.loggerDict}
    configured = {k: v for k, v in loggers.items() if isinstance(v, logging.Logger)}
    # Each of Dask's servers adds a handler of its own to Dask's loggers, and removes it some time later.
    handlers = {k: [*v.handlers] for k, v in configured.items() if not k.startswith("distributed")}
    return {
        "config": _config(),
        "environment": dict(os.environ),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "levels": {name: logger.level for name, logger in configured.items() if logger.level},
        "handlers": {name: found for name, found in handlers.items() if found},
        "directory": Path.cwd(),
        "umask": _umask(),
        # Each of Dask's servers adds its own directory, for modules that are uploaded, and never removes it.
        "path": [entry for entry in sys.path if "dask-scratch-space" not in entry],
        "hooks": (sys.excepthook, threading.excepthook, sys.unraisablehook),
        "filters": [*warnings.filters],
    }


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return what differs between two states: both values, by dotted name.

    Examples
    --------
    >>> changes({"path": ["a"], "signals": {2: 0, 15: 1}}, {"path": ["a"], "signals": {2: 3, 15: 1}})
    {'signals.2': (0, 3)}
    """
    found: dict[str, tuple[Any, Any]] = {}
    for name in {**before, **after}:
        old, new = before.get(name), after.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found |= {f"{name}.{inner}": pair for inner, pair in changes(old, new).items()}
        elif old != new:
            found[str(name)] = (old, new)
    return found


def _config() -> Any:
    import dask

    config = copy.deepcopy(dask.config.config)
    # Without bokeh, each of Dask's schedulers adds the same route to this list (distributed.Scheduler.__init__).
    http = config.get("distributed", {}).get("scheduler", {}).get("http", {})
    http["routes"] = sorted(set(http.get("routes", ())))
    return config


def _umask() -> int:
    # There is no call that only reads it.
    present = os.umask(0o077)
    os.umask(present)
    return present
