"""`ScalableClient`: Dask's calls, each with a tag."""

from __future__ import annotations

import asyncio
import operator
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dask.base
import dask.config
from dask.utils import parse_timedelta
from distributed import Future
from distributed.security import Security

from scalable.client.checking import CheckingClient
from scalable.client.executor import TaggedCalls
from scalable.client.keys import key_of_call, keys_of_map
from scalable.client.maps import is_large, map_calls
from scalable.client.requirements import resolve_tag, workers_with_tag
from scalable.client.waits import describe_wait
from scalable.cluster import GroupedCluster
from scalable.cluster.dask_internals import (
    computation_code,
    defer_unpickling,
    executor_of,
    is_coroutine_function,
)
from scalable.cluster.notebook import show_live
from scalable.cluster.plugin import (
    FileNames,
)
from scalable.errors import (
    MissingKeysError,
    NotSupportedError,
)

if TYPE_CHECKING:
    from scalable.modules import UserModules
    from scalable.results.reuse import OutputChecks, Results
    from scalable.session import ScalableSession

__all__ = ["ScalableClient"]

RESTART_TIMEOUT = 30.0
"""Seconds that the news of a restart may take to this client after its answer, over another connection."""


def _lacks_keys(address: Any, security: Any = None, **_: object) -> bool:
    """Return whether Dask would look for keys in vain, and say so in terms of `ssl`."""
    if security is not None or not (isinstance(address, str) and address.startswith("tls://")):
        return False
    if dask.config.get("distributed.client.security-loader"):
        return False
    return Security().get_tls_config_for_role("client")["cert"] is None


