"""What runs inside the Dask scheduler and its workers, sent there by value.

A stock ``dask scheduler`` has none of our packages, so nothing in here may import `scalable` but this package itself:
the standard library and distributed only, and every message is made of plain types. `scalable.cluster.link` is the
other end.

Some of what it touches is not public API of distributed: worker states, the stealing extension, handlers. Each such
place is covered by a test against the installed version.
"""

from scalable.cluster.plugin.scheduler import TABLE_TOPIC, GroupsPlugin
from scalable.cluster.plugin.worker import GroupsWorkerPlugin

__all__ = ["TABLE_TOPIC", "GroupsPlugin", "GroupsWorkerPlugin"]
