"""Nodes on which workers cannot start: new ones are kept off them for a while."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from scalable.cluster.port import Phase
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


class FailingNodes:
    """Remembers on which nodes jobs fail as soon as they have begun.

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
            if now - began >= young:
                self._failures.pop(job.node, None)
        elif phase is Phase.GONE and job.id not in self._ended:
            self._ended.add(job.id)
            age = now - self._began.pop(job.id, now)
            failed = (
                age < young if job.state in _FAILED else job.state == "COMPLETED" and age < _AT_ONCE
            )
            if wanted and job.node and failed:
                self._failures.setdefault(job.node, []).append(now)

    def left_out(self, now: float) -> Sequence[str]:
        """Return the nodes that new jobs should not get."""
        return tuple(
            node
            for node, times in sorted(self._failures.items())
            if len(times) >= _FAILURES and now - times[-1] < LEFT_OUT_FOR
        )

    def forget(self) -> None:
        """Forget all failures: there are no other nodes."""
        self._failures.clear()