class ScalableClient(CheckingClient):
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
        self.outputs: OutputChecks | None = None
        self._file_names = FileNames()
        super().__init__(address, *args, tasks=tasks, results=results, **kwargs)

    async def _start(self, *args: Any, **kwargs: Any) -> Any:
        started = await super()._start(*args, **kwargs)
        self._file_names.keep()
        return started

    async def _close(self, *args: Any, **kwargs: Any) -> None:
        self._file_names.release()
        await super()._close(*args, **kwargs)

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
        tag, task, n, resources = self._resolve(tag, task, n, resources)
        actor = actor or actors
        options: dict[str, Any] = {
            "workers": workers,
            "retries": retries,
            "priority": priority,
            "fifo_timeout": fifo_timeout,
            "allow_other_workers": allow_other_workers,
        }
        version = self._update_modules()
        if pure and not actor and (keep := self._keeper(func, task, tag)):
            if tag is not None:
                resources = self._require(tag, n, resources, anywhere=allow_other_workers)
            (future,) = keep(
                *([args], kwargs),
                key=None if key is None else [key],
                tag=tag,
                version=version,
                resources=resources,
                **options,
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
            resources=resources,
            actor=actor,
            pure=pure,
            **options,
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
        tag, task, n, resources = self._resolve(tag, task, n, resources)
        actor = actor or actors
        options: dict[str, Any] = {
            "workers": workers,
            "retries": retries,
            "priority": priority,
            "fifo_timeout": fifo_timeout,
            "allow_other_workers": allow_other_workers,
        }
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
                    resources=resources,
                    batch_size=batch_size,
                    **options,
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
        elif (
            (version or any(map(is_large, kwargs.values())))
            and pure
            and not actor
            and not _are_endless(iterables)
        ):
            iterables, calls = _zip_arguments(iterables)
            if isinstance(key, str) or not isinstance(key, Iterable):
                key = keys_of_map(
                    *(None, 1, func, calls, kwargs), pure=True, prefix=key, version=version
                )
        return map_calls(
            *(self, func, iterables, kwargs),
            key=key,
            resources=resources,
            actor=actor,
            pure=pure,
            batch_size=batch_size,
            **options,
        )

    def _live_html(self) -> tuple[str, bool]:
        owner: Any = self.session or self.cluster
        shown, final = owner._live_html()
        # Dask's own says the same, behind a fold that would close with each update.
        return f"<div><h3>{type(self).__name__}</h3>{shown}</div>", final or self.status == "closed"

    def _ipython_display_(self) -> None:
        if not hasattr(self.session or self.cluster, "_live_html"):
            raise NotImplementedError  # a notebook shows Dask's own
        show_live(self)

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
        tag, task, n, resources = self._resolve(tag, task, n, kwargs.get("resources"))
        if tag is None:
            return super().get_executor(**kwargs)
        anywhere = kwargs.get("allow_other_workers")
        self._require(tag, n, resources, anywhere=anywhere)
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

    def run(
        self,
        function: Callable[..., Any],
        *args: Any,
        tag: str | None = None,
        task: str | None = None,
        workers: Any = None,
        nanny: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Run a function on all workers with the given tag, outside of the scheduling of tasks.

        Parameters
        ----------
        function : callable
            The function.
        *args
            Its positional arguments.
        tag, task : optional
            As for `submit`. Without them, it runs on all workers.
        workers : list of str, optional
            Run it on these of them only.
        nanny : bool
            As for ``distributed.Client.run`` on a plain Dask cluster. Workers of a group have none.
        **kwargs
            As for ``distributed.Client.run``, and keyword arguments of `function`.

        Returns
        -------
        dict
            What it returned, by the address of the worker.

        Raises
        ------
        UnknownTagError, UnknownTaskError, TypeError
            As for `submit`.
        UnknownWorkerError
            None of `workers` has the tag.
        NotSupportedError
            It is to run on nannies.
        """
        __tracebackhide__ = True  # by IPython and pytest; this call may raise the function's error
        self._check_nanny("run(nanny=True) would run nowhere", nanny)
        tag = resolve_tag(tag, task, None, self._manifest_tasks)
        if tag is None:
            return super().run(function, *args, workers=workers, nanny=nanny, **kwargs)
        self._check_resources({tag: 1})
        return self.sync(self._run_on_group, tag, workers, function, *args, **kwargs)

    async def _run_on_group(
        self, tag: str, workers: Any, function: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        scheduler: Any = self.scheduler
        connected = (await scheduler.identity(n_workers=-1))["workers"]
        return await super().run(
            function, *args, workers=workers_with_tag(tag, workers, connected), **kwargs
        )

    def restart(self, *args: Any, **kwargs: Any) -> Any:
        """Forget all tasks, and let all workers be replaced.

        Parameters
        ----------
        *args, **kwargs
            As for ``distributed.Client.restart``.
        """
        return self.sync(self._restart_and_forget, *args, **kwargs)

    async def _restart_and_forget(self, *args: Any, **kwargs: Any) -> None:
        self._restarted.clear()
        await super().restart(*args, **kwargs)
        # The message that cancels all futures may come after the answer. It would cancel those that are submitted next.
        await asyncio.wait_for(self._restarted.wait(), RESTART_TIMEOUT)

    def get_worker_logs(
        self, n: int | None = None, workers: Any = None, nanny: bool = False
    ) -> Any:
        """Return logs of workers by their address.

        Parameters
        ----------
        n, workers : optional
            As for ``distributed.Client.get_worker_logs``.
        nanny : bool
            As for ``distributed.Client.get_worker_logs`` on a plain Dask cluster. Workers of a group have none.

        Raises
        ------
        NotSupportedError
            Logs of nannies are asked for.
        """
        self._check_nanny("get_worker_logs(nanny=True) would find nothing", nanny)
        return super().get_worker_logs(n=n, workers=workers, nanny=nanny)

    def _check_nanny(self, what: str, nanny: bool) -> None:
        if nanny and self._slots:
            raise NotSupportedError(
                f"{what}, because workers of a group have no nanny: leave out nanny"
            )

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

    def _graph_to_futures(self, *args: Any, **kwargs: Any) -> Any:
        """Create futures of a graph. All calls come here."""
        futures = super()._graph_to_futures(*args, **kwargs)
        if self.modules is not None:
            self.modules.end_call()
        return futures

    @staticmethod
    def _get_computation_code(stacklevel: int | None = None, nframes: int = 1) -> tuple[Any, ...]:
        """Return the user's code that asked for a computation, without frames of ours."""
        return computation_code(stacklevel, nframes)

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

    def _checked(self, func: Callable[..., Any], task: str | None) -> Callable[..., Any]:
        """Return a function that fails without the outputs of its task, if that has any which are not kept."""
        if task is None or self.outputs is None or self.asynchronous:
            return func
        return self.outputs.wrap(self, func, task)

    # -- What a call requires

    def _with_tag(
        self, tag: str | None, task: str | None, n: int | None, options: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the options of a computation, which may carry a tag, once workers have the user's modules."""
        self._update_modules()
        if tag is None and task is None and n is None:
            return options  # annotations of its parts count more than those of a block
        tag, task, n, resources = self._resolve(tag, task, n, options.get("resources"))
        if tag is None:
            return options
        anywhere = options.get("allow_other_workers")
        resources = self._require(tag, n, resources, anywhere=anywhere)
        return options | {"resources": resources}


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
