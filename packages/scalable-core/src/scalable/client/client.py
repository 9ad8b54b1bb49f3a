"""`ScalableClient`: Dask's calls, each with a tag."""

from __future__ import annotations

import asyncio
import operator
import os
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import dask.base
import dask.config
from dask.utils import parse_timedelta
from distributed import Future, get_worker
from distributed.security import Security

from scalable.client.connection import WatchedClient
from scalable.client.executor import TaggedCalls
from scalable.client.failures import TaskFailure, gather_with_failures
from scalable.client.kept import KeptFutures
from scalable.client.keys import key_of_call, keys_of_map
from scalable.client.requirements import (
    check_resources,
    check_workers,
    refuse_other_workers,
    resolve_tag,
    resources_for_tag,
    tag_options,
)
from scalable.client.results import ReceivedResults
from scalable.client.waits import describe_wait
from scalable.cluster import GroupedCluster
from scalable.cluster.dask_internals import (
    annotations_of,
    computation_code,
    defer_unpickling,
    executor_of,
    function_name,
    has_own_deserializers,
    is_coroutine_function,
    keep_annotations,
    retrieve_gather_exceptions,
    take_from_gather,
)
from scalable.cluster.notebook import show_live
from scalable.cluster.plugin import (
    RESULT_MESSAGE,
    TABLE_TOPIC,
    FileNames,
    in_one_line,
)
from scalable.errors import (
    MissingKeysError,
    NotSupportedError,
    ResultStoreError,
    TagConflictError,
    UnknownWorkerError,
)

if TYPE_CHECKING:
    from scalable.modules import UserModules
    from scalable.results.reuse import OutputChecks, Results
    from scalable.session import ScalableSession

__all__ = ["ScalableClient"]

TASKS_TOPIC = "scalable-tasks"
"""Dask event topic on which a client publishes the component of each manifest task, for clients inside of tasks."""

_ERRORS = ("raise", "skip", "collect")
"""What `gather` does with tasks that fail."""


def _lacks_keys(address: Any, security: Any = None, **_: object) -> bool:
    """Return whether Dask would look for keys in vain, and say so in terms of `ssl`."""
    if security is not None or not (isinstance(address, str) and address.startswith("tls://")):
        return False
    if dask.config.get("distributed.client.security-loader"):
        return False
    return Security().get_tls_config_for_role("client")["cert"] is None


