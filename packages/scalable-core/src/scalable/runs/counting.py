"""What a scheduler has counted of its tasks: from the start, and also those that it has forgotten."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from scalable.runs.tally import Tally, make_tally

if TYPE_CHECKING:
    from scalable.cluster import GroupedCluster

__all__ = ["begin_tally", "read_progress", "read_tally", "take_ends"]

_TIMEOUT = 5.0

T = TypeVar("T")


def begin_tally(cluster: GroupedCluster) -> None:
    """Count from now on.

    Raises
    ------
    OSError, RuntimeError, TimeoutError
        The scheduler does not answer.
    """
    from scalable.runs import plugins

    _call(cluster, plugins.install)


def read_tally(
    cluster: GroupedCluster, kept: Mapping[str, tuple[str | None, int]] | None = None
) -> Tally:
    """Return what has become of the tasks so far; nothing where they are not counted.

    Parameters
    ----------
    cluster : GroupedCluster
        The cluster.
    kept : mapping of str to (str, int), optional
        As for `make_tally`.

    Raises
    ------
    OSError, RuntimeError, TimeoutError
        The scheduler does not answer.
    """
    from scalable.runs import plugins

    summary: Mapping[str, Any] | None = _call(cluster, plugins.summarize)
    return make_tally(summary or {}, kept)


def take_ends(cluster: GroupedCluster) -> str:
    """Return the tasks that have ended since the last call, a line of JSON for each; at most 100,000 of them.

    Raises
    ------
    OSError, RuntimeError, TimeoutError
        The scheduler does not answer.
    """
    from scalable.runs import plugins

    # Lines, and one text of them: what is made of each of many thousand tasks is made once.
    return _call(cluster, plugins.take_rows)


def read_progress(
    cluster: GroupedCluster, timeout: float = _TIMEOUT
) -> tuple[dict[str, tuple[int, int, int]], list[float]]:
    """Return how many tasks are done, failed and left, by the name of their function, and seconds that the rest takes.

    They are counted from now on, if they were not.

    Parameters
    ----------
    cluster : GroupedCluster
        The cluster.
    timeout : float
        Seconds to wait for the scheduler.

    Raises
    ------
    OSError, RuntimeError, TimeoutError
        The scheduler does not answer.
    """
    from scalable.runs import plugins

    found = _call(cluster, plugins.progress, timeout)
    if found is None:
        _call(cluster, plugins.install, timeout)
        found = _call(cluster, plugins.progress, timeout)
    return found or ({}, [])


def _call(cluster: GroupedCluster, function: Callable[[Any], T], timeout: float = _TIMEOUT) -> T:
    """Return what a function of `scalable.runs.plugins` returns on the scheduler."""
    import cloudpickle
    from distributed.protocol.pickle import dumps
    from distributed.utils import sync

    from scalable.runs import plugins

    cloudpickle.register_pickle_by_value(plugins)  # the scheduler may have none of our packages
    answer = sync(
        cluster.loop,
        cluster.scheduler_comm.run_function,
        function=dumps(function),
        callback_timeout=timeout,
    )
    if answer["status"] != "OK":
        raise RuntimeError("the scheduler cannot count its tasks")
    result: T = answer["result"]
    return result
