"""What tasks call on workers: a call whose result is kept, one that is kept already, and one that reads files."""

from __future__ import annotations

import json
import platform
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from scalable.results.store import outputs
from scalable.results.store.storage import Store, StoreError

__all__ = ["EVENTS", "keep", "load", "with_files"]

EVENTS = "scalable-results"
"""Dask event topic on which workers say that a result could not be kept."""

_stores: dict[tuple[str, str], Store] = {}
_lock = threading.Lock()


def _store_of(settings: Mapping[str, Any]) -> Store:
    """Return the store of a call, once it is known to be the one that the client uses."""
    key = settings["url"], settings["id"]
    with _lock:
        if key not in _stores:
            # Read are only results that the client has found.
            url, shown = settings["url"], settings["shown"]
            store = Store(
                url,
                trusted=True,
                store_id=settings["id"],
                shown=shown,
                copies=settings.get("copies"),
                tell=_tell,
            )
            store.check_same()
            _stores[key] = store
        return _stores[key]


def keep(
    settings: Mapping[str, Any], func: Callable[..., Any], about: str, /, *args: Any, **kwargs: Any
) -> Any:
    """Return the result of a call, once the store has it.

    Parameters
    ----------
    settings : mapping
        The store, and what to do if it cannot be written: ``url``, ``shown``, ``id``, ``on_store_error``, ``task``;
        with ``outputs``, the paths of files that the function writes.
    func : callable
        The function.
    about : str
        The result's name, and what it was computed from as JSON.
    *args, **kwargs
        The function's arguments.

    Raises
    ------
    TypeError
        The result cannot be pickled.
    StoreError
        The store cannot be written, and that is to end the task.
    """
    name, _, said = about.partition(" ")
    started = time.time()
    patterns = settings.get("outputs")
    paths = outputs.expand(patterns, func, args, kwargs) if patterns else {}
    value = func(*args, **kwargs)
    header = {**json.loads(said), "seconds": time.time() - started, "host": platform.node()}
    try:
        if paths:
            outputs.check_written(settings["task"], paths)
        store = _store_of(settings)
        if paths:
            outputs.keep_outputs(store, name, settings["task"], paths)
        store.write_result(name, header, value, alone=settings.get("alone", False))
    except FileNotFoundError:  # an output
        raise
    except OSError as error:
        text = f"a result of {settings['task']} could not be kept: {error}"
        if settings["on_store_error"] == "fail":
            text += "; mend the store, or set on_store_error: continue, and run again"
            raise OSError(text) from None
        _tell(f"{text}; the run goes on with it, and the next one computes it again")
    except Exception as error:  # noqa: BLE001 - pickling runs code of the result's
        raise TypeError(
            f"the result of {settings['task']}, of type {type(value).__qualname__}, cannot be kept, because it cannot "
            f"be pickled: {error}; return data, or remove `cache`"
        ) from None
    return value


def load(settings: Mapping[str, Any], name: str) -> Any:
    """Return a result that the client has found in the store, for a task that needs it."""
    try:
        return _store_of(settings).read_result(name)
    except StoreError as error:
        raise OSError(f"{error}; run the workflow again, and it is computed") from None


def with_files(
    settings: Mapping[str, Any],
    names: list[str],
    func: Callable[..., Any],
    /,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Return the result of a call that reads files which earlier tasks have written, once they are here.

    Parameters
    ----------
    settings : mapping
        The store, as for `keep`.
    names : list of str
        The names of the results of those tasks.
    func : callable
        The function.
    *args, **kwargs
        Its arguments.

    Raises
    ------
    OSError
        The store cannot be read, or what it has is damaged.
    """
    for name in names:
        try:
            store = _store_of(settings)
            outputs.restore_outputs(store, name)
        except FileNotFoundError as error:  # it could not be kept, and that was not to end its task
            _tell(f"{error}; a task that may read them goes on")
        except outputs.DamagedOutputError as error:
            store.remove_results([name])  # the next run must not find it
            raise OSError(f"{error}; run the workflow again, and it is computed") from None
        except StoreError as error:
            raise OSError(f"files of {name} cannot be restored: {error}") from None
    return func(*args, **kwargs)


def _tell(text: str) -> None:
    """Send a message to the client, by the scheduler."""
    from distributed import get_worker

    get_worker().log_event(EVENTS, text)
