"""The engine: worker groups that start, adapt, drain and recover, with the same code on every backend.

A *host* has the Dask scheduler, a *backend* starts and stops units, and the *controller* keeps each group at its wanted
count. `GroupedCluster` joins the three. The modules, in reading order:

===============  =================================================================================
`port`           `Backend`, the interface that a provider implements, and the types of its answers
`host`           `Host`, the interface of what has the scheduler
`member`         one unit of a group: what is known about it, and how it ended
`retry`          limits, counts and back-off of failed starts and lost workers
`group`          the state of one group: its units and launches
`status`         a group's counts, and why workers of it are missing
`starts`         how long the workers of a group take to start
`adaptive`       how many workers demand is worth, for how long idle ones stay, how a cap is shared
`targets`        the wanted count of each group, by that arithmetic
`budget`         what a run may use, and a meter of what it has used
`controller`     the turn: observe, handle ends, set targets, drain, resume, launch, publish
`ends`           what follows from the end of a unit, and failed groups
`deaths`         why workers died that had tasks, for the scheduler
`killed`         the error of a task that kills workers
`draining`       how workers drain, and their units are stopped
`launching`      how groups get the units that they lack
`limits`         calls that end in an error after a while
`ledger`         what a run is about to make, on disk before it is made
`native`         the calls to the backend that are under way
`answers`        what a backend has answered, checked
`answers`        the answers of a backend, checked
`explanations`   why units did not start or were lost, for users
`closing`        the steps of closing, each bounded in time
`pace`           the controller's intervals and timeouts
`events`         what happened, for people and records
`link`           the interface to the scheduler, and its implementation over RPC
`health`         whether the scheduler is up, late or lost
`scheduler`      the calls to the scheduler that are under way
`versions`       whether client and scheduler fit each other
`plugin`         the scheduler's side of `link`, a package that is sent by value
`calls`          calls to the event loop, from any other thread or loop
`teardown`       how a cluster ends, also where the program ends first
`dask_names`     the names by which Dask's client, its documentation and notebooks know a cluster
`grouped`        `GroupedCluster`: the groups, for users
`logs`           the logs of workers that a run keeps, in `log_directory`
`history`        when each worker was launched, joined and ended
`quiet`          Dask's log lines while clusters are open
`dashboard`      the link to Dask's dashboard: one that opens, or none
`quiet`          Dask's log lines while clusters are open
`notebook`       worker groups in a notebook, kept up to date
`configuration`  what the user or the site has set of Dask's configuration
`remote`         `RemoteHost`, for a scheduler that a native system runs elsewhere
===============  =================================================================================

What this process uses of Dask beyond its public interface is in `dask_internals`.

Only `adaptive`, `budget`, `host`, `ledger`, `log_directory` and `port` can be imported without Dask, so nothing is
re-exported eagerly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scalable.cluster.adaptive import AdaptivePolicy
    from scalable.cluster.events import Event
    from scalable.cluster.grouped import GroupedCluster
    from scalable.cluster.pace import Pace
    from scalable.cluster.retry import RetryPolicy

__all__ = ["AdaptivePolicy", "Event", "GroupedCluster", "Pace", "RetryPolicy"]

_MODULES = {
    "AdaptivePolicy": "adaptive",
    "Event": "events",
    "GroupedCluster": "grouped",
    "Pace": "pace",
    "RetryPolicy": "retry",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
