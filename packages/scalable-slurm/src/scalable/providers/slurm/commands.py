"""Slurm's commands, as one object; no other module runs them."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from scalable.cluster.port import Explanation, Reason
from scalable.errors import ClusterError, LaunchError, LaunchRefusedError
from scalable.providers.slurm.environ import query_environ, submit_environ
from scalable.providers.slurm.labels import job_name, parse_script
from scalable.providers.slurm.output import (
    QUEUE_FORMAT,
    SlurmJob,
    array_expressions,
    join_lines,
    parse_elements,
    parse_queue,
    parse_record,
    parse_submitted,
)
from scalable.providers.slurm.packing import NODE_FORMAT, NodeShape, parse_nodes
from scalable.providers.slurm.refusals import Refusal, classify_refusal
from scalable.providers.slurm.running import RunningCommand, run_command, start_command

__all__ = ["NoAnswerError", "Slurm", "SlurmCommandError", "Submitted", "TooManyJobsError"]

logger = logging.getLogger("scalable.providers.slurm")

_ANSWER_WITHIN = 90.0
"""Seconds after which a command is ended that asks Slurm or cancels jobs: less than the engine has for a call."""

_LOOK_EVERY = 5.0
"""Seconds after which it is looked what an ``sbatch`` has printed that has not ended, and again and again."""

_SLOW_AFTER = 30.0
"""Seconds after which the user is told of an ``sbatch`` that has not ended, and has printed no job id."""


class SlurmCommandError(ClusterError):
    """One of Slurm's commands failed.

    Attributes
    ----------
    command : str
        The command line.
    stderr : str
        Its error message, on one line.
    """

    def __init__(self, command: str, stderr: str) -> None:
        self.command, self.stderr = command, stderr
        super().__init__(f"{command}: {stderr or 'it failed without a message'}")


class NoAnswerError(SlurmCommandError):
    """One of Slurm's commands has not ended."""


class TooManyJobsError(LaunchError):
    """An array has more elements than the site's limits allow, by its size or with the jobs that there are."""


@dataclass(frozen=True)
class Submitted:
    """What ``sbatch`` has answered that has submitted an array.

    Parameters
    ----------
    job : str or None
        The array's job id; None where it is not known.
    said : str
        What it has printed in place of that, in one line.
    """

    job: str | None
    said: str = ""


