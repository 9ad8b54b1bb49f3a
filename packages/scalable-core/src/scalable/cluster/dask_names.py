"""What Dask's client, its documentation and notebooks know of a cluster, by Dask's names."""

from __future__ import annotations

import asyncio
import html
import pkgutil
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, Self

from dask.utils import parse_timedelta

from scalable.cluster.dashboard import INSTALL, has_dashboard, link_that_opens
from scalable.cluster.events import Event
from scalable.cluster.host import WatchedHost
from scalable.cluster.notebook import groups_table, show_live
from scalable.cluster.port import GroupStatus
from scalable.cluster.teardown import ClosingCluster
from scalable.errors import AmbiguousScaleError, UnknownWorkerError

if TYPE_CHECKING:
    from distributed import Client
    from distributed.security import Security

__all__ = ["DaskNames"]

_ELSEWHERE = {
    "workers": "scheduler_info['workers'], or groups for counts",
    "worker_spec": "groups for counts, and the components of the manifest for what each worker is",
    "new_spec": "the components of the manifest",
    "new_worker_spec": "the components of the manifest",
    "scheduler": "client.run_on_scheduler(), or scheduler_info",
    "scheduler_spec": "scheduler_info",
    "scale_up": "scale_groups({tag: n})",
    "scale_down": "scale_groups({tag: n}), or client.retire_workers()",
    "start_worker": "scale_groups({tag: n})",
    "job_script": "scalable plan --render",
}
"""What there is in place of names that only some of Dask's clusters have."""


def _seconds(timeout: float | str | None) -> float | None:
    """Return a timeout as Dask takes it, which may be a text such as ``"5 min"``."""
    return None if timeout is None else float(parse_timedelta(timeout))


