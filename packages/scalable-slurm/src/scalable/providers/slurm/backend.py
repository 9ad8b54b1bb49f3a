"""Slurm as a backend of the engine. A unit is one element of a job array, or one of several workers in it."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from scalable.cluster.port import (
    Explanation,
    GroupSpec,
    LaunchResult,
    Leftover,
    Phase,
    Reason,
    Unit,
    UnitState,
)
from scalable.errors import LaunchError, LaunchRefusedError, NativeTimeoutError, describe_error
from scalable.manifest.units import format_memory
from scalable.providers.blocking import BlockingCalls
from scalable.providers.logs import read_end, tail
from scalable.providers.slurm.commands import SlurmCommandError, TooManyJobsError
from scalable.providers.slurm.jobs import (
    Job,
    WorkerEnd,
    ask,
    first_workers,
    log_name,
    read_ends,
)
from scalable.providers.slurm.nodes import LEFT_OUT_FOR, FailingNodes
from scalable.providers.slurm.output import SlurmJob
from scalable.providers.slurm.packing import pack
from scalable.providers.slurm.request import JobRequest
from scalable.providers.slurm.sbatch import sbatch_argv
from scalable.providers.slurm.script import job_environment, job_script
from scalable.providers.slurm.states import describe_exit, end_reason, pending_reason, phase_of

if TYPE_CHECKING:
    from scalable.providers.slurm.commands import Slurm

__all__ = ["SlurmBackend", "format_comment", "parse_comment"]

logger = logging.getLogger("scalable.providers.slurm")


def format_comment(run: str, tag: str, request_id: str, workers: int = 1, room: int = 1) -> str:
    """Return the comment that identifies a job: its run, its group, and the launch that submitted it.

    Where a job has room for several workers, it also says how many the whole array begins with.

    Examples
    --------
    >>> format_comment("r1", "gcam", "f00")
    'scalable run=r1 tag=gcam request=f00'
    """
    several = f" workers={workers} room={room}" if room > 1 else ""
    return f"scalable run={run} tag={tag} request={request_id}{several}"


def parse_comment(comment: str) -> dict[str, str]:
    """Return the fields of such a comment; empty for a foreign job's comment.

    Examples
    --------
    >>> parse_comment("scalable run=r1 tag=gcam request=f00")["tag"]
    'gcam'
    >>> parse_comment("nightly build")
    {}
    """
    owner, _, facts = comment.partition(" ")
    if owner != "scalable":
        return {}
    return dict(fact.split("=", 1) for fact in facts.split() if "=" in fact)


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
        self.job_name = f"scalable-{run}"
        self._slurm = slurm
        self._run = run
        self._scheduler_address = scheduler_address
        self._sweep_timeout = sweep_timeout
        # On file systems of the site, which may hang.
        self._reading = BlockingCalls(run)
        self._closed = False
        self._has_submitted = False
        self.has_left_jobs = False
        """Whether the last sweep has left jobs, or may have."""
        self._submissions: dict[str, asyncio.Task[LaunchResult]] = {}
        """By request id, those under way. They outlive the coroutine of a launch that was given up, because an
        ``sbatch`` that is killed may have submitted its job or not."""
        self._launched: dict[str, LaunchResult] = {}
        self._accepted: dict[str, int] = {}
        """By group, the size of arrays that may be accepted, where a larger one was not."""
        self._jobs: dict[str, Job] = {}
        self._packed: dict[str, JobRequest] = {}
        self._unlisted: dict[str, float] = {}
        """Since when ``squeue`` does not show a job; for ever, where the controller does not know it any more."""
        self._nodes = FailingNodes()

    @property
    def jobs(self) -> tuple[SlurmJob, ...]:
        """All jobs of the run, each as ``squeue`` last showed it."""
        return tuple(job.last for job in self._jobs.values() if job.last is not None)

    async def launch(self, group: GroupSpec, n: int, request_id: str) -> LaunchResult:
        """Submit `n` workers as one array; as several, or in part, where the site takes no more."""
        if request_id in self._launched:
            return self._launched[request_id]
        if self._closed:
            raise LaunchRefusedError(f"cluster {self._run!r} is closed; build a new one")
        submission = self._submissions.get(request_id)
        if submission is None:
            submission = asyncio.create_task(self._submit(group, n, request_id))
            self._submissions[request_id] = submission
            submission.add_done_callback(partial(self._forget_submission, request_id))
        return await asyncio.shield(submission)

    def _forget_submission(self, request_id: str, submission: asyncio.Task[LaunchResult]) -> None:
        del self._submissions[request_id]
        if not submission.cancelled():
            submission.exception()  # which asyncio would complain about if nobody waits for it any more

    async def _submit(self, group: GroupSpec, n: int, request_id: str) -> LaunchResult:
        request = await self._pack(group.tag)
        units = await self._fill_jobs(group.tag, n, request_id)
        unnamed, shortfall = 0, None
        jobs = _jobs_for(n, request)
        size, refused = self._accepted.get(group.tag, jobs), math.inf
        while len(units) + unnamed < n and shortfall is None:
            lacking = n - len(units) - unnamed
            size = min(size, _jobs_for(lacking, request))
            workers = min(lacking, size * request.room)
            try:
                named = await self._submit_array(request, workers, request_id)
            except TooManyJobsError as error:
                if size == 1 and _NO_ARRAYS in str(error).lower():
                    text = "the site accepts no job arrays (MaxArraySize), of which each worker is an element"
                    raise LaunchRefusedError(f"{text}: {error}") from error
                if size == 1:
                    shortfall = error.explanation
                size, refused = max(1, size // 2), size
                self._accepted[group.tag] = size
            except LaunchError as error:
                if not units and not unnamed:
                    raise
                shortfall = Explanation(Reason.UNKNOWN, str(error))
            else:
                units += named
                unnamed += workers - len(named)
                if group.tag in self._accepted:
                    self._accepted[group.tag] = max(size, self._accepted[group.tag])
                # Towards the largest array that is accepted, with which the next launch begins.
                size = int(min(2 * size, (size + refused) // 2))
        if shortfall is not None and not units and not unnamed:
            raise LaunchError(shortfall.summary, shortfall)
        result = self._launched[request_id] = LaunchResult(units, unnamed, shortfall)
        return result

    async def _pack(self, tag: str) -> JobRequest:
        """Return the request of a group with the number of workers of one job."""
        request = self._packed.get(tag, self.requests[tag])
        self._packed[tag] = await pack(self._slurm, request)
        return self._packed[tag]

    async def _fill_jobs(self, tag: str, n: int, request_id: str) -> list[Unit]:
        """Add workers to jobs of a group that have room for them, and return them."""
        several = [job for job in self._jobs.values() if job.tag == tag and job.room > 1]
        await self._read_ends([job for job in several if job.phase is Phase.RUNNING])
        added: dict[str, list[Unit]] = {}
        for job in several:
            if n > 0 and job.free > 0:
                added[job.id] = job.add(min(job.free, n), request_id)
                n -= len(added[job.id])
        if not added:
            return []
        lines = {
            name: "".join(f"+{self._jobs[name].number(unit)}\n" for unit in units)
            for name, units in added.items()
        }
        try:
            await self._ask(tag, lines)
        except (OSError, NativeTimeoutError) as error:
            logger.warning("cannot add workers to jobs that run: %s", describe_error(error))
            for name, units in added.items():
                self._jobs[name].forget(units)
            return []
        return [unit for units in added.values() for unit in units]

    async def _ask(self, tag: str, lines: Mapping[str, str]) -> None:
        files = Path(self.requests[tag].files)
        await self._reading.run(ask, files, lines, deadline=_FILES_DEADLINE)

    async def _submit_array(self, request: JobRequest, n: int, request_id: str) -> list[Unit]:
        """Submit one array of `n` workers and return its units; none where sbatch does not tell its number."""
        self._has_submitted = True
        comment = format_comment(self._run, request.tag, request_id, n, request.room)
        script, env = job_script(request, self._scheduler_address, n), job_environment(request)
        jobs = _jobs_for(n, request)

        async def submit(left_out: Sequence[str]) -> str | None:
            argv = sbatch_argv(
                request, jobs, job_name=self.job_name, comment=comment, left_out=left_out
            )
            return await self._slurm.submit(argv, script, env)

        left_out = self._nodes.left_out(time.monotonic())
        try:
            array = await submit(left_out)
        except LaunchRefusedError:
            if not left_out:
                raise
            # Perhaps because there are no other nodes.
            array = await submit(())
            self._nodes.forget()
        if array is None:
            return []  # by their comment, `observe` finds them
        units: list[Unit] = []
        for element in range(jobs):
            job = self._job(f"{array}_{element}", request.tag, request.room)
            if not job.units:
                job.add(first_workers(n, request.room, element), request_id)
            units += job.units.values()
        return units

    def _job(self, name: str, tag: str, room: int) -> Job:
        return self._jobs.setdefault(name, Job(name, tag, room))

    async def observe(self) -> Mapping[str, UnitState]:
        """Return the state of every unit, from one ``squeue``, and from the files of jobs with several.

        Jobs that it does not show are looked for one array after another.
        """
        shown = []
        listed = await self._slurm.list_jobs(self.job_name)
        for seen in [*listed, *await self._find_unlisted(listed)]:
            job = self._find_job(seen)
            if job is None:
                continue
            had_ended = job.phase is Phase.GONE
            job.see(seen)
            patience = self.requests[job.tag].death_timeout if job.tag in self.requests else 0
            self._nodes.see(seen, time.monotonic(), wanted=not job.stopped, patience=patience)
            shown.append((job, had_ended))
        # Those that have ended once more: their last workers may have ended before them.
        several = [job for job, had_ended in shown if job.room > 1 and not had_ended]
        await self._read_ends([job for job in several if job.phase is not Phase.PENDING])
        return {state.unit.id: state for job, _ in shown for state in job.states()}

    async def _find_unlisted(self, listed: Sequence[SlurmJob]) -> list[SlurmJob]:
        """Return the known jobs that ``squeue`` has left out, as the controller has them.

        Where it does not tell, they are as they were last seen, for a while: if it is away, it accepts no others.
        """
        ids, now = {job.id for job in listed}, time.monotonic()
        self._unlisted = {job: since for job, since in self._unlisted.items() if job not in ids}
        by_array: dict[str, list[Job]] = {}
        for job in self._jobs.values():
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

    async def _read_ends(self, jobs: Sequence[Job]) -> None:
        """Read which workers of jobs have ended. If that fails, they end with their Dask workers or their jobs."""
        if not jobs:
            return
        files = Path(self.requests[jobs[0].tag].files)
        names = [job.id for job in jobs]
        try:
            found = await self._reading.run(read_ends, files, names, deadline=_FILES_DEADLINE)
        except (OSError, NativeTimeoutError) as error:
            logger.warning("cannot read which workers have ended: %s", describe_error(error))
            return
        for name, ends in found.items():
            self._jobs[name].ends |= ends

    def _find_job(self, seen: SlurmJob) -> Job | None:
        """Return a job: known from its launch or, if sbatch's answer was lost, from its comment."""
        if seen.id in self._jobs:
            return self._jobs[seen.id]
        facts = parse_comment(seen.comment)
        element = seen.id.rpartition("_")[2]
        # Where elements were cancelled while they waited, Slurm shows one more record, of the array, without a number.
        if not {"tag", "request"} <= facts.keys() or not element.isdigit():
            return None
        room, workers = int(facts.get("room", 1)), int(facts.get("workers", 1))
        job = self._job(seen.id, facts["tag"], room)
        job.add(first_workers(workers, room, int(element)) if room > 1 else 1, facts["request"])
        return job

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
            await self._ask(tag, texts)

    async def describe(self, unit: Unit) -> Explanation:
        """Explain a unit from the record of the controller or of accounting, and the tail of its log."""
        job = self._jobs.get(unit.native)
        log_tail = await self._reading.run(tail, self._log_path(unit))
        ended = self._end_of(unit)
        if job is not None and ended is not None:
            return self._explain_worker_end(unit, job, ended, log_tail)
        record = await self._slurm.find_record(unit.native)
        state = record.get("JobState", "").split(" ")[0]
        last = None if job is None else job.last
        if not state and last is not None and phase_of(last.state) is Phase.GONE:
            state = last.state
        if job is not None and job.room > 1 and not log_tail:
            # It has not started, and the job's own log may tell why.
            log_tail = await self._reading.run(tail, self._job_log_path(unit))
        if not state:
            # Slurm has dropped the job's record, or does not answer.
            seen = f", which was {last.state} when last seen" if last else ""
            return Explanation(
                Reason.UNKNOWN, f"Slurm has no record of job {unit.native}{seen}", log_tail=log_tail
            )
        if phase_of(state) is Phase.PENDING:
            why = record.get("Reason", "None")
            return Explanation(pending_reason(why), f"job {unit.native} waits: {why}", native=why)
        if phase_of(state) is Phase.RUNNING:
            where = record.get("NodeList", "a node")
            return Explanation(
                Reason.STARTING,
                f"job {unit.native} runs on {where}",
                native=state,
                log_tail=log_tail,
            )
        memory = self.requests[unit.tag].memory
        end = _explain_end(unit, state, record, memory, self._log_path(unit), log_tail)
        node = record.get("NodeList") or (last.node if last else "")
        return self._with_left_out(end, node)

    def _with_left_out(self, end: Explanation, node: str) -> Explanation:
        """Return an explanation of an end, which also says if workers are kept off its node."""
        if node not in self._nodes.left_out(time.monotonic()):
            return end
        text = f"workers end on {node} as soon as they start, so new ones are kept off it for {LEFT_OUT_FOR:g} s"
        return replace(end, remedy="; ".join(filter(None, (text, end.remedy))))

    def _end_of(self, unit: Unit) -> WorkerEnd | None:
        job = self._jobs.get(unit.native)
        number = None if job is None else job.number(unit)
        return None if job is None or number is None else job.ends.get(number)

    def _explain_worker_end(
        self, unit: Unit, job: Job, end: WorkerEnd, log_tail: str
    ) -> Explanation:
        """Explain the end of one worker of a job with several."""
        memory = self.requests[unit.tag].memory
        how, remedy = str(end), ""
        if end.reason is Reason.OUT_OF_MEMORY:
            of = "there is" if memory is None else f"its {format_memory(memory)}"
            how, remedy = f"used more memory than {of}", "give the component more memory"
        node = job.last.node if job.last is not None else ""
        where = f" on {node}" if node else ""
        if log_tail:
            remedy = "; ".join(filter(None, (remedy, f"its log is {self._log_path(unit)}")))
        found = Explanation(end.reason, f"worker {unit.id} {how}{where}", "", log_tail, remedy)
        return self._with_left_out(found, node)

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
        left = [*unanswered, *await self._cancel_jobs(seconds)]
        # Where nothing was submitted, that squeue cannot be asked leaves nothing to watch.
        self.has_left_jobs = any(self._has_submitted or each.is_certain for each in left)
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

    async def _cancel_jobs(self, timeout: float) -> list[Leftover]:
        alive: list[SlurmJob] = []
        try:
            async with asyncio.timeout(timeout):
                # Whatever squeue shows, which may be old: scancel asks the controller.
                if self._has_submitted:
                    await self._slurm.cancel_by_name(self.job_name)
                alive = await self._live_jobs()
                if alive and not self._has_submitted:
                    await self._slurm.cancel_by_name(self.job_name)
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
            return [Leftover("jobs named", self.job_name, f"{message}; {remedy}", is_certain=False)]
        return []

    async def _live_jobs(self) -> list[SlurmJob]:
        """Return the jobs that have not ended, as the controller has them, or else ``squeue``."""
        listed = {job.id: job for job in await self._slurm.list_jobs(self.job_name)}
        known = {job.id for job in self._jobs.values() if job.phase is not Phase.GONE}
        doubtful = {name for name, job in listed.items() if _is_live(job)} | (known - listed.keys())
        for array in {name.partition("_")[0] for name in doubtful}:
            elements = await self._slurm.find_elements(array)
            if elements is not None:
                listed = {
                    name: job for name, job in listed.items() if not name.startswith(f"{array}_")
                }
                listed |= {job.id: job for job in elements}
        return [job for job in listed.values() if _is_live(job)]

    def _log_path(self, unit: Unit) -> Path:
        return Path(self.requests[unit.tag].log_directory) / log_name(unit)

    def _job_log_path(self, unit: Unit) -> Path:
        return Path(self.requests[unit.tag].log_directory) / f"{unit.native}.log"


