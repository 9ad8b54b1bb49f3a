"""`ScalableClient`: Dask's client, with tags and manifest tasks."""

from __future__ import annotations

import asyncio
import operator
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

import dask.config
from dask.base import tokenize
from distributed import Client, Future
from distributed.security import Security

from scalable.cluster import GroupedCluster
from scalable.cluster.dask_internals import (
    defer_unpickling,
    fail_futures,
    function_name,
    is_coroutine_function,
    retrieve_gather_exceptions,
)
from scalable.cluster.plugin import TABLE_TOPIC, FileNames
from scalable.errors import (
    ClusterClosedError,
    MissingKeysError,
    SchedulerLostError,
    SlotsExceededError,
    UnknownTagError,
    UnknownTaskError,
)

if TYPE_CHECKING:
    from scalable.session import ScalableSession

__all__ = ["ScalableClient"]

_MESSAGES_OF_THE_END = {
    "client-releases-keys",
    "close-client",
    "close-stream",
    "heartbeat-client",
}
"""Messages that mean nothing any more once the scheduler is lost."""


def _lacks_keys(address: Any, security: Any = None, **_: object) -> bool:
    """Return whether Dask would look for keys in vain, and say so in terms of `ssl`."""
    if security is not None or not (isinstance(address, str) and address.startswith("tls://")):
        return False
    if dask.config.get("distributed.client.security-loader"):
        return False
    return Security().get_tls_config_for_role("client")["cert"] is None