class DaskNames(ClosingCluster):
    """The names that every Dask cluster has, for a cluster with groups."""

    @property
    def groups(self) -> Mapping[str, GroupStatus]:
        """The counts of each group by tag, as of the last turn."""
        return self._controller.statuses

    @property
    def events(self) -> tuple[Event, ...]:
        """The most recent events, oldest first."""
        return tuple(self._controller.events)

    def logs(self, tag: str | None = None) -> dict[str, str]:
        """Return the tail of each unit's log, by unit id, for all groups or one."""
        return self._calls.wait(self._controller.logs(tag))

    @property
    def scheduler_address(self) -> str:
        """The scheduler's address for clients and workers."""
        return self._host.scheduler_address

    @property
    def security(self) -> Security:
        """TLS configuration for connections to the scheduler."""
        return self._host.security

    @property
    def dashboard_link(self) -> str:
        """The URL of the dashboard; empty where there is none, which `dashboard_problem` explains."""
        link = self._host.dashboard_link
        if isinstance(self._host, WatchedHost):
            return link
        return link_that_opens(link, self.scheduler_address) if has_dashboard() else ""

    @property
    def dashboard_problem(self) -> str:
        """Why there is no dashboard, and what to do; empty where there is one."""
        link = self._host.dashboard_link
        if not link:
            return "it is switched off, or this provider has none"
        if isinstance(self._host, WatchedHost) or self.dashboard_link:
            return ""
        return f"nothing listens at {link}" if has_dashboard() else INSTALL

    @property
    def scheduler_comm(self) -> Any:
        """RPC to the scheduler, to be used on `loop`."""
        return self._host.scheduler_comm

    @property
    def asynchronous(self) -> bool:
        """Whether this is the event loop's own thread, on which methods cannot wait."""
        return self._calls.on_loop()

    def sync(
        self,
        func: Callable[..., Any],
        *args: Any,
        asynchronous: bool | None = None,
        callback_timeout: float | str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run a coroutine function on `loop`, and return its result; on the loop's own thread, return the coroutine.

        Parameters
        ----------
        func : callable
            The coroutine function.
        *args, **kwargs
            Its arguments.
        asynchronous : bool, optional
            Whether to return the coroutine; by default, that depends on the thread.
        callback_timeout : float or str, optional
            Seconds, or a text such as ``"5 min"``, after which a `TimeoutError` is raised.
        """
        coro = func(*args, **kwargs)
        if callback_timeout is not None:
            coro = asyncio.wait_for(coro, _seconds(callback_timeout))
        is_awaited = self.asynchronous if asynchronous is None else asynchronous
        return coro if is_awaited else self._calls.wait(coro)

    @property
    def scheduler_info(self) -> dict[str, Any]:
        """What the scheduler says of itself and of its workers, by address: now, not as of some earlier message.

        Not to be used on the event loop's own thread.
        """
        info: dict[str, Any] = self._calls.wait(self._identity())
        return info

    async def _identity(self) -> Any:
        return await self.scheduler_comm.identity(n_workers=-1)

    @property
    def called_from_running_loop(self) -> bool:
        """Whether this is the event loop's own thread."""
        return self.asynchronous

    @property
    def observed(self) -> set[str]:
        """The names of the workers that are connected."""
        return {facts["name"] for facts in self.scheduler_info["workers"].values()}

    @property
    def requested(self) -> set[str]:
        """The names of all units that exist, also of those whose workers are not connected yet, or leave."""
        return self._controller.names()

    @property
    def plan(self) -> set[str]:
        """The names of the units that are to stay. Those to be launched have none yet; `groups` has their number."""
        return self._controller.names(leaving=False)

    if not TYPE_CHECKING:  # it has no other attributes

        def __getattr__(self, name: str) -> NoReturn:
            hint = f"; use {_ELSEWHERE[name]}" if name in _ELSEWHERE else ""
            text = f"{type(self).__name__!r} object has no attribute {name!r}{hint}"
            raise AttributeError(text, name=name, obj=self)

    def get_client(self) -> Client:
        """Return the current client, if it is one of this cluster, else a new `ScalableClient`."""
        from distributed import Client

        try:
            current: Client | None = Client.current()
        except ValueError:
            current = None
        if current is not None and current.cluster is self:
            return current
        # By its name, because it is made for clusters, and not the other way around.
        made: Client = pkgutil.resolve_name("scalable.client:ScalableClient")(self)
        return made

    def wait_for_workers(self, n_workers: int, timeout: float | str | None = None) -> None:
        """Return when all groups together have `n_workers` that take tasks; `wait_for_group` waits for one group.

        Parameters
        ----------
        n_workers : int
            Workers.
        timeout : float or str, optional
            Seconds, or a text such as ``"5 min"``; None waits until the workers are there, or cannot be any more.

        Raises
        ------
        TimeoutError
            It took longer. The error says what the groups wait for.
        GroupFailedError
            A group has failed, without which there are fewer.
        SchedulerLostError
            The scheduler is gone.
        ClusterClosedError
            The cluster was closed meanwhile.
        ValueError
            The number is not positive.
        """
        self._calls.wait(self._controller.wait_for_workers(n_workers, _seconds(timeout)))

    async def wait_for_workers_async(
        self, n_workers: int, timeout: float | str | None = None
    ) -> None:
        """Do the same as `wait_for_workers`, for coroutines."""
        await self._calls.wait_async(
            self._controller.wait_for_workers(n_workers, _seconds(timeout))
        )

    def get_logs(
        self,
        cluster: bool = True,
        scheduler: bool = True,
        workers: bool | str | Iterable[str] = True,
    ) -> dict[str, str]:
        """Return logs by name, as Dask's clusters do: ``Cluster``, ``Scheduler``, and each worker's.

        Parameters
        ----------
        cluster, scheduler : bool
            Which ones.
        workers : bool, str or iterable of str
            Whether those of workers are among them, or the names or addresses of some. They are tails, as of `logs`.

        Raises
        ------
        UnknownWorkerError
            No worker has any of these names.
        """
        found: dict[str, str] = {}
        if cluster:
            found["Cluster"] = "\n".join(f"{e.tag or 'cluster'}: {e.text}" for e in self.events)
        if scheduler:
            found["Scheduler"] = self._calls.wait(self._scheduler_log())
        if workers is True:
            return found | self.logs()
        names = [workers] if isinstance(workers, str) else workers
        return found | self._logs_of([*names]) if names else found

    def _logs_of(self, workers: list[str]) -> dict[str, str]:
        connected = self.scheduler_info["workers"]
        names = {connected[each]["name"] if each in connected else each for each in workers}
        found = {name: text for name, text in self.logs().items() if name in names}
        if not found:
            raise UnknownWorkerError(workers, None)
        return found

    async def _scheduler_log(self) -> str:
        return "\n".join(line for _, line in await self.scheduler_comm.get_logs())

    def __await__(self) -> Generator[Any, Any, Self]:
        # distributed.Client awaits its cluster before it connects.
        return self
        yield

    def scale(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise AmbiguousScaleError, because it does not specify a group."""
        raise AmbiguousScaleError("scale(n)", self._example("scale_groups", "2"))

    def adapt(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise AmbiguousScaleError, because it does not specify a group."""
        raise AmbiguousScaleError("adapt()", self._example("adapt_groups", "(0, 4)"))

    def _example(self, method: str, value: str) -> str:
        tag = next(iter(self.groups), "tag")
        return f"{method}({{{tag!r}: {value}}})"

    def __repr__(self) -> str:
        groups = ", ".join(f"{tag} {s.running}/{s.wanted}" for tag, s in self.groups.items())
        return f"<GroupedCluster {self.name!r} {self.status.name}: {groups}>"

    def _repr_html_(self) -> str:
        # Dask's client includes this in its own representation in a notebook.
        link = self.dashboard_link
        shown = html.escape(link)
        facts = [
            ("Status", html.escape(self.status.name)),
            ("Scheduler", html.escape(self.scheduler_address)),
            (
                "Dashboard",
                f'<a href="{shown}" target="_blank">{shown}</a>'
                if link
                else f"none: {html.escape(self.dashboard_problem)}",
            ),
        ]
        head = "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in facts)
        return (
            f"<div><h3>GroupedCluster {html.escape(self.name)}</h3><table>{head}</table>"
            f"{groups_table(self.groups)}</div>"
        )

    def _live_html(self) -> tuple[str, bool]:
        return self._repr_html_(), self.status.name == "closed"

    def _ipython_display_(self) -> None:
        show_live(self)
