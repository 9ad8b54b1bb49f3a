"""`CheckingClient`: Dask's client, which sends no task that no worker of any group can run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import dask.base
from distributed import Client

from scalable.client.gathering import GatheringClient
from scalable.client.requirements import (
    check_resources,
    check_workers,
    refuse_other_workers,
    resolve_tag,
    resources_for_tag,
    tag_options,
)
from scalable.cluster.dask_internals import (
    annotations_of,
    as_expression,
    is_error_of_lost_actor,
    keep_annotations,
)
from scalable.cluster.plugin import TABLE_TOPIC, explain_lost_actors
from scalable.errors import TagConflictError, UnknownWorkerError

__all__ = ["CheckingClient"]

TASKS_TOPIC = "scalable-tasks"
"""Dask event topic on which a client publishes the component of each manifest task, for clients inside of tasks."""

_Parameters = ParamSpec("_Parameters")
_Answer = TypeVar("_Answer")


def _without_tag(method: Callable[_Parameters, _Answer]) -> Callable[_Parameters, _Answer]:
    """Return a method of Dask's client that takes any option, and refuses tags instead of ignoring or sending them."""

    @wraps(method)
    def call(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Answer:
        for name in ("tag", "task"):
            if name in kwargs:
                raise TypeError(
                    f"{method.__name__}() takes no {name}=: leave it out; "
                    "client.scheduler_info()['workers'] has the tag of each worker among its resources"
                )
        return method(*args, **kwargs)

    return call


class CheckingClient(GatheringClient):
    """A ``distributed.Client`` that knows the worker groups of its cluster, and what calls require of their workers.

    Parameters
    ----------
    tasks : mapping of str to str, optional
        The component of each manifest task, by its name; by default those that another client has published.
    *args, **kwargs
        As for `GatheringClient`.
    """

    def __init__(self, *args: Any, tasks: Mapping[str, str] | None = None, **kwargs: Any) -> None:
        self._tasks = None if tasks is None else dict(tasks)
        self._slots: Mapping[str, int] | None = None  # until it is known
        self._connected: Mapping[str, Any] = {}  # workers, when they were last asked for
        super().__init__(*args, **kwargs)

    async def _start(self, *args: Any, **kwargs: Any) -> Any:
        started = await super()._start(*args, **kwargs)
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
            explain_lost_actors(self.rpc, self._find_actor_error)

    def _handle_task_erred(
        self, key: Any = None, exception: Any = None, traceback: Any = None
    ) -> None:
        if self._slots and is_error_of_lost_actor(exception):
            return  # the scheduler reports it again, once it knows the reason
        super()._handle_task_erred(key, exception, traceback)

    async def _find_actor_error(self, actor: Any) -> Any:
        scheduler: Any = self.scheduler
        return await scheduler.scalable_find_actor_error(actor=actor)

    dump_cluster_state = _without_tag(Client.dump_cluster_state)
    has_what = _without_tag(Client.has_what)
    list_datasets = _without_tag(Client.list_datasets)
    nbytes = _without_tag(Client.nbytes)
    ncores = _without_tag(Client.ncores)
    nthreads = _without_tag(Client.nthreads)
    retire_workers = _without_tag(Client.retire_workers)
    scheduler_info = _without_tag(Client.scheduler_info)
    unpublish_dataset = _without_tag(Client.unpublish_dataset)
    who_has = _without_tag(Client.who_has)

    def _graph_to_futures(self, expr: Any, keys: Any, *args: Any, **kwargs: Any) -> Any:
        """Create futures of a graph, once it is known that some worker can run it. All calls come here."""
        expr = as_expression(expr)
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
        with dask.base.annotate(**annotations):
            return super()._graph_to_futures(expr, keys, *args, **kwargs)

    @property
    def _manifest_tasks(self) -> Mapping[str, str]:
        return self._tasks or {}

    def _resolve(
        self, tag: str | None, task: str | None, n: int | None, resources: Any
    ) -> tuple[str | None, str | None, int | None, Any]:
        """Return the tag, the task, the slots and the resources of a call: its own, or else those it is annotated with.

        Of a call with a group of its own, by whichever option, no annotation says another one.
        """
        if self._slots and tag is None and task is None and not resources:
            annotations = dask.base.get_annotations()
            if found := tag_options(annotations):
                tag, task = found.get("tag"), found.get("task")
                n = found.get("n") if n is None else n
                # An inner block may have asked for another group by its resources; it cannot be told from an outer one.
                resources = annotations.get("resources")
        return resolve_tag(tag, task, n, self._manifest_tasks), task, n, resources

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
            others = anywhere or annotated.get("allow_other_workers")
            if (workers := annotated.get("workers")) and not callable(workers) and not others:
                self._check_workers(workers, needed)
            if self._slots and needed and others:
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
            check_workers(workers, needed, self._connected, self._slots)
