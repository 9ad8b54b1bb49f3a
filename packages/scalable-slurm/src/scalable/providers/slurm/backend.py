"""Slurm as a backend of the engine. A unit is one element of a job array, or one of several workers in it."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from scalable.cluster.port import Explanation, GroupSpec, LaunchResult, Leftover, Unit, UnitState
from scalable.errors import LaunchRefusedError
from scalable.providers.blocking import BlockingCalls
from scalable.providers.logs import read_end, tail
from scalable.providers.slurm.commands import NoAnswerError
from scalable.providers.slurm.explanations import (
    Log,
    explain_job,
    explain_worker_end,
    with_left_out,
)
from scalable.providers.slurm.jobfiles import JobFiles
from scalable.providers.slurm.jobs import Jobs, log_name
from scalable.providers.slurm.labels import job_name
from scalable.providers.slurm.nodes import FailingNodes
from scalable.providers.slurm.observation import Observer
from scalable.providers.slurm.output import SlurmJob
from scalable.providers.slurm.request import JobRequest
from scalable.providers.slurm.submission import Submitter
from scalable.providers.slurm.sweeping import Sweeper

if TYPE_CHECKING:
    from scalable.providers.slurm.commands import Slurm

__all__ = ["SlurmBackend"]

_ANSWER_WITHIN = 100.0
"""Seconds for ``sbatch``, less than a launch has: what it does is asked for again then, and the user told."""


class SlurmBackend:
    """Runs workers as elements of Slurm job arrays, or several in one element.

    A launch takes one ``sbatch``, or several where the site does not accept it whole, or none where jobs have room; an
    observation, one ``squeue``.

    Parameters
    ----------
    slurm : Slurm
        Runs the commands.
    run : str
        The run's id, part of every job's name.
    scheduler_address : str
        The scheduler's address, as workers reach it.
    requests : dict of str to JobRequest
        The request of a worker of each group, by tag. May grow while the cluster runs.
    sweep_timeout : float
        Seconds that `sweep` waits for an ``sbatch`` under way, and then for cancelled jobs to end, before it reports
        them.
    """

    def __init__(
        self,
        slurm: Slurm,
        run: str,
        scheduler_address: str,
        requests: dict[str, JobRequest],
        *,
        sweep_timeout: float,
    ) -> None:
        self.requests = requests
        self.job_name = job_name(run)
        self._slurm = slurm
        self._run = run
        self._sweep_timeout = sweep_timeout
        # On file systems of the site, which may hang.
        self._reading = BlockingCalls(run)
        self._closed = False
        self.has_left_jobs = False
        """Whether the last sweep has left jobs, or may have."""
        self._submissions: dict[str, asyncio.Task[LaunchResult]] = {}
        """By request id, those under way. They outlive the coroutine of a launch that was given up, because an
        ``sbatch`` that is killed may have submitted its job or not."""
        self._launched: dict[str, LaunchResult] = {}
        self._jobs = Jobs()
        self._nodes: defaultdict[str, FailingNodes] = defaultdict(FailingNodes)
        """By group."""
        self._files = JobFiles(requests, self._reading)
        self._submitter = Submitter(
            slurm, run, scheduler_address, requests, self._jobs, self._files, self._nodes
        )
        self._observer = Observer(slurm, run, requests, self._jobs, self._files, self._nodes)
        self._sweeper = Sweeper(slurm, run, self._jobs)

    @property
    def jobs(self) -> tuple[SlurmJob, ...]:
        """All jobs of the run, each as ``squeue`` last showed it."""
        return tuple(job.last for job in self._jobs if job.last is not None)

    async def launch(self, group: GroupSpec, n: int, request_id: str) -> LaunchResult:
        """Submit `n` workers as one array; as several, or in part, where the site takes no more."""
        if request_id in self._launched:
            return self._launched[request_id]
        if self._closed:
            raise LaunchRefusedError(f"cluster {self._run!r} is closed; build a new one")
        submission = self._submissions.get(request_id)
        if submission is None:
            submission = asyncio.create_task(self._submitter.submit(group.tag, n, request_id))
            self._submissions[request_id] = submission
            submission.add_done_callback(partial(self._record_submission, request_id))
        done, _ = await asyncio.wait({submission}, timeout=_ANSWER_WITHIN)
        if not done:
            text = f"no answer for {_ANSWER_WITHIN:g} s; see by hand whether it hangs: sbatch --wrap true"
            raise NoAnswerError("sbatch", text)
        return await submission

    def _record_submission(self, request_id: str, submission: asyncio.Task[LaunchResult]) -> None:
        del self._submissions[request_id]
        # Of an error, asyncio would complain if nobody waits for it any more.
        if not submission.cancelled() and submission.exception() is None:
            self._launched[request_id] = submission.result()

    async def observe(self) -> Mapping[str, UnitState]:
        """Return the state of every unit, from one ``squeue``, and from the files of jobs with several.

        Jobs that it does not show are looked for one array after another.
        """
        return await self._observer.observe()

    def note_late_starts(self, late: Sequence[Unit], connected: Sequence[Unit]) -> None:
        """Take note of nodes on which workers start, but do not join, while those on others do."""
        for tag in {unit.tag for unit in late}:
            seen = self._seen(late, tag), self._seen(connected, tag)
            self._nodes[tag].note_late(*seen, time.monotonic())

    def _seen(self, units: Sequence[Unit], tag: str) -> list[SlurmJob]:
        jobs = (self._jobs.of(unit) for unit in units if unit.tag == tag)
        return [job.last for job in jobs if job is not None and job.last is not None]

    async def stop(self, units: Sequence[Unit]) -> None:
        """Cancel the jobs of which no unit is wanted any more with one ``scancel``; end single workers of others."""
        cancelled: dict[str, None] = {}
        lines: dict[str, dict[str, str]] = {}
        by_job: dict[str, list[Unit]] = {}
        for unit in units:
            by_job.setdefault(unit.native, []).append(unit)
        for name, leaving in by_job.items():
            job = self._jobs.get(name)
            if job is not None:
                numbers = {number for unit in leaving if (number := job.number(unit)) is not None}
                job.stopped |= numbers
                if job.wanted:
                    text = "".join(f"-{number}\n" for number in sorted(numbers))
                    lines.setdefault(job.tag, {})[name] = text
                    continue
            cancelled[name] = None
        if cancelled:
            await self._slurm.cancel(list(cancelled))
        for tag, texts in lines.items():
            await self._files.ask(tag, texts)

    async def describe(self, unit: Unit) -> Explanation:
        """Explain a unit from the record of the controller or of accounting, and the tail of its log."""
        job, memory = self._jobs.of(unit), self.requests[unit.tag].memory
        last = None if job is None else job.last
        node = "" if last is None else last.node
        log = await self._read_log(self._log_path(unit))
        if job is not None and (end := job.end_of(unit)) is not None:
            why = explain_worker_end(unit, end, node, memory, log)
        else:
            record = await self._slurm.find_record(unit.native)
            if job is not None and job.room > 1 and not log.tail:
                # It has not started, and the job's own log may tell why.
                log = Log(log.path, (await self._read_log(self._job_log_path(unit))).tail)
            why = explain_job(unit, last, record, memory, log)
            node = record.get("NodeList") or node
        return with_left_out(why, node, self._nodes[unit.tag].left_out(time.monotonic()))

    async def _read_log(self, path: Path) -> Log:
        return Log(path, await self._reading.run(tail, path))

    @property
    def logs_outlive_units(self) -> bool:
        """True: they are files on a file system of the site."""
        return True

    async def read_log(self, unit: Unit, size: int) -> str:
        """Return the end of a unit's log, as this machine sees the file."""
        return await self._reading.run(read_end, self._log_path(unit), size)

    async def sweep(self) -> Sequence[Leftover]:
        """Wait for submissions under way, cancel the run's remaining jobs, and wait until they have ended."""
        self._closed = True
        started = asyncio.get_running_loop().time()
        unanswered = await self._end_submissions(0.5 * self._sweep_timeout)
        seconds = self._sweep_timeout - (asyncio.get_running_loop().time() - started)
        has_submitted = self._submitter.has_submitted
        jobs = await self._sweeper.cancel_all(seconds, has_submitted=has_submitted)
        left = [*unanswered, *jobs]
        await self._slurm.end_commands()
        # Where nothing was submitted, that squeue cannot be asked leaves nothing to watch.
        self.has_left_jobs = any(has_submitted or each.is_certain for each in left)
        return left

    async def _end_submissions(self, limit: float) -> list[Leftover]:
        """Wait for every ``sbatch`` under way; kill and return those that have not answered by the limit."""
        if not self._submissions:
            return []
        names = {submission: request for request, submission in self._submissions.items()}
        _, slow = await asyncio.wait(names, timeout=limit)
        for submission in slow:
            submission.cancel()
        if slow:
            await asyncio.wait(slow)
        remedy = f"if it has submitted jobs after all, `scalable reap {self._run}` cancels them"
        return [
            Leftover("sbatch", f"of request {names[submission]}", f"no answer; {remedy}")
            for submission in slow
            if submission.cancelled()
        ]

    def _log_path(self, unit: Unit) -> Path:
        return Path(self.requests[unit.tag].log_directory) / log_name(unit)

    def _job_log_path(self, unit: Unit) -> Path:
        return Path(self.requests[unit.tag].log_directory) / f"{unit.native}.log"
