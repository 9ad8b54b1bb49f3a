"""The part of the engine that runs inside the Dask scheduler and its workers; it is sent there by value.

A stock ``dask scheduler`` has none of our packages, so these modules import the standard library, distributed and each
other, nothing else, and every message consists of plain types. `scalable.cluster.link` is the other end.

In reading order:

================  =================================================================================
`scheduler`       `GroupsPlugin`: installs the handlers, forwards events, answers the controller
`demand`          how much work each tag has
`admission`       which workers may register
`liveness`        which workers answer
`draining`        how workers leave without losing or repeating anything
`transfers`       results that cannot be sent to some workers, and the tasks that need them there
`failed_groups`   the tasks that only failed groups could run
`presence`        ends a cluster without its controller and without clients
`walltimes`       announced ends of workers, and the tasks that take longer than any worker lives
`shuffles`        which workers take part in an all-to-all shuffle
`nannies`         refuses what needs a nanny
`explaining`      why a task does not run yet
`deaths`          the tasks that kill their workers
`actors`          the actors that are lost with their workers
`submissions`     tasks that keep their slots while others, which they have submitted, wait for one
`exceptions`      exceptions of classes that the scheduler does not have
`spreading`       moves waiting tasks to workers that join later
`worker`          `GroupsWorkerPlugin`: what workers answer to `draining` and `transfers`
`clients`         the clients that tasks get on a worker
`isolation`       what a task does to its worker's process, and the next one must not notice
`missing`         modules that a worker does not have
`forks`           what a process that is forked inside a worker's process inherits
`results`         small results, sent to clients with the news that their tasks have finished
`usage`           what tasks use: memory, and the time of processors
`running`         what a worker runs, told to `deaths` and, where that is needed, alone
`filenames`       the file names of functions that are pickled by value
`dask_internals`  what all of them use of distributed beyond its public interface
================  =================================================================================
"""

from scalable.cluster.plugin.admission import describe_version_mismatch
from scalable.cluster.plugin.dask_internals import (
    ContainedCalls,
    contain_answers,
    explain_lost_actors,
    keep_no_log,
    send_sooner,
)
from scalable.cluster.plugin.exceptions import in_one_line, passable, raise_unreadable
from scalable.cluster.plugin.filenames import FileNames, kept_file_names
from scalable.cluster.plugin.results import RESULT_MESSAGE
from scalable.cluster.plugin.scheduler import TABLE_TOPIC, GroupsPlugin
from scalable.cluster.plugin.worker import GroupsWorkerPlugin

__all__ = [
    "RESULT_MESSAGE",
    "TABLE_TOPIC",
    "ContainedCalls",
    "FileNames",
    "GroupsPlugin",
    "GroupsWorkerPlugin",
    "contain_answers",
    "describe_version_mismatch",
    "explain_lost_actors",
    "in_one_line",
    "keep_no_log",
    "kept_file_names",
    "passable",
    "raise_unreadable",
    "send_sooner",
]