_UNLISTED_AT_MOST = 120.0
"""Seconds for which a job is not given up that ``squeue`` does not show, and of which the controller says nothing."""

_NO_ARRAYS = "invalid job array specification"

_FILES_DEADLINE = 10.0
"""Seconds for reading or writing files of jobs, on a file system that may hang."""


def _is_live(job: SlurmJob) -> bool:
    return phase_of(job.state) is not Phase.GONE and job.state != "COMPLETING"


def _jobs_for(workers: int, request: JobRequest) -> int:
    """Return how many jobs have room for so many workers."""
    return -(-workers // request.room)


def _explain_end(
    unit: Unit, state: str, record: Mapping[str, str], memory: int | None, log: Path, log_tail: str
) -> Explanation:
    reason = end_reason(state)
    requested = "it requested" if memory is None else f"its {format_memory(memory)}"
    where = f" on {record['NodeList']}" if record.get("NodeList") else ""
    how = {
        Reason.WALLTIME: "reached its walltime",
        Reason.OUT_OF_MEMORY: f"used more memory than {requested}",
        Reason.NODE_FAILURE: "lost its node",
        Reason.PREEMPTED: "was preempted",
        Reason.CANCELLED: "was cancelled",
    }.get(reason, describe_exit(record.get("ExitCode", "")))
    remedy = {
        Reason.WALLTIME: "request a longer walltime",
        Reason.OUT_OF_MEMORY: "give the component more memory",
    }.get(reason, "")
    if record.get("Reason") == "JobLaunchFailure":
        # Slurm could not open the log, usually because the node does not see its directory.
        how = "could not be started"
        remedy = "check that logs_location is on a file system that the nodes share"
    if log_tail:
        remedy = "; ".join(filter(None, (remedy, f"its log is {log}")))
    return Explanation(
        reason, f"job {unit.native} {how}{where}", native=state, log_tail=log_tail, remedy=remedy
    )
