"""Cancels all jobs of a run at its end, and waits until the controller has none of them any more."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from scalable.cluster.port import Leftover, Phase
from scalable.providers.slurm.commands import SlurmCommandError
from scalable.providers.slurm.labels import job_name
from scalable.providers.slurm.recognition import Recognizer
from scalable.providers.slurm.states import phase_of

if TYPE_CHECKING:
    from scalable.providers.slurm.commands import Slurm
    from scalable.providers.slurm.jobs import Jobs
    from scalable.providers.slurm.output import SlurmJob

__all__ = ["Sweeper"]


class Sweeper:
    """Cancels the jobs of a run.

    Parameters
    ----------
    slurm : Slurm
        Runs the commands.
    run : str
        The run's id.
    jobs : Jobs
        All jobs of the run that are known.
    """

    def __init__(self, slurm: Slurm, run: str, jobs: Jobs) -> None:
        self._slurm = slurm
        self._run = run
        self._name = job_name(run)
        self._jobs = jobs
        self._recognizer = Recognizer(slurm)

    async def cancel_all(self, timeout: float, *, has_submitted: bool) -> list[Leftover]:
        """Cancel all jobs, wait until they have ended, and return those that have not by then.

        Parameters
        ----------
        timeout : float
            Seconds to wait.
        has_submitted : bool
            Whether there may be jobs that are not known.
        """
        alive: list[SlurmJob] = []
        try:
            async with asyncio.timeout(timeout):
                # Whatever squeue shows, which may be old: scancel asks the controller.
                if has_submitted:
                    await self._slurm.cancel_by_name(self._name)
                alive = await self._live_jobs()
                if alive and not has_submitted:
                    await self._slurm.cancel_by_name(self._name)
                elif alive:
                    # A site's own rules may have given them another name.
                    await self._slurm.cancel([job.id for job in alive])
                while alive:
                    await asyncio.sleep(0.5)
                    alive = await self._live_jobs()
        except (SlurmCommandError, TimeoutError) as error:
            if alive and isinstance(error, TimeoutError):
                return [Leftover("Slurm job", job.id, job.state) for job in alive]
            message = getattr(error, "stderr", "") or "Slurm does not answer"
            remedy = (
                "when Slurm answers again, a process on this machine cancels what is left, "
                f"and so does `scalable reap {self._run}`"
            )
            return [Leftover("jobs named", self._name, f"{message}; {remedy}", is_certain=False)]
        return []

    async def _live_jobs(self) -> list[SlurmJob]:
        """Return the jobs that have not ended, as the controller has them, or else ``squeue``."""
        listed = {job.id: job for job in await self._list_jobs()}
        known = {job.id for job in self._jobs if job.phase is not Phase.GONE}
        doubtful = {name for name, job in listed.items() if _is_live(job)} | (known - listed.keys())
        for array in {name.partition("_")[0] for name in doubtful}:
            elements = await self._slurm.find_elements(array)
            if elements is not None:
                listed = {
                    name: job for name, job in listed.items() if not name.startswith(f"{array}_")
                }
                listed |= {job.id: job for job in elements if self._is_ours(job)}
        return [job for job in listed.values() if _is_live(job)]

    async def _list_jobs(self) -> list[SlurmJob]:
        """Return the jobs that ``squeue`` shows, which a site's own rules may have given another name or comment."""
        listed = await self._slurm.list_user_jobs()
        if self._jobs.awaited:
            unknown = (job for job in listed if self._jobs.get(job.id) is None)
            await self._recognizer.look_at(job for job in unknown if job.name != self._name)
        return [job for job in listed if self._is_ours(job)]

    def _is_ours(self, job: SlurmJob) -> bool:
        known = self._jobs.get(job.id)
        if job.name == self._name or (known is not None and known.is_shown_by(job)):
            return True
        return self._recognizer.label_of(job).get("run") == self._run


def _is_live(job: SlurmJob) -> bool:
    return phase_of(job.state) is not Phase.GONE and job.state != "COMPLETING"
