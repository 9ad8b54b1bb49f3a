"""Submits the workers of a launch: in jobs that have room for more, and in arrays of a size that the site takes."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scalable.cluster.port import Explanation, LaunchResult, Phase, Reason, Unit
from scalable.errors import LaunchError, LaunchRefusedError, NativeTimeoutError, describe_error
from scalable.providers.slurm.commands import TooManyJobsError
from scalable.providers.slurm.jobs import Awaited
from scalable.providers.slurm.labels import format_comment, job_name, parse_comment
from scalable.providers.slurm.nodes import LEFT_OUT_FOR
from scalable.providers.slurm.packing import pack, reduce_room
from scalable.providers.slurm.sbatch import sbatch_argv
from scalable.providers.slurm.script import job_environment, job_script

if TYPE_CHECKING:
    from scalable.providers.slurm.commands import Slurm, Submitted
    from scalable.providers.slurm.jobfiles import JobFiles
    from scalable.providers.slurm.jobs import Job, Jobs
    from scalable.providers.slurm.nodes import FailingNodes
    from scalable.providers.slurm.request import JobRequest

__all__ = ["Submitter"]

logger = logging.getLogger("scalable.providers.slurm")

_NO_ARRAYS = "invalid job array specification"


@dataclass
class ArraySize:
    """How many jobs the next array should have, after what the site has accepted and refused.

    Examples
    --------
    >>> size = ArraySize(20)
    >>> sizes = []
    >>> for _ in range(4):
    ...     sizes.append(size.jobs)
    ...     size.accept() if size.jobs <= 6 else size.refuse()
    >>> sizes
    [20, 10, 5, 7]
    """

    jobs: int
    _refused: float = math.inf

    def refuse(self) -> None:
        """Take note that an array of this size was refused."""
        self.jobs, self._refused = max(1, self.jobs // 2), self.jobs

    def accept(self) -> None:
        """Take note that an array of this size was accepted: the next may be nearer to the one that was refused."""
        self.jobs = int(min(2 * self.jobs, (self.jobs + self._refused) / 2))


class Submitter:
    """Submits the workers of launches.

    Parameters
    ----------
    slurm : Slurm
        Runs the commands.
    run : str
        The run's id.
    scheduler_address : str
        The scheduler's address, as workers reach it.
    requests : dict of str to JobRequest
        The request of a worker of each group, by tag.
    jobs : Jobs
        All jobs of the run; what is submitted is added.
    files : JobFiles
        For jobs with several workers.
    nodes : mapping of str to FailingNodes
        By group, nodes that new jobs should not get.

    Attributes
    ----------
    has_submitted : bool
        Whether there may be jobs.
    """

    def __init__(
        self,
        slurm: Slurm,
        run: str,
        scheduler_address: str,
        requests: dict[str, JobRequest],
        jobs: Jobs,
        files: JobFiles,
        nodes: Mapping[str, FailingNodes],
    ) -> None:
        self.has_submitted = False
        self._slurm = slurm
        self._run = run
        self._scheduler_address = scheduler_address
        self._requests = requests
        self._jobs = jobs
        self._files = files
        self._nodes = nodes
        self._told: dict[str, set[str]] = {}
        """By group, nodes that the user knows are left out."""
        self._packed: dict[str, JobRequest] = {}
        self._accepted: dict[str, int] = {}
        """By group, the size of arrays that may be accepted, where a larger one was not."""

    async def submit(self, tag: str, n: int, request_id: str) -> LaunchResult:
        """Submit `n` workers of a group as one array; as several, or in part, where the site takes no more.

        Raises
        ------
        LaunchRefusedError
            The site refuses them, and would do so again.
        LaunchError
            It takes none at present, or they would not start.
        """
        await self._files.check_keys(tag)
        request = await self._pack(tag)
        units = await self._fill_jobs(tag, n, request_id)
        unnamed, shortfall, awaited = 0, None, None
        size = ArraySize(self._accepted.get(tag, _jobs_for(n, request)))
        while len(units) + unnamed < n and shortfall is None:
            lacking = n - len(units) - unnamed
            size.jobs = min(size.jobs, _jobs_for(lacking, request))
            workers = min(lacking, size.jobs * request.room)
            try:
                named = await self._submit_array(request, workers, request_id)
            except TooManyJobsError as error:
                if size.jobs == 1:
                    _check_arrays(error)
                    shortfall = error.explanation
                size.refuse()
                self._accepted[tag] = size.jobs
            except LaunchRefusedError:
                smaller = await self._pack_less(request)
                if smaller is None:
                    raise
                request = smaller
                size = ArraySize(_jobs_for(lacking, request))
            except LaunchError as error:
                if not units and not unnamed:
                    raise
                shortfall = Explanation(Reason.UNKNOWN, str(error))
            else:
                units += named
                unnamed += workers - len(named)
                if not named:
                    awaited = _explain_awaited(workers)
                if tag in self._accepted:
                    self._accepted[tag] = max(size.jobs, self._accepted[tag])
                size.accept()
        if shortfall is not None and not units and not unnamed:
            raise LaunchError(shortfall.summary, shortfall)
        return LaunchResult(units, unnamed, shortfall, awaited)

    async def _pack(self, tag: str) -> JobRequest:
        """Return the request of a group with the number of workers of one job."""
        request = self._packed.get(tag, self._requests[tag])
        self._packed[tag] = await pack(self._slurm, request)
        return self._packed[tag]

    async def _pack_less(self, request: JobRequest) -> JobRequest | None:
        """Return a refused request with fewer workers in one job, if their number is ours, and Slurm accepts that."""
        if self._requests[request.tag].workers_per_job != "auto":
            return None
        smaller = await reduce_room(self._slurm, request)
        if smaller is not None:
            self._packed[request.tag] = smaller
            logger.warning(
                "%s: Slurm refuses jobs of %d workers, as many as seem to fit on a node; they have %d. Set "
                "workers_per_job to have another number",
                *(request.tag, request.room, smaller.room),
            )
        return smaller

    async def _fill_jobs(self, tag: str, n: int, request_id: str) -> list[Unit]:
        """Add workers to jobs of a group that have room for them, and return them."""
        several = [job for job in self._jobs if job.tag == tag and job.room > 1]
        await self._files.read_ends([job for job in several if job.phase is Phase.RUNNING])
        added: list[tuple[Job, list[Unit]]] = []
        for job in several:
            if n > 0 and job.free > 0:
                units = job.add(min(job.free, n), request_id)
                added.append((job, units))
                n -= len(units)
        if not added:
            return []
        lines = {
            job.id: "".join(f"+{job.number(unit)}\n" for unit in units) for job, units in added
        }
        try:
            await self._files.ask(tag, lines)
        except (OSError, NativeTimeoutError) as error:
            logger.warning("cannot add workers to jobs that run: %s", describe_error(error))
            for job, units in added:
                job.forget(units)
            return []
        return [unit for _, units in added for unit in units]

    async def _submit_array(self, request: JobRequest, n: int, request_id: str) -> list[Unit]:
        """Submit one array of `n` workers and return its units; none where sbatch does not tell its number."""
        self.has_submitted = True
        comment = format_comment(self._run, request.tag, request_id, n, request.room)
        script = job_script(request, self._scheduler_address, n, run=self._run, comment=comment)

        async def submit(left_out: Sequence[str]) -> Submitted:
            argv = sbatch_argv(
                request,
                _jobs_for(n, request),
                job_name=job_name(self._run),
                comment=comment,
                left_out=left_out,
            )
            env = job_environment(request)
            return await self._slurm.submit(
                argv, script, env, find=lambda: self._jobs.found.get(request_id)
            )

        left_out = self._nodes[request.tag].left_out(time.monotonic())
        self._tell_of(request.tag, left_out)
        try:
            submitted = await submit(left_out)
        except LaunchRefusedError:
            if not left_out:
                raise
            # Perhaps because there are no other nodes.
            submitted = await submit(())
            self._nodes[request.tag].forget()
        if submitted.job is None:  # `Observer` finds them
            awaited = Awaited(parse_comment(comment), n, time.monotonic(), submitted.said)
            self._jobs.awaited[request_id] = awaited
            return []
        return self._jobs.add_array(submitted.job, request.tag, n, request.room, request_id)

    def _tell_of(self, tag: str, left_out: Sequence[str]) -> None:
        """Warn of nodes that jobs do not get from now on: those jobs may wait while these nodes are free."""
        if new := sorted({*left_out} - self._told.get(tag, set())):
            text = "%s: workers fail to start on %s, so new ones are kept off it for %g s"
            logger.warning(text, tag, ", ".join(new), LEFT_OUT_FOR)
        self._told[tag] = {*left_out}


def _explain_awaited(workers: int) -> Explanation:
    """Explain for what a launch waits of which sbatch has not told the job."""
    return Explanation(
        Reason.STARTING,
        f"sbatch has accepted {workers} worker{'s' * (workers != 1)}, and told no job id; "
        "waiting until squeue shows their jobs",
        remedy="if it does not, see whether this site's sbatch has submitted them, and have it print the id "
        "(--parsable)",
    )


def _check_arrays(error: TooManyJobsError) -> None:
    """Raise LaunchRefusedError if even an array of one job is refused for being an array."""
    if _NO_ARRAYS in str(error).lower():
        text = "the site accepts no job arrays (MaxArraySize), of which each worker is an element"
        raise LaunchRefusedError(f"{text}: {error}") from error


def _jobs_for(workers: int, request: JobRequest) -> int:
    """Return how many jobs have room for so many workers."""
    return -(-workers // request.room)
