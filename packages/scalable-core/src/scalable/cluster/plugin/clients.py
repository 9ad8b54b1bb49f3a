"""The clients that tasks get on a worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

import dask.base
from distributed import Client

from scalable.cluster.plugin.dask_internals import contain_answers, replace_worker_client
from scalable.cluster.plugin.exceptions import raise_unreadable

if TYPE_CHECKING:
    from distributed.worker import Worker

__all__ = ["UntaggedClient", "provide_client"]


class UntaggedClient(Client):
    """Dask's client, which refuses tags instead of passing them to the user's function or ignoring them."""

    async def _start(self, *args: Any, **kwargs: Any) -> Any:
        contain_answers(self.rpc, raise_unreadable)
        return await super()._start(*args, **kwargs)

    def submit(self, *args: Any, **kwargs: Any) -> Any:
        """Submit a task without a tag."""
        return super().submit(*args, **_without_tag(kwargs))

    def map(self, *args: Any, **kwargs: Any) -> Any:
        """Submit tasks without a tag."""
        return super().map(*args, **_without_tag(kwargs))

    def compute(self, *args: Any, **kwargs: Any) -> Any:
        """Compute collections without a tag."""
        return super().compute(*args, **_without_tag(kwargs))

    def persist(self, *args: Any, **kwargs: Any) -> Any:
        """Persist collections without a tag."""
        return super().persist(*args, **_without_tag(kwargs))

    def get(self, *args: Any, **kwargs: Any) -> Any:
        """Compute a graph without a tag."""
        return super().get(*args, **_without_tag(kwargs))

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Run a function on all workers."""
        for name in ("tag", "task"):
            if kwargs.pop(name, None) is not None:
                _refuse(name)
        return super().run(*args, **kwargs)


def provide_client(worker: Worker) -> Callable[[Any], object]:
    """Make ``get_client`` and ``worker_client`` on a worker return a client that knows tags, or refuses them.

    Return a function to be called in the asyncio task of each task, with its key.
    """
    return replace_worker_client(worker, _client_class)


def _client_class() -> type[Client]:
    try:
        # By name, because this module is sent by value to workers whose environment may not have the package.
        found: type[Client] = import_module("scalable.client").ScalableClient
    except ModuleNotFoundError:
        return UntaggedClient
    return found


def _without_tag(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a call, which must not carry a tag, and not be annotated with one.

    Raises
    ------
    TypeError
        It carries one.

    Examples
    --------
    >>> _without_tag({"tag": None, "retries": 2})
    {'retries': 2}
    """
    annotated = {name: dask.base.get_annotations().get(name) for name in ("tag", "task")}
    for name in ("tag", "task", "n"):
        if options.get(name, annotated.get(name)) is not None:
            _refuse(name)
    return {name: value for name, value in options.items() if name not in ("tag", "task", "n")}


def _refuse(name: str) -> NoReturn:
    raise TypeError(
        f"{name}= in a task needs scalable-core in the worker's environment, which lacks it; "
        "install it there, or ask for resources={'the tag': 1}"
    )
