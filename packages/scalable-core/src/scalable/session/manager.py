"""The manager of a session that outlives the shell: it waits, and answers to other processes of its user."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from scalable.errors import SessionError
from scalable.session.control import served_at

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from distributed.scheduler import Scheduler

    from scalable.errors import SchedulerLostError
    from scalable.session.session import ScalableSession

__all__ = ["Manager"]

_MAX_LOOK = 30.0
"""Seconds between two looks at whether anybody uses the cluster."""


class Manager:
    """Keeps a session that is started until somebody ends it, nobody has used it for long, or it cannot go on.

    Parameters
    ----------
    session : ScalableSession
        The session.
    idle_timeout : float
        Seconds without a client of another process and without a task; 0 for no limit.
    """

    def __init__(self, session: ScalableSession, idle_timeout: float) -> None:
        if session.cluster.scheduler_address.startswith("inproc"):
            raise SessionError(
                f"no other process can reach workers that are threads; "
                f"set processes: true in target {session.target!r}"
            )
        self._session = session
        self._idle_timeout = idle_timeout
        self._ended = threading.Event()
        self._why = ""
        self._lost: SchedulerLostError | None = None
        self._changing = threading.Lock()
        session.cluster.on_scheduler_lost(self._lose)

    def served(self, directory: Path) -> AbstractContextManager[None]:
        """Answer to other processes, by the directory of the run's record, until the block is left."""
        return served_at(directory, self.answer)

    def wait(self) -> str:
        """Return why the session is to be closed, once it is.

        Raises
        ------
        SchedulerLostError
            Its scheduler is lost.
        """
        used = time.monotonic()
        step = min(_MAX_LOOK, self._idle_timeout / 4 or _MAX_LOOK)
        while not self._ended.wait(step):
            usage = self._session.usage
            if usage.get("limit_reached") and usage.get("action") == "abort":
                return f"limits.{usage['limit_reached']} was reached, and on_exceed is abort"
            if self._is_used():
                used = time.monotonic()
            elif self._idle_timeout and time.monotonic() - used >= self._idle_timeout:
                return f"nobody has used it for {self._idle_timeout:.0f} s"
        if self._lost is not None:
            raise self._lost
        return self._why

    def _end(self, why: str) -> None:
        self._why = self._why or why
        self._ended.set()

    def _lose(self, error: SchedulerLostError) -> None:
        self._lost = error
        self._ended.set()

    def _is_used(self) -> bool:
        """Return whether another client is connected, or tasks are not done; what is not known counts as use."""
        from distributed.protocol.pickle import dumps
        from distributed.utils import sync

        cluster, own = self._session.cluster, self._session.client.id

        # A nested function, because it is pickled by value: the scheduler may have none of our packages.
        def is_used(dask_scheduler: Scheduler) -> bool:
            at_rest = ("memory", "erred", "released", "forgotten")
            return any(client != own for client in dask_scheduler.client_comms) or any(
                count and state not in at_rest
                for prefix in dask_scheduler.task_prefixes.values()
                for state, count in prefix.states.items()
            )

        try:
            answer = sync(
                cluster.loop,
                cluster.scheduler_comm.run_function,
                function=dumps(is_used),
                callback_timeout=_MAX_LOOK,
            )
        except (OSError, RuntimeError, TimeoutError):
            return True
        return answer["status"] != "OK" or bool(answer["result"])

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer to a request of another process.

        Raises
        ------
        ScalableError, ValueError
            It cannot be done.
        """
        session = self._session
        match request:
            case {"do": "connect"}:
                return dict(self._connection())
            case {"do": "groups"}:
                return {"groups": {tag: asdict(each) for tag, each in session.groups.items()}}
            case {"do": "explain"}:
                return {"groups": {tag: asdict(each) for tag, each in session.explain().items()}}
            case {"do": "scale", "workers": dict(workers), "ranges": dict(ranges)}:
                with self._changing:
                    if workers:
                        session.scale(workers)
                    if ranges:
                        session.adapt({tag: (low, high) for tag, (low, high) in ranges.items()})
                return {}
            case {"do": "down"}:
                self._end("somebody has ended it")
                return {}
        raise ValueError(f"this version of the run's manager cannot do {request!r}")

    def _connection(self) -> Iterator[tuple[str, Any]]:
        """Yield what a client of another process needs, the keys included."""
        from distributed.versions import get_versions

        versions = get_versions()
        cluster, client = self._session.cluster, self._session.client
        yield "address", cluster.scheduler_address
        yield "direct", client.direct_to_workers
        yield "host", {"python": versions["host"]["python"]}
        yield "packages", {name: versions["packages"][name] for name in ("dask", "distributed")}
        if cluster.security is not None and cluster.security.require_encryption:
            names = ("tls_ca_file", "tls_client_cert", "tls_client_key")
            yield "tls", {name: getattr(cluster.security, name) for name in names}
