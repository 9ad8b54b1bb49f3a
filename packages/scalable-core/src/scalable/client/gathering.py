"""`GatheringClient`: Dask's client, which has small results already, and those that are kept."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import CancelledError
from functools import partial
from typing import TYPE_CHECKING, Any

import dask.base
from distributed import Future, get_worker

from scalable.client.connection import WatchedClient
from scalable.client.failures import TaskFailure, gather_with_failures
from scalable.client.foreign import read_exception
from scalable.client.kept import KeptFutures
from scalable.client.results import ReceivedResults
from scalable.client.unreadable import (
    Unreadable,
    answer_without,
    received_apart,
    replace_unreadable,
)
from scalable.cluster.dask_internals import (
    function_name,
    has_own_deserializers,
    is_result_without_raising,
    retrieve_gather_exceptions,
    take_from_gather,
)
from scalable.cluster.plugin import RESULT_MESSAGE, contain_answers
from scalable.errors import ResultStoreError

if TYPE_CHECKING:
    from scalable.results.reuse import Results

__all__ = ["GatheringClient"]

_ERRORS = ("raise", "skip", "collect")
"""What `gather` does with tasks that fail."""


class GatheringClient(WatchedClient):
    """A ``distributed.Client`` that need not ask workers for all results, nor raise for tasks that failed.

    Small results come with the news that their tasks have finished; those of cached tasks come from a store; with
    ``errors="collect"``, a `TaskFailure` is in the place of the result of each task that failed.

    Parameters
    ----------
    results : Results, optional
        Where results are kept, and which tasks' are.
    *args, **kwargs
        As for ``distributed.Client``.
    """

    def __init__(self, *args: Any, results: Results | None = None, **kwargs: Any) -> None:
        self._gathering: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        self._results = ReceivedResults()
        # Until the scheduler has confirmed that their tasks have finished.
        self._unreadable: dict[Any, Unreadable] = {}
        self._failures: dict[Any, TaskFailure] = {}
        self._kept: KeptFutures | None = None
        self._restarted = asyncio.Event()
        self.keep_results(results)
        super().__init__(*args, **kwargs)

    async def _start(self, *args: Any, **kwargs: Any) -> Any:
        self._stream_handlers[RESULT_MESSAGE] = self._handle_result
        contain_answers(self.rpc, replace_unreadable)
        return await super()._start(*args, **kwargs)

    async def _close(self, *args: Any, **kwargs: Any) -> None:
        await super()._close(*args, **kwargs)
        self._results.clear()

    def _receive_results(self) -> None:
        """Request small results with the messages that their tasks have finished."""
        if not has_own_deserializers(self):
            self._send_to_scheduler({"op": "scalable-receive-results"})

    def keep_results(self, results: Results | None) -> None:
        """Keep results from now on, and use those that are kept; None ends that.

        Parameters
        ----------
        results : Results or None
            From `open_results`; a session sets its own.
        """
        self._kept = None if results is None else KeptFutures(self, results)

    @property
    def failures(self) -> Mapping[Any, TaskFailure]:
        """The tasks that were gathered with ``errors="collect"`` and have failed, by key."""
        return dict(self._failures)

    def _keeper(
        self, func: Callable[..., Any], task: str | None, tag: str | None
    ) -> Callable[..., list[Future[Any]]] | None:
        """Return what submits calls whose results are kept, or None if those of this function are not."""
        if self._kept is not None:
            rule = self._kept.results.rule(func, task, tag)
            return None if rule is None else partial(self._kept.map, rule, func)
        if hasattr(func, "__scalable_cached__") and not _is_in_task():
            raise ResultStoreError(
                f"the results of {function_name(func)} are to be kept, and there is no place for them; "
                "set project.results in the manifest, or give the client results="
            )
        return None

    def restore_outputs(self, futures: Any, to: str | os.PathLike[str] | None = None) -> Any:
        """Write the files of tasks with `outputs` to this machine, and return their paths by the name of the output.

        Parameters
        ----------
        futures : Future or list of Future
            Their futures.
        to : path, optional
            The directory for them. By default each is written where its task had written it.

        Returns
        -------
        dict of str to str, or list of them
            The paths.

        Raises
        ------
        ResultStoreError
            The files are not kept, or damaged, or cannot be written.
        """
        if isinstance(futures, (list, tuple)):
            return [self.restore_outputs(future, to) for future in futures]
        if self._kept is None:
            raise ResultStoreError(
                "no outputs are kept; set project.results in the manifest, and cache: true in the task"
            )
        return self._kept.restore(futures, None if to is None else os.fspath(to))

    # -- Hooks of Dask's client

    def _graph_to_futures(self, expr: Any, keys: Any, *args: Any, **kwargs: Any) -> Any:
        """Create futures of a graph, which may need results that are kept."""
        if self._kept is not None:
            self._kept.provide(
                expr, kwargs.get("resources") or dask.base.get_annotations().get("resources")
            )
        return super()._graph_to_futures(expr, keys, *args, **kwargs)

    async def _collect(self, gather: Callable[..., Any], futures: Any, **options: Any) -> Any:
        """Gather futures, with a failure in the place of the result of each task that failed."""
        values, failures = await gather_with_failures(
            partial(gather, errors="skip", **options), futures
        )
        self._failures |= failures
        return values

    def _gather(
        self, futures: Any, errors: str = "raise", direct: Any = None, local_worker: Any = None
    ) -> Any:
        """Gather futures; exceptions that an interrupted call leaves behind are retrieved.

        This is no coroutine of its own, which would be one more frame in the tracebacks of the user's tasks.
        """
        if errors not in _ERRORS:
            raise ValueError(f"errors={errors!r} is none of {', '.join(map(repr, _ERRORS))}")
        if errors == "collect":
            gathering: Any = self._collect(
                super()._gather, futures, direct=direct, local_worker=local_worker
            )
        elif self._kept is not None and self._kept.has_all(futures):
            gathering = self._kept.gather(futures)
        else:
            gathering = super()._gather(futures, errors, direct, local_worker)
        if is_result_without_raising():
            return self._gather_or_fail(gathering, *futures)
        try:
            task = asyncio.current_task()
        except RuntimeError:  # an asynchronous client's, awaited later
            return gathering
        if task is None:  # a call from another thread
            task = gathering = asyncio.ensure_future(gathering)
        if task not in self._gathering:
            self._gathering.add(task)
            task.add_done_callback(_retrieve_gather_exceptions)
        return gathering

    async def _gather_or_fail(
        self, gathering: Awaitable[list[Any]], future: Future[Any]
    ) -> list[Any]:
        """Gather one future; if that raises, let it fail, and return what Dask returns of one that has failed."""
        try:
            return await gathering
        except Exception as error:
            if future.status != "error":
                if isinstance(error, CancelledError):
                    raise  # who waits knows that
                self._handle_task_erred(future.key, error, error.__traceback__)
            without_this = error.__traceback__ and error.__traceback__.tb_next
            return [(type(error), error, without_this)]

    async def _gather_remote(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Gather what has not come already."""
        kept: dict[Any, Any] = {}

        def take(keys: Iterable[Any]) -> dict[Any, Any]:
            if self._kept is not None:
                kept.update(self._kept.take(keys))
            return self._results.take(key for key in keys if key not in kept) | kept

        here, is_all = take_from_gather(self, take)
        response: dict[str, Any] = {"status": "OK", "data": {}}
        if not is_all:
            with received_apart() as unreadable:
                response = await super()._gather_remote(*args, **kwargs)
            if unreadable and response["status"] == "OK":
                data = response["data"].items()
                found = {key: each for key, each in data if isinstance(each, Unreadable)}
                self._unreadable |= found
                response = answer_without(found)
        if response["status"] == "OK":
            response["data"] |= here
            if kept and self._kept is not None:
                response["data"] |= await self._kept.load(kept)
        return response

    def _handle_key_in_memory(self, key: Any = None, *args: Any, **kwargs: Any) -> None:
        """Record that a task has finished. Perhaps it ran again, so that an earlier result is not this one."""
        self._results.discard(key)
        if (unreadable := self._unreadable.pop(key, None)) is not None:
            error = unreadable.error
            self._handle_task_erred(key, error, error.__traceback__)
            return
        self._failures.pop(key, None)  # it was tried again
        super()._handle_key_in_memory(key, *args, **kwargs)

    def _handle_task_erred(
        self, key: Any = None, exception: Any = None, traceback: Any = None
    ) -> None:
        """Record that a task has failed."""
        if isinstance(exception, bytes):
            exception = read_exception(exception)
        super()._handle_task_erred(key, exception, traceback)

    def _handle_result(self, key: Any, result: bytes) -> None:
        """Keep a small result, which follows the message that its task has finished."""
        if key in self.futures:
            self._results.add(key, result)

    def _release_key(self, key: Any) -> None:
        self._results.discard(key)
        self._unreadable.pop(key, None)
        if self._kept is not None:
            self._kept.discard(key)
        super()._release_key(key)

    def _handle_restart(self) -> None:
        self._results.clear()
        self._unreadable.clear()
        if self._kept is not None:
            self._kept.clear()
        super()._handle_restart()
        self._restarted.set()


def _retrieve_gather_exceptions(task: asyncio.Task[Any]) -> None:
    if task.cancelled():  # Ctrl-C
        retrieve_gather_exceptions()


def _is_in_task() -> bool:
    """Return whether this is a call inside of a task, whose client keeps no results."""
    try:
        get_worker()
    except ValueError:
        return False
    return True
