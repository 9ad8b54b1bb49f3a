"""Nodes on which workers cannot start: new ones are kept off them for a while."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from scalable.cluster.port import Phase
from scalable.providers.slurm.output import node_names
from scalable.providers.slurm.states import phase_of

if TYPE_CHECKING:
    from scalable.providers.slurm.output import SlurmJob

__all__ = ["LEFT_OUT_FOR", "FailingNodes"]

LEFT_OUT_FOR = 600.0
"""Seconds for which a node is left out of launches."""

_YOUNG = 60.0
"""Seconds within which a worker that ends has not started well, beside those for which it looks for its scheduler."""

_FAILURES = 2
"""One may be that of the worker."""

# Jobs are shown as cancelled where the prolog of a node fails.
_FAILED = frozenset({"BOOT_FAIL", "CANCELLED", "FAILED", "LAUNCH_FAILED", "NODE_FAIL"})

_AT_ONCE = 15.0
"""Seconds within which a job that completes has not started well."""


_LATE_COUNTS_FOR = 3600.0
"""Seconds for which a worker that has not joined counts together with the next one."""


class FailingNodes:
    """Remembers on which nodes jobs of one group fail as soon as they have begun, or never get their workers to join.

    What fails on every node is the fault of the group: it must not keep the workers of others off them.

    Examples
    --------
    >>> from scalable.providers.slurm.output import SlurmJob
    >>> nodes = FailingNodes()
    >>> for number in range(2):
    ...     nodes.see(SlurmJob(f"7_{number}", "FAILED", "NonZeroExitCode", None, "node1", ""), now=5.0)
    >>> nodes.left_out(now=6.0), nodes.left_out(now=606.0)
    (('node1',), ())
    """

    def __init__(self) -> None:
        self._began: dict[str, float] = {}
        self._ended: set[str] = set()
        self._failures: dict[str, list[float]] = {}
        self._late: dict[str, dict[str, float]] = {}
        """By node, when it was told of jobs that their workers had not joined in time."""

    def see(
        self, job: SlurmJob, now: float, *, wanted: bool = True, patience: float = 60.0
    ) -> None:
        """Note the state of a job.

        Parameters
        ----------
        job : SlurmJob
            The job.
        now : float
            The time, in seconds.
        wanted : bool
            Whether it was not to end.
        patience : float
            Seconds for which its worker looks for its scheduler before it ends.
        """
        young = _YOUNG + patience
        phase = phase_of(job.state)
        if phase is Phase.RUNNING:
            began = self._began.setdefault(job.id, now)
            for node in node_names(job.node) if now - began >= young else ():
                self._failures.pop(node, None)
        elif phase is Phase.GONE and job.id not in self._ended:
            self._ended.add(job.id)
            age = now - self._began.pop(job.id, now)
            failed = (
                age < young if job.state in _FAILED else job.state == "COMPLETED" and age < _AT_ONCE
            )
            # Of several, it is not known which is to blame; that one is among those of the next failure, too.
            for node in node_names(job.node) if wanted and failed else ():
                self._failures.setdefault(node, []).append(now)

    def note_late(
        self, late: Iterable[SlurmJob], connected: Iterable[SlurmJob], now: float
    ) -> None:
        """Note that workers of jobs run, but have not joined in time, while those of other jobs are connected.

        Only workers that are connected from another node show that it is their node, and not the scheduler.
        """
        well = {job.id: node_names(job.node) for job in connected}
        for job, nodes in well.items():
            for node in nodes:
                if self._began.get(job, now) > max(self._late.get(node, {}).values(), default=now):
                    del self._late[node]
        for each in late:
            nodes = node_names(each.node)
            # Of a job with several workers, the others may have joined.
            if each.id not in well and {node for own in well.values() for node in own} - {*nodes}:
                for node in nodes:
                    self._late.setdefault(node, {}).setdefault(each.id, now)

    def left_out(self, now: float) -> Sequence[str]:
        """Return the nodes that new jobs should not get."""
        return tuple(
            node
            for node in sorted(self._failures.keys() | self._late.keys())
            if len(times := self._times(node, now)) >= _FAILURES and now - max(times) < LEFT_OUT_FOR
        )

    def _times(self, node: str, now: float) -> Sequence[float]:
        late = self._late.get(node, {}).values()
        return [*self._failures.get(node, ()), *(t for t in late if now - t < _LATE_COUNTS_FOR)]

    def forget(self) -> None:
        """Forget all failures: there are no other nodes."""
        self._failures.clear()
        self._late.clear()