class ScalableClient(Client):
    """A ``distributed.Client`` that sends tasks to the workers made for them.

    It is Dask's client, whose `submit` and `map` also take a tag.

    Parameters
    ----------
    address : GroupedCluster or str
        The cluster, or the address of its scheduler.
    tasks : mapping of str to str, optional
        The component of each manifest task, by its name.
    session : ScalableSession, optional
        The session this client belongs to.
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
        **kwargs: Any,
    ) -> None:
        if not args and _lacks_keys(address, **kwargs):
            raise MissingKeysError(address)
        self.session = session
        self._tasks = dict(tasks or {})
        self._slots: Mapping[str, int] = {}
        self._file_names = FileNames()
        self._lost: SchedulerLostError | None = None
        super().__init__(address, *args, **kwargs)

    async def _start(self, *args: Any, **kwargs: Any) -> Any:
        started = await super()._start(*args, **kwargs)
        self._file_names.keep()
        # The scheduler publishes the group table as events; a plain Dask cluster has none of them.
        self.subscribe_topic(TABLE_TOPIC, self._update_slots)
        await self._fetch_slots()
        if isinstance(self.cluster, GroupedCluster):
            self.cluster.on_scheduler_lost(self._on_scheduler_lost)
        return started

    def _on_scheduler_lost(self, error: SchedulerLostError) -> None:
        # On the cluster's event loop, which may be another one.
        if self.loop is not None:
            self.loop.add_callback(self._lose_scheduler, error)

    async def _lose_scheduler(self, error: SchedulerLostError) -> None:
        """Let all futures, and whatever is asked of this client from now on, raise the reason."""
        if self._lost is None and self.status != "closed":
            self._lost = error
            fail_futures(self, error)
            await self._close(fast=True)

    async def _reconnect(self) -> None:
        # Dask cancels all futures at once, and names no reason. The cluster finds it out.
        if isinstance(self.cluster, GroupedCluster):
            self.status = "connecting"
            try:
                await self.cluster.wait_for_scheduler_async()
            except SchedulerLostError as error:
                await self._lose_scheduler(error)
                return
            except ClusterClosedError:
                await self._close()
                return
        await super()._reconnect()

    def _send_to_scheduler(self, msg: dict[str, Any]) -> None:
        if self._lost is None:
            super()._send_to_scheduler(msg)
        elif msg["op"] not in _MESSAGES_OF_THE_END:
            raise copy(self._lost)

    async def _close(self, *args: Any, **kwargs: Any) -> None:
        self._file_names.release()
        await super()._close(*args, **kwargs)

    async def _fetch_slots(self) -> None:
        for event in await self.get_events(TABLE_TOPIC):
            self._update_slots(event)

    def _update_slots(self, event: tuple[float, dict[str, int]]) -> None:
        _, self._slots = event

    def submit(
        self,
        func: Callable[..., Any],
        *args: Any,
        tag: str | None = None,
        n: int | None = None,
        task: str | None = None,
        key: Any = None,
        pure: bool = True,
        resources: dict[str, float] | None = None,
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
        key, pure, resources, **kwargs
            As for ``distributed.Client.submit``; all others are keyword arguments of `func`.

        Returns
        -------
        distributed.Future
            The future. The same pure call under two tags is two tasks.

        Raises
        ------
        UnknownTagError
            No worker group has that tag.
        UnknownTaskError
            The manifest has no such task.
        SlotsExceededError
            No worker of the group has `n` slots.
        TypeError
            `n` without tag or task, or a task of another component than `tag`.
        """
        tag = self._resolve_tag(tag, task, n)
        if tag is not None:
            resources = self._required_resources(tag, n, resources)
            if key is None:
                token = tokenize(func, args, kwargs) if pure else uuid.uuid4().hex
                key = f"{_key_prefix(tag, func)}-{token}"
            if _can_defer_unpickling(func, kwargs):
                func, args = operator.call, (defer_unpickling(func), *args)
        return super().submit(func, *args, key=key, pure=pure, resources=resources, **kwargs)

    def map(
        self,
        func: Callable[..., Any],
        *iterables: Any,
        tag: str | None = None,
        n: int | None = None,
        task: str | None = None,
        key: Any = None,
        pure: bool = True,
        resources: dict[str, float] | None = None,
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
        key, pure, resources, **kwargs
            As for ``distributed.Client.map``; all others are keyword arguments of `func`.

        Returns
        -------
        list of distributed.Future
            One for each element.

        Raises
        ------
        UnknownTagError, UnknownTaskError, SlotsExceededError, TypeError
            As for `submit`.
        """
        tag = self._resolve_tag(tag, task, n)
        if tag is not None:
            resources = self._required_resources(tag, n, resources)
            iterables, calls = _zip_arguments(iterables)
            key = _key_prefix(tag, func) if key is None else key
            if isinstance(key, str):
                key = [f"{key}-{token}" for token in _call_tokens(func, calls, kwargs, pure)]
            if _can_defer_unpickling(func, kwargs):
                func, iterables = operator.call, ([defer_unpickling(func)] * len(key), *iterables)
        futures: list[Future[Any]] = super().map(
            func, *iterables, key=key, pure=pure, resources=resources, **kwargs
        )
        return futures

    async def _gather(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super()._gather(*args, **kwargs)
        except asyncio.CancelledError:
            retrieve_gather_exceptions()  # Ctrl-C
            raise

    def _resolve_tag(self, tag: str | None, task: str | None, n: int | None) -> str | None:
        """Return the tag that a call is for."""
        if task is not None:
            if task not in self._tasks:
                raise UnknownTaskError(task, self._tasks)
            component = self._tasks[task]
            if tag not in (None, component):
                raise TypeError(
                    f"task {task!r} runs on component {component!r}, not on tag {tag!r}; leave out tag"
                )
            return component
        if tag is None and n is not None:
            raise TypeError(
                "n= counts slots of a tag, and there is no tag; give tag= too, "
                "or pass an argument named n to your function by position"
            )
        return tag

    def _required_resources(
        self, tag: str, n: int | None, resources: dict[str, float] | None
    ) -> dict[str, float]:
        """Return the resources of a task, after checking that a worker of the group can have them."""
        need = 1 if n is None else n
        if tag not in self._slots and self.status == "running" and not self.asynchronous:
            # The event of a new group may not have arrived yet.
            self.sync(self._fetch_slots)
        if tag not in self._slots:
            raise UnknownTagError(tag, self._slots)
        if not need >= 1:
            raise ValueError(f"n={need} is not a valid number of slots; give n=1 or more")
        if need > self._slots[tag]:
            raise SlotsExceededError(tag, need, self._slots[tag])
        return {**(resources or {}), tag: need}


def _key_prefix(tag: str, func: Callable[..., Any]) -> str:
    """Return a key's prefix that includes the tag, so that Dask learns durations for each tag separately.

    Dask takes a key up to its first dash as its prefix. Tags contain neither colon nor dot, so none share a prefix.

    Examples
    --------
    >>> _key_prefix("gcam-7", abs)
    'gcam:7.abs'
    """
    return f"{tag.replace('-', ':')}.{function_name(func)}"


def _zip_arguments(
    iterables: Sequence[Iterable[Any]],
) -> tuple[tuple[list[Any], ...], list[tuple[Any, ...]]]:
    """Return the arguments of a map by argument and by call, reading iterators once.

    Raises
    ------
    TypeError
        All of them are iterators, which may be infinite. Dask refuses that, too.

    Examples
    --------
    >>> _zip_arguments(["ab", iter(range(9))])
    ((['a', 'b'], [0, 1]), [('a', 0), ('b', 1)])
    """
    if iterables and all(isinstance(each, Iterator) for each in iterables):
        raise TypeError("map() takes no iterators, which may be infinite; give it a list")
    calls = [*zip(*iterables, strict=False)]  # as Dask does: the shortest decides
    return tuple([call[i] for call in calls] for i in range(len(iterables))), calls


def _call_tokens(
    func: Callable[..., Any], calls: Iterable[Any], kwargs: Mapping[str, Any], pure: bool
) -> list[str]:
    """Return a token for each call of a map."""
    if not pure:
        this = uuid.uuid4().hex
        return [f"{this}-{number}" for number, _ in enumerate(calls)]
    common = tokenize(func, kwargs)
    return [tokenize(common, call) for call in calls]


def _can_defer_unpickling(func: Callable[..., Any], options: Mapping[str, Any]) -> bool:
    # Dask inspects these functions itself.
    actor = options.get("actor") or options.get("actors")
    return not actor and not is_coroutine_function(func)
