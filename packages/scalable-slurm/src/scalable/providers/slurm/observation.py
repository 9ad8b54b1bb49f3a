"""The state of every unit of a run: from one ``squeue``, the controller where that leaves jobs out, and files."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from scalable.cluster.port import Phase, UnitState
from scalable.providers.slurm.labels import job_name
from scalable.providers.slurm.output import SlurmJob
from scalable.providers.slurm.recognition import Recognizer
from scalable.providers.slurm.states import phase_of

if TYPE_CHECKING:
    from scalable.providers.slurm.commands import Slurm
    from scalable.providers.slurm.jobfiles import JobFiles
    from scalable.providers.slurm.jobs import Job, Jobs
    from scalable.providers.slurm.nodes import FailingNodes
    from scalable.providers.slurm.request import JobRequest

__all__ = ["Observer"]

logger = logging.getLogger("scalable.providers.slurm")

_UNLISTED_AT_MOST = 120.0
"""Seconds for which a job is not given up that ``squeue`` does not show, and of which the controller says nothing."""

_AWAITED_QUIETLY = 30.0
"""Seconds after which the user is told of a launch of which no job is known."""

_AWAITED_AT_MOST = 900.0
"""Seconds for which the jobs of such a launch are looked for under other names."""


class Observer:
    """Observes the jobs of a run.

    Parameters
    ----------
    slurm : Slurm
        Runs the commands.
    run : str
        The run's id.
    requests : dict of str to JobRequest
        The request of a worker of each group, by tag.
    jobs : Jobs
        All jobs of the run, which are brought up to date; those that are new are added.
    files : JobFiles
        For jobs with several workers.
    nodes : mapping of str to FailingNodes
        By group, takes note of how jobs end.
    """

    def __init__(
        self,
        slurm: Slurm,
        run: str,
        requests: dict[str, JobRequest],
        jobs: Jobs,
        files: JobFiles,
        nodes: Mapping[str, FailingNodes],
    ) -> None:
        self._slurm = slurm
        self._run = run
        self._name = job_name(run)
        self._requests = requests
        self._jobs = jobs
        self._files = files
        self._nodes = nodes
        self._unlisted: dict[str, float] = {}
        """Since when ``squeue`` does not show a job; for ever, where the controller does not know it any more."""
        self._recognizer = Recognizer(slurm)
        self._told: set[str] = set()

    async def observe(self) -> Mapping[str, UnitState]:
        """Return the state of every unit, by id."""
        shown = []
        began = time.monotonic()
        listed = await self._slurm.list_jobs(self._name)
        listed += await self._find_renamed(listed)
        await self._recognizer.look_at(job for job in listed if self._jobs.get(job.id) is None)
        for seen in [*listed, *await self._find_unlisted(listed)]:
            job = self._find(seen)
            if job is None:
                continue
            had_ended = job.phase is Phase.GONE
            job.see(seen)
            patience = self._requests[job.tag].death_timeout if job.tag in self._requests else 0
            nodes = self._nodes[job.tag]
            nodes.see(seen, time.monotonic(), wanted=not job.stopped, patience=patience)
            shown.append((job, had_ended))
        # Those that have ended once more: their last workers may have ended before them.
        several = [job for job, had_ended in shown if job.room > 1 and not had_ended]
        await self._files.read_ends([job for job in several if job.phase is not Phase.PENDING])
        self._tell_of_awaited(began)
        return {state.unit.id: state for job, _ in shown for state in job.states()}

    def _find(self, seen: SlurmJob) -> Job | None:
        """Return a job: known from its launch or, if sbatch's answer was lost, from its comment or its script."""
        job = self._jobs.get(seen.id)
        if job is not None and not job.is_shown_by(seen):
            job = None
        # Where elements were cancelled while they waited, Slurm shows one more record, of the array, without a number.
        if (
            job is None
            and seen.is_element
            and not seen.was_refused
            and (label := self._label(seen))
        ):
            job = self._jobs.add_found(seen.id, label)
        return job

    def _label(self, seen: SlurmJob) -> Mapping[str, str]:
        label = self._recognizer.label_of(seen)
        ended = phase_of(seen.state) is Phase.GONE and seen.name == self._name
        if not label and ended and len(self._jobs.awaited) == 1:
            # There is no script of it any more, and no other launch of this run that it may be of.
            (launch,) = self._jobs.awaited.values()
            label = launch.label
            self._recognizer.remember(seen.array, label)
        return label if label.get("run") == self._run else {}

    async def _find_renamed(self, listed: Sequence[SlurmJob]) -> list[SlurmJob]:
        """Return jobs that may be those of a launch that has shown none, although they have another name."""
        if not self._jobs.awaited:
            return []
        shown = {job.id for job in listed}
        return [job for job in await self._slurm.list_user_jobs() if job.id not in shown]

    def _tell_of_awaited(self, now: float) -> None:
        """Warn once of each launch that has shown no job for a while; give it up after a longer one."""
        for request_id, launch in list(self._jobs.awaited.items()):
            if now - launch.since > _AWAITED_AT_MOST:
                del self._jobs.awaited[request_id]
            if request_id in self._told or now - launch.since < _AWAITED_QUIETLY:
                continue
            self._told.add(request_id)
            said = f" It printed: {launch.said}." if launch.said else ""
            logger.warning(
                "%s: sbatch has accepted %d workers without a job id, and squeue does not show their jobs after %.0f s."
                "%s See whether this site's sbatch has submitted them, and have it print the id (--parsable)",
                *(launch.label["tag"], launch.workers, now - launch.since, said),
            )

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
                elif job.id in known and job.is_shown_by(known[job.id]):
                    left = known[job.id].seconds_left
                    left = last.seconds_left if left is None else left
                    found.append(replace(known[job.id], seconds_left=left))
                else:
                    self._unlisted[job.id] = -math.inf
        return found
