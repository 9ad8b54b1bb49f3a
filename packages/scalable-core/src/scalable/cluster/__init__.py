"""The engine: worker groups that start, heal, adapt, drain and end, the same on every backend.

Three parts: a *host* has the Dask scheduler, a *backend* starts and ends units, and the *controller* keeps groups of
them as they are wanted. `GroupedCluster` joins the three.

==============  =================================================================================
`port`          what a backend does: `Backend`, and the words that it answers in
`host`          what a host is
`group`         the books of one group: its units, their fates, its strikes
`adaptive`      how many workers demand calls for, and who gets them under a cap
`targets`       what each group is to have now, by that arithmetic
`native`        the calls to the backend that are under way
`troubles`      what is told of workers that did not come, or did not stay
`closing`       the steps of the end, which nothing may hold up
`controller`    the turns: look, settle, retarget, shed, drain, recall, launch
`link`          what the controller asks of the scheduler
`plugin`        what answers there, a package sent by value
`grouped`       `GroupedCluster`, for users and Dask's client
==============  =================================================================================

What this process uses of Dask beyond its public interface is in `dask_internals`.

Only `port` and `host` can be imported without Dask, so nothing is re-exported eagerly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scalable.cluster.adaptive import AdaptivePolicy
    from scalable.cluster.controller import Event, Pace
    from scalable.cluster.group import RetryPolicy
    from scalable.cluster.grouped import GroupedCluster

__all__ = ["AdaptivePolicy", "Event", "GroupedCluster", "Pace", "RetryPolicy"]

_HOMES = {
    "AdaptivePolicy": "adaptive",
    "Event": "controller",
    "GroupedCluster": "grouped",
    "Pace": "controller",
    "RetryPolicy": "group",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
