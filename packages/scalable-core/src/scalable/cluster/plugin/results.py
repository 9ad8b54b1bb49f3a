"""Small results travel with the news that their tasks have finished.

In Dask, a client asks for a result once it has learnt that there is one, and the scheduler asks a worker. For a result
of a few bytes, that takes as long as all the rest. So a worker adds it to the message in which it reports that the task
has finished, and the scheduler passes it on to those clients that wait for the task and can use it. It keeps nothing.

Only values of built-in types and of NumPy travel so: to pickle these is quick, calls no code of a user, and has no size
but the one that was measured. All else is asked for, as in Dask, and so is what a client asks for again.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from scalable.cluster.plugin.dask_internals import (
    adjust_batches,
    keep_no_log,
    replace_batched_send,
    runs_here,
    send_to_clients,
)

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler
    from distributed.worker import Worker

__all__ = ["RESULT_MESSAGE", "ResultForwarding", "SmallResults", "pack_small_result"]

MAX_BYTES = 8192
"""Of a value in memory, everything in it included, that travels with the message of its task."""

RESULT_MESSAGE = "scalable-result"
"""Operation of the message to a client that carries a result, and of the field of a worker's that does."""

_FIELD = "scalable_result"

_ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes})
_CONTAINERS = frozenset({list, tuple, set, frozenset})


def pack_small_result(value: object) -> bytes | None:
    """Pickle a small value of plain types; return None for any other.

    Examples
    --------
    >>> pickle.loads(pack_small_result({"member": 3, "warming": [1.5, 2.0]}))
    {'member': 3, 'warming': [1.5, 2.0]}
    >>> pack_small_result("x" * 100_000), pack_small_result(object())
    (None, None)
    """
    return pickle.dumps(value, protocol=5) if _is_small_and_plain(value) else None


def _is_small_and_plain(value: object) -> bool:
    room = MAX_BYTES
    todo: list[Any] = [value]
    while todo:
        each = todo.pop()
        room -= sys.getsizeof(each)
        if room < 0:  # also where a container contains itself
            return False
        kind = type(each)
        if kind in _ATOMS:
            continue
        if kind in _CONTAINERS:
            todo += each
        elif kind is dict:
            todo += each
            todo += each.values()
        elif not _is_plain_array(each):
            return False
    return True


def _is_plain_array(value: Any) -> bool:
    """Return whether this is a number or an array of NumPy's, which pickle as they would be sent by Dask."""
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return False
    if type(value) is not numpy.ndarray:
        return type(value).__module__ == "numpy" and isinstance(value, (numpy.number, numpy.bool_))
    # A view would be smaller than what `getsizeof` has counted; pickle does not keep arrays read-only.
    owns = value.base is None and value.flags.writeable
    return bool(owns and value.dtype.kind in "biufc" and value.dtype.metadata is None)


class SmallResults:
    """Lets a worker add small results, and what its tasks have used, to its messages.

    Parameters
    ----------
    worker : Worker
        The worker.
    take_usage : callable
        Returns what a task has used, by its key.
    """

    def __init__(
        self, worker: Worker, take_usage: Callable[[Any], dict[str, Any]] = lambda key: {}
    ) -> None:
        self._worker = worker
        self._take_usage = take_usage
        self._dask_send = replace_batched_send(worker, self.send)
        keep_no_log(worker.batched_stream)

    def close(self) -> None:
        """Restore how the worker sends its messages."""
        replace_batched_send(self._worker, self._dask_send)

    def send(self, message: dict[str, Any]) -> None:
        """Send a message to the scheduler, with the result if it reports a small one."""
        if message["op"] == "task-finished" and message["nbytes"] <= MAX_BYTES:
            # Not there for an actor, which is no result.
            value = self._worker.data.get(message["key"], self)
            if (packed := pack_small_result(value)) is not None:
                message[_FIELD] = packed
        if message["op"] in ("task-finished", "task-erred"):
            usage = self._take_usage(message["key"])
            computed = [s for s in message["startstops"] if s["action"] == "compute"]
            if computed:
                computed[-1].update(usage)
        adjust_batches(self._worker)
        self._dask_send(message)


class ResultForwarding:
    """Passes small results on to the clients that have asked for that."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._clients: set[str] = set()
        self._dask_handler: Any = scheduler.stream_handlers["task-finished"]

    def add_client(self, client: str) -> None:
        """Begin to send small results to this client, with the messages that their tasks have finished."""
        self._clients.add(client)
        if (connection := self._scheduler.client_comms.get(client)) is not None:
            keep_no_log(connection)

    def remove_client(self, client: str) -> None:
        """Forget a client."""
        self._clients.discard(client)

    def handle_task_finished(
        self,
        key: Any,
        worker: str,
        run_id: int,
        scalable_result: bytes | None = None,
        **message: Any,
    ) -> None:
        """Call Dask's handler, then pass the result on."""
        is_news = scalable_result is not None and runs_here(self._scheduler, key, worker, run_id)
        self._dask_handler(key=key, worker=worker, run_id=run_id, **message)
        ts = self._scheduler.tasks.get(key)
        if not is_news or ts is None or ts.state != "memory":
            return
        clients = [
            each.client_key for each in ts.who_wants or () if each.client_key in self._clients
        ]
        # After Dask's own message, in one batch with it: a client drops an earlier result when that comes.
        send_to_clients(
            self._scheduler,
            clients,
            {"op": RESULT_MESSAGE, "key": key, "result": scalable_result},
        )
