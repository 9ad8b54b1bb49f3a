"""The state of every unit of a run: from one ``squeue``, from the controller where that leaves jobs out, and from files."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from scalable.cluster.port import Phase, UnitState
from scalable.providers.slurm.output import SlurmJob

if TYPE_CHECKING:
    from scalable.providers.slurm.commands import Slurm
    from scalable.providers.slurm.jobfiles import JobFiles
    from scalable.providers.slurm.jobs import Job, Jobs
    from scalable.providers.slurm.nodes import FailingNodes
    from scalable.providers.slurm.request import JobRequest

__all__ = ["Observer"]

_UNLISTED_AT_MOST = 120.0
"""Seconds for which a job is not given up that ``squeue`` does not show, and of which the controller says nothing."""


class Observer:
    """Observes the jobs of a run.

    Parameters
    ----------
    slurm : Slurm
        Runs the commands.
    job_name : str
        The name of the jobs.
    requests : dict of str to JobRequest
        The request of a worker of each group, by tag.
    jobs : Jobs
        All jobs of the run, which are brought up to date; those that are new are added.
    files : JobFiles
        For jobs with several workers.
    nodes : FailingNodes
        Takes note of how jobs end.
    """

    def __init__(
        self,
        slurm: Slurm,
        job_name: str,
        requests: dict[str, JobRequest],
        jobs: Jobs,
        files: JobFiles,
        nodes: FailingNodes,
    ) -> None:
        self._slurm = slurm
        self._job_name = job_name
        self._requests = requests
        self._jobs = jobs
        self._files = files
        self._nodes = nodes
        self._unlisted: dict[str, float] = {}
        """Since when ``squeue`` does not show a job; for ever, where the controller does not know it any more."""

    async def observe(self) -> Mapping[str, UnitState]:
        """Return the state of every unit, by id."""
        shown = []
        listed = await self._slurm.list_jobs(self._job_name)
        for seen in [*listed, *await self._find_unlisted(listed)]:
            job = self._jobs.find(seen)
            if job is None:
                continue
            had_ended = job.phase is Phase.GONE
            job.see(seen)
            patience = self._requests[job.tag].death_timeout if job.tag in self._requests else 0
            self._nodes.see(seen, time.monotonic(), wanted=not job.stopped, patience=patience)
            shown.append((job, had_ended))
        # Those that have ended once more: their last workers may have ended before them.
        several = [job for job, had_ended in shown if job.room > 1 and not had_ended]
        await self._files.read_ends([job for job in several if job.phase is not Phase.PENDING])
        return {state.unit.id: state for job, _ in shown for state in job.states()}

    async def _find_unlisted(self, listed: Sequence[SlurmJob]) -> list[SlurmJob]:
        """Return the known jobs that ``squeue`` has left out, as the controller has them, one array after another.

        Where it does not tell, they are as they were last seen, for a while: if it is away, it accepts no others.
        """
        ids, now = {job.id for job in listed}, time.monotonic()
        self._unlisted = {job: since for job, since in self._unlisted.items() if job not in ids}
        by_array: dict[str, list[Job]] = {}
        for job in self._jobs:
            if job.phase is Phase.GONE or job.id in ids:
                continue
            if now - self._unlisted.setdefault(job.id, now) > _UNLISTED_AT_MOST:
                continue
            by_array.setdefault(job.id.partition("_")[0], []).append(job)
        found: list[SlurmJob] = []
        for array, jobs in by_array.items():
            elements = await self._slurm.find_elements(array)
            known = None if elements is None else {each.id: each for each in elements}
            for job in jobs:
                last = job.last or SlurmJob(job.id, "PENDING", "None", None, "", "")
                if known is None:
                    found.append(last)
                elif job.id in known:
                    found.append(replace(known[job.id], seconds_left=last.seconds_left))
                else:
                    self._unlisted[job.id] = -math.inf
        return found