class Slurm:
    """Slurm's commands as this process finds them (``PATH``, ``SLURM_CONF``).

    Parameters
    ----------
    cluster : str, optional
        The cluster that they are about, where a site has several; by default, the one of this machine.
    """

    def __init__(self, cluster: str | None = None) -> None:
        self._cluster = cluster
        self._left_running: list[RunningCommand] = []
        self._told_of_status: set[str] = set()

    async def submit(
        self,
        argv: Sequence[str],
        script: str,
        env: Mapping[str, str],
        *,
        find: Callable[[], str | None] = lambda: None,
    ) -> Submitted:
        """Submit one array.

        Parameters
        ----------
        argv : sequence of str
            The ``sbatch`` command line, which has ``--parsable``.
        script : str
            The job script, passed on standard input. A job whose script has the same label is this one.
        env : mapping of str to str
            Variables that the job gets in addition to this process's environment.
        find : callable
            Returns the array's job id, if it was found in the queue.

        Returns
        -------
        Submitted
            The array's job id. A site's own sbatch may print none, or other numbers too; one that does not end once it
            has submitted is left running.

        Raises
        ------
        LaunchRefusedError
            sbatch refused it, and would refuse it again.
        TooManyJobsError
            Fewer jobs may be accepted.
        LaunchError
            It may be accepted later.
        """
        try:
            sbatch = await start_command(argv, script, {**submit_environ(os.environ), **env})
        except FileNotFoundError:
            raise LaunchRefusedError(
                "sbatch was not found; run this where Slurm's commands are on PATH, such as a login node"
            ) from None
        try:
            status = await self._end_or_job(sbatch, script, find)
        except BaseException:  # such as a cancellation
            await sbatch.kill()
            raise
        if isinstance(status, str):
            return Submitted(status)
        stdout, stderr = sbatch.stdout, sbatch.stderr
        numbers = parse_submitted(stdout)
        job = numbers[0] if len(numbers) == 1 else await self._find_submitted(numbers, script)
        if status == 0:
            return Submitted(job, join_lines(stdout))
        message = (
            join_lines(stderr or stdout) or f"it ended with status {status}, without a message"
        )
        if job is not None:
            # As a site's own sbatch does whose last step fails.
            logger.warning("sbatch submitted job %s, and failed then: %s", job, message)
            return Submitted(job)
        match classify_refusal(message):
            case Refusal.TOO_MANY:
                text = f"the site accepts no more jobs at present: {message}"
                raise TooManyJobsError(text, Explanation(Reason.QUOTA, text, native=message))
            case Refusal.FINAL:
                raise LaunchRefusedError(f"sbatch refused the job: {message}")
            case Refusal.PASSING:
                raise LaunchError(f"sbatch could not submit the job: {message}")

    async def _end_or_job(
        self, sbatch: RunningCommand, script: str, find: Callable[[], str | None]
    ) -> int | str:
        """Return the status of an ``sbatch``, or the id of the job that it has submitted, if it does not end then."""
        began, told = time.monotonic(), False
        while (status := await sbatch.wait(_LOOK_EVERY)) is None:
            numbers = parse_submitted(sbatch.stdout)
            if (job := find() or await self._find_submitted(numbers, script)) is not None:
                self._leave(sbatch, job)
                return job
            seconds = time.monotonic() - began
            if seconds >= _SLOW_AFTER and not told:
                told, said = True, join_lines(sbatch.stderr or sbatch.stdout)
                logger.warning(
                    "sbatch has run for %.0f s and has printed no job id%s; until it ends, or its job appears, nothing "
                    "else is launched for this group. See by hand whether sbatch hangs: sbatch --wrap true",
                    seconds,
                    f"; its last words: {said}" if said else "",
                )
        return status

    async def _find_submitted(self, numbers: Sequence[str], script: str) -> str | None:
        """Return which of some numbers is the job with this script, by its label.

        Another one may be the beginning of that number, or the number of another job of the user.
        """
        label = parse_script(script)
        for number in reversed(numbers) if label else ():
            found = await self.find_label(number)
            if found == label:
                return number
            if found is None:  # perhaps it has ended
                elements = await self.find_elements(number)
                if elements and {each.name for each in elements} == {job_name(label["run"])}:
                    return number
        return None

    def _leave(self, sbatch: RunningCommand, job: str) -> None:
        if not self._left_running:
            logger.warning(
                "sbatch has submitted job %s, and does not end; it is not waited for. This site's sbatch may wait for "
                "its jobs (--wait): launches are quicker if it does not",
                job,
            )
        sbatch.leave()
        self._left_running = [each for each in self._left_running if not each.has_ended]
        self._left_running.append(sbatch)

    async def end_commands(self) -> None:
        """End what was left running."""
        while self._left_running:
            await self._left_running.pop().kill()

    async def test_only(self, argv: Sequence[str]) -> str:
        """Check whether Slurm would accept a submission, without submitting it.

        Returns
        -------
        str
            When and where the job would start.

        Raises
        ------
        SlurmCommandError
            It would be refused.
        """
        command = [argv[0], "--test-only", *argv[1:]]
        status, _, stderr = await _ask(command, "#!/bin/sh\n", submit_environ(os.environ))
        if status != 0:
            raise SlurmCommandError("sbatch --test-only", join_lines(stderr))
        return join_lines(stderr)

    async def version(self) -> str:
        """Return Slurm's version."""
        return (await self._call(["sinfo", "--version"])).strip()

    async def ping(self) -> str:
        """Return the state of the controller."""
        return join_lines(await self._call(["scontrol", "ping"]))

    async def partitions(self) -> dict[str, str]:
        """Return the state of each partition, such as ``up``, by name; hidden ones accept jobs too and are included.

        The name of the default one has a star.
        """
        argv = ["sinfo", "--noheader", "--all", "--format=%P|%a"]
        lines = (await self._call(argv, answers=lambda text: "|" in text)).splitlines()
        return dict(line.rsplit("|", 1) for line in lines if "|" in line)

    async def nodes(self) -> list[NodeShape]:
        """Return the kinds of nodes of each partition."""
        shape = ("--noheader", "--all", "--exact", f"--format={NODE_FORMAT}")
        return parse_nodes(await self._call(["sinfo", *shape], answers=parse_nodes))

    async def gives_whole_nodes(self) -> bool:
        """Return whether every job gets nodes for itself, in whatever partition."""
        settings = await self._call(
            ["scontrol", "show", "config"], answers=lambda text: "SelectType" in text
        )
        return re.search(r"^SelectType\s*=\s*select/linear", settings, re.MULTILINE) is not None

    async def list_user_jobs(self) -> list[SlurmJob]:
        """List all jobs of this user that have not ended, with one ``squeue``."""
        return await self._squeue()

    async def list_jobs(self, job_name: str) -> list[SlurmJob]:
        """List the elements of all arrays with this name, recently ended ones included, with one ``squeue``."""
        return await self._squeue("--states=all", f"--name={job_name}")

    async def _squeue(self, *which: str) -> list[SlurmJob]:
        shape = ("--noheader", "--array", f"--format={QUEUE_FORMAT}")
        # Of this user, or the controller would send the jobs of all users. By number: the user name in the environment
        # may be another user's, or unknown to Slurm.
        user = f"--user={os.getuid()}"
        return parse_queue(await self._call(["squeue", *shape, user, *which], answers=parse_queue))

    async def cancel(self, jobs: Sequence[str]) -> None:
        """Cancel array elements with one ``scancel``; ignore those that have already ended.

        It sends the controller one request for each array.
        """
        await self._call(["scancel", "--quiet", *array_expressions(jobs)])

    async def cancel_by_name(self, job_name: str) -> None:
        """Cancel all jobs with this name, with one ``scancel``."""
        await self._call(["scancel", "--quiet", f"--name={job_name}"])

    async def find_elements(self, array: str) -> list[SlurmJob] | None:
        """Return the elements of an array as the controller itself knows them; None where it does not tell.

        Some sites answer ``squeue`` from a cache, or with nothing while the controller is away.
        """
        try:
            answer = await self._show_job(array)
        except SlurmCommandError as error:
            return [] if "invalid job id" in error.stderr.lower() else None
        return parse_elements(answer) or None

    async def find_label(self, array: str) -> dict[str, str] | None:
        """Return which run, group and launch an array of this user belongs to, by its job script; empty if to none.

        None where the script cannot be read, which the controller forgets when the job ends.
        """
        try:
            script = await self._call(
                ["scontrol", "write", "batch_script", array, "-"], answers=_is_script
            )
        except SlurmCommandError:
            return None
        return parse_script(script) if _is_script(script) else None

    async def find_record(self, job: str) -> dict[str, str]:
        """Return the record of one array element, from the controller or else accounting; empty if there is none."""
        for find in (self._from_controller, self._from_accounting):
            try:
                if record := await find(job):
                    return record
            except SlurmCommandError:
                continue  # the controller drops it after MinJobAge; many sites have no accounting
        return {}

    async def _from_controller(self, job: str) -> dict[str, str]:
        return parse_record(await self._show_job(job))

    async def _show_job(self, job: str) -> str:
        return await self._call(["scontrol", "--oneliner", "show", "job", job], answers=_has_record)

    async def _from_accounting(self, job: str) -> dict[str, str]:
        fields = ("JobState", "ExitCode", "NodeList")

        def parse(text: str) -> list[list[str]]:
            lines = (line.split("|") for line in text.splitlines())
            return [line for line in lines if len(line) == len(fields)]

        stdout = await self._call(
            [
                "sacct",
                "--noheader",
                "--parsable2",
                "--allocations",
                f"--jobs={job}",
                "--format=State,ExitCode,NodeList",
                # Alone of all commands, it reads no variable.
                *([f"--clusters={self._cluster}"] if self._cluster else ()),
            ],
            answers=parse,
        )
        found = next(iter(parse(stdout)), ())
        return dict(zip(fields, found, strict=False))

    async def _call(
        self, argv: Sequence[str], *, answers: Callable[[str], object] = lambda text: False
    ) -> str:
        """Return what a command prints.

        Parameters
        ----------
        argv : sequence of str
            Its command line.
        answers : callable
            Returns whether a text has an answer in it. A command that has printed one, to the end of its last line, has
            answered whatever its status: Slurm's own print none if they fail, and a site's own may fail afterwards.
        """
        env = query_environ(os.environ, self._cluster)
        status, stdout, stderr = await _ask(argv, None, env)
        if status == 0:
            return stdout
        message = join_lines(stderr) or f"it ended with status {status}, without a message"
        if status < 0 or not stdout.endswith("\n") or not answers(stdout):
            raise SlurmCommandError(shlex.join(argv), message)
        if argv[0] not in self._told_of_status:
            self._told_of_status.add(argv[0])
            logger.warning(
                "%s has answered, and ended with status %d: %s. Its answers are used; see whether this site's %s is a "
                "script, which should end with status 0: type -a %s",
                *(argv[0], status, message, argv[0], argv[0]),
            )
        return stdout


def _is_script(text: str) -> bool:
    # Slurm itself demands that line, and ends with status 0 where it has no script.
    return "#!" in text


def _has_record(text: str) -> bool:
    return "JobState" in parse_record(text)


async def _ask(
    argv: Sequence[str], stdin: str | None, env: Mapping[str, str]
) -> tuple[int, str, str]:
    try:
        async with asyncio.timeout(_ANSWER_WITHIN) as limit:
            return await run_command(argv, stdin, env)
    except FileNotFoundError:
        raise SlurmCommandError(argv[0], "not found on PATH") from None
    except TimeoutError:
        if not limit.expired():
            raise
        text = f"no answer for {_ANSWER_WITHIN:g} s"
        raise NoAnswerError(shlex.join(argv), text) from None