class ScalableClient(WatchedClient):
    """A ``distributed.Client`` that sends tasks to the workers made for them.

    It is Dask's client, whose `submit`, `map`, `compute`, `persist`, `get` and `get_executor` also take a tag. `gather`
    also takes ``errors="collect"``: a `TaskFailure` with the reason is then in the place of the result of each task
    that failed, and ``scalable run`` ends with exit status 1.

    Parameters
    ----------
    address : GroupedCluster or str
        The cluster, or the address of its scheduler.
    tasks : mapping of str to str, optional
        The component of each manifest task, by its name; by default those that another client has published.
    session : ScalableSession, optional
        The session this client belongs to.
    results : Results, optional
        Where results are kept, and which tasks' are.
    **kwargs
        As for ``distributed.Client``.

    Examples
    --------
    Inside a session::

        with ScalableSession.from_yaml() as client:
            future = client.submit(run_gcam, "ssp2", tag="gcam")
            runs = client.map(run_gcam, scenarios, tag="gcam")
    """

    def __init__(
        self,
        address: Any = None,
        *args: Any,
        tasks: Mapping[str, str] | None = None,
        session: ScalableSession | None = None,
        results: Results | None = None,
        **kwargs: Any,
    ) -> None:
        if not args and _lacks_keys(address, **kwargs):
            raise MissingKeysError(address)
        self.session = session
        self.modules: UserModules | None = None
        self._tasks = None if tasks is None else dict(tasks)
        self._slots: Mapping[str, int] | None = None  # until it is known
        self._connected: Mapping[str, Any] = {}  # workers, when they were last asked for
        self._gathering: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        self._file_names = FileNames()
        self._results = ReceivedResults()
        self._failures: dict[Any, TaskFailure] = {}
        self.outputs: OutputChecks | None = None
        self._kept: KeptFutures | None = None
        self.keep_results(results)
        super().__init__(address, *args, **kwargs)

    async def _start(self, *args: Any, **kwargs: Any) -> Any:
        self._stream_handlers[RESULT_MESSAGE] = self._handle_result
        started = await super()._start(*args, **kwargs)
        self._file_names.keep()
        # The scheduler publishes the group table as events; a plain Dask cluster has none of them.
        self.subscribe_topic(TABLE_TOPIC, self._update_slots)
        await self._fetch_table()
        if self._tasks is None:
            self._tasks = await self._fetch_last(TASKS_TOPIC)
        elif self._tasks:
            await self.log_event(TASKS_TOPIC, self._tasks)
        return started

    async def _ensure_connected(self, *args: Any, **kwargs: Any) -> None:
        await super()._ensure_connected(*args, **kwargs)
        if self._slots:  # it is connected again
            self._receive_results()

    def _receive_results(self) -> None:
        """Request small results with the messages that their tasks have finished."""
        if not has_own_deserializers(self):
            self._send_to_scheduler({"op": "scalable-receive-results"})

    async def _close(self, *args: Any, **kwargs: Any) -> None:
        self._file_names.release()
        await super()._close(*args, **kwargs)
        self._results.clear()

    async def _fetch_table(self) -> None:
        self._set_slots(await self._fetch_last(TABLE_TOPIC))

    async def _fetch_last(self, topic: str) -> dict[str, Any]:
        """Return what was published last under a topic."""
        events = await self.get_events(topic)
        found: dict[str, Any] = events[-1][1] if events else {}
        return found

    def _update_slots(self, event: tuple[float, dict[str, int]]) -> None:
        self._set_slots(event[1])

    def _set_slots(self, slots: Mapping[str, int]) -> None:
        is_first, self._slots = not self._slots, slots
        if is_first and slots:  # a plain Dask cluster has none
            self._receive_results()

    def keep_results(self, results: Results | None) -> None:
        """Keep results from now on, and use those that are kept; None ends that.

        Parameters
        ----------
        results : Results or None
            From `open_results`; a session sets its own.
        """
        self._kept = None if results is None else KeptFutures(self, results)

    def submit(
        self,
        func: Callable[..., Any],
        *args: Any,
        tag: str | None = None,
        n: int | None = None,
        task: str | None = None,
        key: Any = None,
        workers: Any = None,
        resources: dict[str, float] | None = None,
        retries: int | None = None,
        priority: int = 0,
        fifo_timeout: str = "100 ms",
        allow_other_workers: bool = False,
        actor: bool = False,
        actors: bool = False,
        pure: bool = True,
        **kwargs: Any,
    ) -> Future[Any]:
        """Submit a task to a worker with the given tag.

        Parameters
        ----------
        func : callable
            The function to call.
        *args
            Its positional arguments; futures among them are resolved on the cluster.
        tag : str, optional
            The component whose workers may run it. Without tag or task, any worker may.
        n : int, optional
            Slots of the worker that it takes; 1 if a tag or task is given.
        task : str, optional
            A manifest task; it implies the tag of its component.
        key, workers, resources, retries, priority, fifo_timeout, actor, actors, pure : optional
            As for ``distributed.Client.submit``.
        allow_other_workers : bool
            As for ``distributed.Client.submit``, without a tag. With one it is refused.
        **kwargs
            Keyword arguments of `func`.

        Returns
        -------
        distributed.Future
            The future. The same pure call under two tags, or with two values of `n`, is two tasks.

        Raises
        ------
        UnknownTagError
            No worker group has that tag.
        UnknownTaskError
            The manifest has no such task.
        SlotsExceededError
            No worker of the group has `n` slots.
        TagConflictError
            `resources` has the tag of another group.
        UnknownWorkerError
            None of `workers` is connected and has the tag.
        TypeError
            `n` without tag or task, or a task of another component than `tag`.
        """
        tag, task, n = self._resolve(tag, task, n)
        actor = actor or actors
        version = self._update_modules()
        if pure and not actor and (keep := self._keeper(func, task, tag)):
            if tag is not None:
                resources = self._require(tag, n, resources, anywhere=allow_other_workers)
            (future,) = keep(
                *([args], kwargs),
                key=None if key is None else [key],
                tag=tag,
                version=version,
                workers=workers,
                resources=resources,
                retries=retries,
                priority=priority,
                fifo_timeout=fifo_timeout,
                allow_other_workers=allow_other_workers,
            )
            return future
        func = self._checked(func, None if actor else task)
        if not actor and self._kept and (rows := self._kept.reading(func, [args], kwargs)):
            if key is None:
                key = key_of_call(tag, n or 1, func, args, kwargs, pure=pure, version=version)
            func, (args,) = operator.call, rows
        if tag is not None and callable(func):
            resources = self._require(tag, n, resources, anywhere=allow_other_workers)
            if key is None:
                key = key_of_call(
                    *(tag, resources[tag], func, args, kwargs),
                    pure=pure and not actor,
                    version=version,
                )
            if _can_defer_unpickling(func, actor):
                func, args = operator.call, (defer_unpickling(func), *args)
        elif version and key is None and pure and not actor and callable(func):
            key = key_of_call(None, 1, func, args, kwargs, pure=True, version=version)
        return super().submit(
            func,
            *args,
            key=key,
            workers=workers,
            resources=resources,
            retries=retries,
            priority=priority,
            fifo_timeout=fifo_timeout,
            allow_other_workers=allow_other_workers,
            actor=actor,
            pure=pure,
            **kwargs,
        )

    def map(
        self,
        func: Callable[..., Any],
        *iterables: Any,
        tag: str | None = None,
        n: int | None = None,
        task: str | None = None,
        key: Any = None,
        workers: Any = None,
        resources: dict[str, float] | None = None,
        retries: int | None = None,
        priority: int = 0,
        fifo_timeout: str = "100 ms",
        allow_other_workers: bool = False,
        actor: bool = False,
        actors: bool = False,
        pure: bool = True,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> list[Future[Any]]:
        """Submit a task for each element to workers with the given tag.

        Parameters
        ----------
        func : callable
            The function to call.
        *iterables
            Its arguments, element by element.
        tag, n, task : optional
            As for `submit`.
        key, workers, resources, retries, priority, fifo_timeout, actor, actors, pure, batch_size : optional
            As for ``distributed.Client.map``.
        allow_other_workers : bool
            As for ``distributed.Client.map``, without a tag. With one it is refused.
        **kwargs
            Keyword arguments of `func`.

        Returns
        -------
        list of distributed.Future
            One for each element.

        Raises
        ------
        UnknownTagError, UnknownTaskError, SlotsExceededError, TagConflictError, UnknownWorkerError, TypeError
            As for `submit`.
        """
        tag, task, n = self._resolve(tag, task, n)
        actor = actor or actors
        version = self._update_modules()
        if pure and not actor and (keep := self._keeper(func, task, tag)):
            if tag is not None:
                resources = self._require(tag, n, resources, anywhere=allow_other_workers)
            if not _are_endless(iterables):
                return keep(
                    *(_zip_arguments(iterables)[1], kwargs),
                    key=key,
                    tag=tag,
                    version=version,
                    workers=workers,
                    resources=resources,
                    retries=retries,
                    priority=priority,
                    fifo_timeout=fifo_timeout,
                    allow_other_workers=allow_other_workers,
                    batch_size=batch_size,
                )
        func = self._checked(func, None if actor else task)
        if not actor and self._kept and self._kept.has_files and not _are_endless(iterables):
            iterables, calls = _zip_arguments(iterables)
            if rows := self._kept.reading(func, calls, kwargs):
                if isinstance(key, str) or not isinstance(key, Iterable):
                    key = keys_of_map(
                        *(tag, n or 1, func, calls, kwargs), pure=pure, prefix=key, version=version
                    )
                func, iterables = operator.call, tuple(map(list, zip(*rows, strict=True)))
        if tag is not None and callable(func) and not _are_endless(iterables):
            resources = self._require(tag, n, resources, anywhere=allow_other_workers)
            iterables, calls = _zip_arguments(iterables)
            if isinstance(key, str) or not isinstance(key, Iterable):
                key = keys_of_map(
                    *(tag, resources[tag], func, calls, kwargs),
                    pure=pure and not actor,
                    prefix=key,
                    version=version,
                )
            if _can_defer_unpickling(func, actor):
                key = list(key)
                func, iterables = operator.call, ([defer_unpickling(func)] * len(key), *iterables)
        elif version and key is None and pure and not actor and not _are_endless(iterables):
            iterables, calls = _zip_arguments(iterables)
            key = keys_of_map(None, 1, func, calls, kwargs, pure=True, version=version)
        futures: list[Future[Any]] = super().map(
            func,
            *iterables,
            key=key,
            workers=workers,
            resources=resources,
            retries=retries,
            priority=priority,
            fifo_timeout=fifo_timeout,
            allow_other_workers=allow_other_workers,
            actor=actor,
            pure=pure,
            batch_size=batch_size,
            **kwargs,
        )
        return futures

    def _live_html(self) -> tuple[str, bool]:
        owner: Any = self.session or self.cluster
        shown, final = owner._live_html()
        # Dask's own says the same, behind a fold that would close with each update.
        return f"<div><h3>{type(self).__name__}</h3>{shown}</div>", final or self.status == "closed"

    def _ipython_display_(self) -> None:
        if not hasattr(self.session or self.cluster, "_live_html"):
            raise NotImplementedError  # a notebook shows Dask's own
        show_live(self)

    @property
    def failures(self) -> Mapping[Any, TaskFailure]:
        """The tasks that were gathered with ``errors="collect"`` and have failed, by key."""
        return dict(self._failures)

    def compute(
        self,
        collections: Any,
        *args: Any,
        tag: str | None = None,
        n: int | None = None,
        task: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Compute Dask collections on workers with the given tag.

        Parameters
        ----------
        collections : object or iterable of objects
            The collections.
        tag, n, task : optional
            As for `submit`, for each task of the collections.
        *args, **kwargs
            As for ``distributed.Client.compute``.

        Returns
        -------
        distributed.Future, or list of them
            The results.

        Raises
        ------
        UnknownTagError, UnknownTaskError, SlotsExceededError, TagConflictError, UnknownWorkerError, TypeError
            As for `submit`. Parts of a collection that are annotated for another group conflict with a tag.
        """
        __tracebackhide__ = True  # by IPython and pytest; this call may raise a task's error
        return super().compute(collections, *args, **self._with_tag(tag, task, n, kwargs))

    def persist(
        self,
        collections: Any,
        *args: Any,
        tag: str | None = None,
        n: int | None = None,
        task: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Start to compute Dask collections on workers with the given tag, and return them as collections of futures.

        Parameters
        ----------
        collections, tag, n, task : optional
            As for `compute`.
        *args, **kwargs
            As for ``distributed.Client.persist``.

        Returns
        -------
        collection, or list of collections
            The same, made of futures.

        Raises
        ------
        UnknownTagError, UnknownTaskError, SlotsExceededError, TagConflictError, UnknownWorkerError, TypeError
            As for `compute`.
        """
        return super().persist(collections, *args, **self._with_tag(tag, task, n, kwargs))

    def get(
        self,
        dsk: Any,
        keys: Any,
        *args: Any,
        tag: str | None = None,
        n: int | None = None,
        task: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Compute keys of a graph on workers with the given tag.

        ``x.compute(tag="gcam")`` of a Dask collection comes here, too.

        Parameters
        ----------
        dsk : mapping or expression
            The graph.
        keys : object
            The keys to compute, perhaps nested.
        tag, n, task : optional
            As for `submit`, for each task of the graph.
        *args, **kwargs
            As for ``distributed.Client.get``.

        Returns
        -------
        object
            The results, nested as the keys are.

        Raises
        ------
        UnknownTagError, UnknownTaskError, SlotsExceededError, TagConflictError, UnknownWorkerError, TypeError
            As for `compute`.
        """
        __tracebackhide__ = True  # by IPython and pytest; this call may raise a task's error
        return super().get(dsk, keys, *args, **self._with_tag(tag, task, n, kwargs))

    def get_executor(
        self,
        *,
        tag: str | None = None,
        n: int | None = None,
        task: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return a `concurrent.futures.Executor` whose calls run on workers with the given tag.

        Parameters
        ----------
        tag, n, task : optional
            As for `submit`.
        **kwargs
            As for ``distributed.Client.get_executor``.

        Returns
        -------
        concurrent.futures.Executor
            The executor.

        Raises
        ------
        UnknownTagError, UnknownTaskError, SlotsExceededError, TagConflictError, TypeError
            As for `submit`.
        """
        tag, task, n = self._resolve(tag, task, n)
        if tag is None:
            return super().get_executor(**kwargs)
        anywhere = kwargs.get("allow_other_workers")
        self._require(tag, n, kwargs.get("resources"), anywhere=anywhere)
        return executor_of(TaggedCalls(self, tag, n), **kwargs)

    def explain(self, future: Future[Any]) -> Any:
        """Return why a task does not run yet.

        Parameters
        ----------
        future : distributed.Future
            The task's future.

        Returns
        -------
        str
            One line. An asynchronous client returns an awaitable of it.

        Raises
        ------
        NotSupportedError
            The cluster has no worker groups.
        TypeError
            It is no future.
        """
        if not isinstance(future, Future):
            raise TypeError(f"{future!r} is not a future; give one, as client.submit() returns it")
        return self.sync(self._explain, future)

    async def _explain(self, future: Future[Any]) -> str:
        if not self._slots:
            raise NotSupportedError(
                "only a cluster with worker groups explains tasks; see the dashboard of this one"
            )
        scheduler: Any = self.scheduler
        facts = await scheduler.scalable_explain_task(key=future.key)
        groups = {}
        if isinstance(self.cluster, GroupedCluster) and facts["state"] == "no-worker":
            found = await self.cluster.explain_async()
            groups = {tag: explanation.summary for tag, explanation in found.items()}
        return describe_wait(facts, groups)

    def restart_workers(self, workers: list[str], *args: Any, **kwargs: Any) -> Any:
        """Refuse to restart workers of a group, which have no nanny.

        Parameters
        ----------
        workers : list of str
            Names or addresses of workers.
        *args, **kwargs
            As for ``distributed.Client.restart_workers``, which this is on a plain Dask cluster.

        Raises
        ------
        NotSupportedError
            The cluster has worker groups.
        """
        if self._slots:
            raise NotSupportedError(
                "restart_workers() cannot restart them, because workers of a group have no nanny: "
                "client.retire_workers() ends them, and the group gets new ones"
            )
        return super().restart_workers(workers, *args, **kwargs)

    # -- Hooks of Dask's client

    def _graph_to_futures(self, expr: Any, keys: Any, *args: Any, **kwargs: Any) -> Any:
        """Create futures of a graph, once it is known that some worker can run it. All calls come here."""
        annotations = self._with_resources(dask.base.get_annotations())
        anywhere = kwargs.get("allow_other_workers") or annotations.get("allow_other_workers")
        if found := [*map(self._with_resources, annotations_of(expr))]:
            self._check_annotated(found, kwargs.get("resources"), anywhere=anywhere)
            expr = keep_annotations(expr, self._with_resources)
        resources = kwargs.get("resources") or annotations.get("resources")
        # Workers of a plain Dask cluster, which has no table, may have any resources.
        if resources and self._slots and not callable(resources):
            self._check_resources(resources)
            if anywhere:
                refuse_other_workers(resources)
        workers = kwargs.get("workers") or annotations.get("workers")
        if workers and not callable(workers) and not anywhere:
            self._check_workers(workers, resources)
        if self._kept is not None:
            self._kept.provide(expr, resources)
        with dask.base.annotate(**annotations):
            futures = super()._graph_to_futures(expr, keys, *args, **kwargs)
        if self.modules is not None:
            self.modules.end_call()
        return futures

    @staticmethod
    def _get_computation_code(stacklevel: int | None = None, nframes: int = 1) -> tuple[Any, ...]:
        """Return the user's code that asked for a computation, without frames of ours."""
        return computation_code(stacklevel, nframes)

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

    async def _scatter(self, *args: Any, **kwargs: Any) -> Any:
        """Scatter, once there is a worker: a group that adapts may have none until there is a task."""
        if kwargs.get("workers") is None and self._has_workers_with_tasks_only():
            first = self.submit(bool, key=f"scatter-{uuid.uuid4().hex}")
            timeout = kwargs.get("timeout")  # by default, it is none of these
            limit = parse_timedelta(timeout) if isinstance(timeout, (int, float, str)) else None
            await asyncio.wait_for(super()._gather([first]), limit)
        return await super()._scatter(*args, **kwargs)

    def _has_workers_with_tasks_only(self) -> bool:
        """Return whether no group has a worker, and a task would bring one."""
        groups = self.cluster.groups.values() if isinstance(self.cluster, GroupedCluster) else ()
        return not any(each.running for each in groups) and any(
            each.wanted or each.maximum for each in groups
        )

    def _handle_key_in_memory(self, key: Any = None, *args: Any, **kwargs: Any) -> None:
        """Record that a task has finished. Perhaps it ran again, so that an earlier result is not this one."""
        self._results.discard(key)
        self._failures.pop(key, None)  # it was tried again
        super()._handle_key_in_memory(key, *args, **kwargs)

    def _handle_result(self, key: Any, result: bytes) -> None:
        """Keep a small result, which follows the message that its task has finished."""
        if key in self.futures:
            self._results.add(key, result)

    def _release_key(self, key: Any) -> None:
        self._results.discard(key)
        if self._kept is not None:
            self._kept.discard(key)
        super()._release_key(key)

    def _handle_restart(self) -> None:
        self._results.clear()
        if self._kept is not None:
            self._kept.clear()
        super()._handle_restart()

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
            try:
                response = await super()._gather_remote(*args, **kwargs)
            except TypeError as error:
                if not str(error).startswith("Could not serialize"):
                    raise
                # Dask's text has the worker's traceback in it.
                text = in_one_line(error).removeprefix("TypeError: ")
                raise TypeError(f"{text}; let the task return what can be pickled") from None
        if response["status"] == "OK":
            response["data"] |= here
            if kept and self._kept is not None:
                response["data"] |= await self._kept.load(kept)
        return response

    def send_modules(self, modules: UserModules) -> None:
        """Let workers have these modules of the user's from now on, in place of those of another client.

        The cluster must have some already.
        """
        with modules.lock:
            self._send_to_scheduler(modules.message())
        self.modules = modules

    def _update_modules(self) -> str:
        """Send the user's modules if they were changed, and return what identifies the changes."""
        if self.modules is None:
            return ""
        with self.modules.lock:
            if (message := self.modules.update()) is not None:
                self._send_to_scheduler(message)
            return self.modules.version

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

    def _checked(self, func: Callable[..., Any], task: str | None) -> Callable[..., Any]:
        """Return a function that fails without the outputs of its task, if that has any which are not kept."""
        if task is None or self.outputs is None or self.asynchronous:
            return func
        return self.outputs.wrap(self, func, task)

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

    # -- What a call requires

    @property
    def _manifest_tasks(self) -> Mapping[str, str]:
        return self._tasks or {}

    def _resolve(
        self, tag: str | None, task: str | None, n: int | None
    ) -> tuple[str | None, str | None, int | None]:
        """Return the tag, the task and the slots of a call: its own, or else those it is annotated with."""
        if self._slots and tag is None and task is None and n is None:
            found = tag_options(dask.base.get_annotations())
            tag, task, n = (found.get(name) for name in ("tag", "task", "n"))
        return resolve_tag(tag, task, n, self._manifest_tasks), task, n

    def _with_resources(self, annotations: Mapping[str, Any]) -> dict[str, Any]:
        """Return the annotations of a part of a graph, whose tag is a resource."""
        found = tag_options(annotations) if self._slots else {}
        if not found:
            return dict(annotations)
        task, n = found.get("task"), found.get("n")
        tag: Any = resolve_tag(found.get("tag"), task, n, self._manifest_tasks)
        anywhere = annotations.get("allow_other_workers")
        needed = resources_for_tag(tag, n, annotations.get("resources"), anywhere=anywhere)
        return {**annotations, "resources": needed}

    def _with_tag(
        self, tag: str | None, task: str | None, n: int | None, options: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the options of a computation, which may carry a tag, once workers have the user's modules."""
        self._update_modules()
        tag = resolve_tag(tag, task, n, self._manifest_tasks)
        if tag is None:
            return options
        anywhere = options.get("allow_other_workers")
        resources = self._require(tag, n, options.get("resources"), anywhere=anywhere)
        return options | {"resources": resources}

    def _require(
        self, tag: str, n: int | None, resources: Mapping[str, float] | None, *, anywhere: Any
    ) -> dict[str, float]:
        """Return the resources of a call that carries a tag, which a worker of its group can have."""
        needed = resources_for_tag(tag, n, resources, anywhere=anywhere)
        self._check_resources(needed)
        return needed

    def _check_resources(self, resources: Mapping[str, float]) -> None:
        """Raise if no worker of any group can have these resources."""
        if self._slots is None:
            return  # an asynchronous client that is not connected yet
        new = [tag for tag in resources if tag not in self._slots]
        if new and self.status == "running" and not self.asynchronous:
            # The event of a new group may not have arrived yet.
            self.sync(self._fetch_table)
        check_resources(resources, self._slots)

    def _check_annotated(
        self,
        annotations: Sequence[Mapping[str, Any]],
        resources: Mapping[str, float] | None,
        *,
        anywhere: Any,
    ) -> None:
        """Raise if parts of a graph are annotated for what no worker has, or for another group than the call."""
        for annotated in annotations:
            own = annotated.get("resources")
            needed = own or resources
            if self._slots and needed and (anywhere or annotated.get("allow_other_workers")):
                refuse_other_workers(needed)
            if not own or callable(own):
                continue
            if self._slots:
                self._check_resources(own)
            if resources and {*own} != {*resources}:
                raise TagConflictError(
                    [*resources, *(name for name in own if name not in resources)]
                )

    def _check_workers(self, workers: Any, resources: Any) -> None:
        """Raise if none of these workers is connected and has the resources."""
        if not self._slots or self.asynchronous or self.status != "running":
            return  # a plain Dask cluster, where one may come later; or only the scheduler knows
        if not isinstance(workers, (list, tuple, set, frozenset)):
            workers = [workers]
        needed = {} if callable(resources) else resources or {}
        try:
            check_workers(workers, needed, self._connected)
        except UnknownWorkerError:
            self._connected = self.scheduler_info(n_workers=-1)["workers"]
            check_workers(workers, needed, self._connected)


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


def _are_endless(iterables: Sequence[Any]) -> bool:
    """Return whether all arguments of a map are iterators, which may be infinite. Dask refuses that."""
    return all(isinstance(each, Iterator) for each in iterables)


def _zip_arguments(
    iterables: Sequence[Iterable[Any]],
) -> tuple[tuple[list[Any], ...], list[tuple[Any, ...]]]:
    """Return the arguments of a map by argument and by call, reading iterators once.

    Examples
    --------
    >>> _zip_arguments(["ab", iter(range(9))])
    ((['a', 'b'], [0, 1]), [('a', 0), ('b', 1)])
    """
    calls = [*zip(*iterables, strict=False)]  # as Dask does: the shortest decides
    return tuple([call[i] for call in calls] for i in range(len(iterables))), calls


def _can_defer_unpickling(func: Callable[..., Any], actor: bool) -> bool:
    # Dask inspects these functions itself.
    return not actor and not is_coroutine_function(func)
