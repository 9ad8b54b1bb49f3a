"""Slurm as a backend of the engine. A unit is one element of a job array."""

from __future__ import annotations

import asyncio
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
from scalable.errors import LaunchError, LaunchRefusedError
from scalable.manifest.units import format_memory
from scalable.providers.blocking import BlockingCalls
from scalable.providers.logs import read_end, tail
from scalable.providers.slurm.commands import SlurmCommandError, TooManyJobsError
from scalable.providers.slurm.nodes import LEFT_OUT_FOR, FailingNodes
from scalable.providers.slurm.request import JobRequest
from scalable.providers.slurm.sbatch import sbatch_argv
from scalable.providers.slurm.script import job_environment, job_script
from scalable.providers.slurm.states import describe_exit, end_reason, pending_reason, phase_of

if TYPE_CHECKING:
    from scalable.providers.slurm.commands import Slurm
    from scalable.providers.slurm.output import SlurmJob

__all__ = ["SlurmBackend", "format_comment", "parse_comment"]


def format_comment(run: str, tag: str, request_id: str) -> str:
    """Return the comment that identifies a job: its run, its group, and the launch that submitted it.

    Examples
    --------
    >>> format_comment("r1", "gcam", "f00")
    'scalable run=r1 tag=gcam request=f00'
    """
    return f"scalable run={run} tag={tag} request={request_id}"


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
    """Runs workers as elements of Slurm job arrays.

    A launch takes one ``sbatch``, or several where the site does not accept it whole; an observation, one ``squeue``.

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
        self._submissions: dict[str, asyncio.Task[LaunchResult]] = {}
        """By request id, those under way. They outlive the coroutine of a launch that was given up, because an
        ``sbatch`` that is killed may have submitted its job or not."""
        self._launched: dict[str, LaunchResult] = {}
        self._accepted: dict[str, int] = {}
        """By group, the size of arrays that may be accepted, where a larger one was not."""
        self._units: dict[str, Unit] = {}
        self._last_seen: dict[str, SlurmJob] = {}
        self._nodes = FailingNodes()

    @property
    def jobs(self) -> tuple[SlurmJob, ...]:
        """All jobs of the run, each as ``squeue`` last showed it."""
        return tuple(self._last_seen.values())

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
        units: list[Unit] = []
        unnamed, shortfall = 0, None
        size, refused = self._accepted.get(group.tag, n), math.inf
        while len(units) + unnamed < n and shortfall is None:
            size = min(size, n - len(units) - unnamed)
            try:
                named = await self._submit_array(group, size, request_id)
            except TooManyJobsError as error:
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
                unnamed += size - len(named)
                if group.tag in self._accepted:
                    self._accepted[group.tag] = max(size, self._accepted[group.tag])
                # Towards the largest array that is accepted, with which the next launch begins.
                size = int(min(2 * size, (size + refused) // 2))
        if shortfall is not None and not units and not unnamed:
            raise LaunchError(shortfall.summary, shortfall)
        result = self._launched[request_id] = LaunchResult(units, unnamed, shortfall)
        return result

    async def _submit_array(self, group: GroupSpec, n: int, request_id: str) -> list[Unit]:
        """Submit one array and return its units; none where sbatch does not tell its number."""
        request = self.requests[group.tag]
        comment = format_comment(self._run, group.tag, request_id)
        script, env = job_script(request, self._scheduler_address), job_environment(request)

        async def submit(left_out: Sequence[str]) -> str | None:
            argv = sbatch_argv(
                request, n, job_name=self.job_name, comment=comment, left_out=left_out
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
        units = [_make_unit(group.tag, f"{array}_{element}", request_id) for element in range(n)]
        self._units |= {unit.native: unit for unit in units}
        return units

    async def observe(self) -> Mapping[str, UnitState]:
        """Return the state of every unit, from one ``squeue``."""
        states = {}
        for job in await self._slurm.list_jobs(self.job_name):
            unit = self._find_unit(job)
            if unit is None:
                continue
            self._last_seen[unit.native] = job
            self._nodes.see(job, time.monotonic())
            states[unit.id] = _unit_state(unit, job)
        return states

    def _find_unit(self, job: SlurmJob) -> Unit | None:
        """Return the unit of a job: known from its launch or, if sbatch's answer was lost, from the job's comment."""
        if job.id in self._units:
            return self._units[job.id]
        facts = parse_comment(job.comment)
        if not {"tag", "request"} <= facts.keys():
            return None
        return _make_unit(facts["tag"], job.id, facts["request"])

    async def stop(self, units: Sequence[Unit]) -> None:
        """Cancel these units with one ``scancel``."""
        await self._slurm.cancel([unit.native for unit in units])

    async def describe(self, unit: Unit) -> Explanation:
        """Explain a unit from the record of the controller or of accounting, and the tail of its log."""
        record = await self._slurm.find_record(unit.native)
        state = record.get("JobState", "").split(" ")[0]
        last = self._last_seen.get(unit.native)
        if not state and last is not None and phase_of(last.state) is Phase.GONE:
            state = last.state
        log_tail = await self._reading.run(tail, self._log_path(unit))
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
        if node in self._nodes.left_out(time.monotonic()):
            text = f"workers end on {node} as soon as they start, so new ones are kept off it for {LEFT_OUT_FOR:g} s"
            end = replace(end, remedy="; ".join(filter(None, (text, end.remedy))))
        return end

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
        return [*unanswered, *await self._cancel_jobs(seconds)]

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
                alive = await self._live_jobs()
                if alive:
                    await self._slurm.cancel_by_name(self.job_name)
                while alive:
                    await asyncio.sleep(0.5)
                    alive = await self._live_jobs()
        except (SlurmCommandError, TimeoutError) as error:
            if alive and isinstance(error, TimeoutError):
                return [Leftover("Slurm job", job.id, job.state) for job in alive]
            message = getattr(error, "stderr", "") or "Slurm does not answer"
            remedy = f"when Slurm answers again, `scalable reap {self._run}` cancels what is left"
            return [Leftover("jobs named", self.job_name, f"{message}; {remedy}")]
        return []

    async def _live_jobs(self) -> list[SlurmJob]:
        return [
            job
            for job in await self._slurm.list_jobs(self.job_name)
            if phase_of(job.state) is not Phase.GONE and job.state != "COMPLETING"
        ]

    def _log_path(self, unit: Unit) -> Path:
        return Path(self.requests[unit.tag].log_directory) / f"{unit.native}.log"


def _make_unit(tag: str, job: str, request_id: str) -> Unit:
    return Unit(id=f"{tag}-{job}", tag=tag, request_id=request_id, native=job)


def _unit_state(unit: Unit, job: SlurmJob) -> UnitState:
    phase = phase_of(job.state)
    if phase is Phase.PENDING:
        # "None" until Slurm's scheduler has considered the job for the first time.
        detail = "just submitted" if job.reason == "None" else job.reason
        return UnitState(unit, phase, pending_reason(job.reason), detail)
    if phase is Phase.RUNNING:
        return UnitState(
            unit, phase, Reason.STARTING, f"on {job.node}", seconds_left=job.seconds_left
        )
    return UnitState(unit, phase, end_reason(job.state), job.state)


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
