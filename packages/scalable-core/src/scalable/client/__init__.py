"""`ScalableClient`: Dask's client, with tags and manifest tasks.

==============  =================================================================================
`client`        `ScalableClient`: Dask's calls, each with a tag
`checking`      `CheckingClient`: sends no task that no worker of any group can run
`gathering`     `GatheringClient`: has small results already, and those that are kept
`connection`    `WatchedClient`: ends in one error once its scheduler is lost
`kept`          the futures of results that are kept
`results`       small results that came with the news that their tasks have finished
`unreadable`    results that cannot be unpickled here
`foreign`       exceptions of classes that this process does not have
`failures`      tasks that failed, beside the results of those that did not
`keys`          the keys of calls that carry a tag
`maps`          Dask's `map`, whose calls may share large keyword arguments
`requirements`  what a call requires, and whether any worker can ever have it
`waits`         why a task does not run yet, in words
`executor`      `concurrent.futures` executors for one tag
==============  =================================================================================
"""

from scalable.client.client import ScalableClient
from scalable.client.failures import TaskFailure

__all__ = ["ScalableClient", "TaskFailure"]
