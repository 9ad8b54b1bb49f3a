"""Slurm's commands, and the only module that runs them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import shlex
import shutil
import signal
from collections.abc import Mapping, Sequence

from scalable.cluster.port import Explanation, Reason
from scalable.errors import ClusterError, LaunchError, LaunchRefusedError
from scalable.providers.slurm.environ import query_environ, submit_environ
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

__all__ = ["Slurm", "SlurmCommandError", "TooManyJobsError"]

logger = logging.getLogger("scalable.providers.slurm")


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
        super().__init__(f"{command}: {stderr or 'failed without a message'}")


class TooManyJobsError(LaunchError):
    """An array has more elements than the site's limits allow, by its size or with the jobs that there are."""


class Slurm:
    """Slurm's commands as this process finds them (``PATH``, ``SLURM_CONF``).

    Parameters
    ----------
    cluster : str, optional
        The cluster that they are about, where a site has several; by default, the one of this machine.
    """

    def __init__(self, cluster: str | None = None) -> None:
        self._cluster = cluster

    async def submit(self, argv: Sequence[str], script: str, env: Mapping[str, str]) -> str | None:
        """Submit one array.

        Parameters
        ----------
        argv : sequence of str
            The ``sbatch`` command line, which has ``--parsable``.
        script : str
            The job script, passed on standard input.
        env : mapping of str to str
            Variables that the job gets in addition to this process's environment.

        Returns
        -------
        str or None
            The array's job id; None where a site's own sbatch does not print it, or other numbers too.

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
            status, stdout, stderr = await _run_command(
                argv, script, {**submit_environ(os.environ), **env}
            )
        except FileNotFoundError:
            raise LaunchRefusedError(
                "sbatch was not found; run this where Slurm's commands are on PATH, such as a login node"
            ) from None
        job = parse_submitted(stdout)
        if status == 0:
            return job
        message = (
            join_lines(stderr or stdout) or f"it ended with status {status}, without a message"
        )
        if job is not None:
            # As a site's own sbatch does whose last step fails.
            logger.warning("sbatch submitted job %s, and failed then: %s", job, message)
            return job
        match classify_refusal(message):
            case Refusal.TOO_MANY:
                text = f"the site accepts no more jobs at present: {message}"
                raise TooManyJobsError(text, Explanation(Reason.QUOTA, text, native=message))
            case Refusal.FINAL:
                raise LaunchRefusedError(f"sbatch refused the job: {message}")
            case Refusal.PASSING:
                raise LaunchError(f"sbatch could not submit the job: {message}")

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
        try:
            status, _, stderr = await _run_command(
                command, "#!/bin/sh\n", submit_environ(os.environ)
            )
        except FileNotFoundError:
            raise SlurmCommandError(argv[0], "not found on PATH") from None
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
        """Return the state of each partition, such as ``up``, by name; hidden ones accept jobs too and are included."""
        lines = (await self._call(["sinfo", "--noheader", "--all", "--format=%R|%a"])).splitlines()
        return dict(line.rsplit("|", 1) for line in lines if "|" in line)

    async def nodes(self) -> list[NodeShape]:
        """Return the kinds of nodes of each partition."""
        shape = ("--noheader", "--all", "--exact", f"--format={NODE_FORMAT}")
        return parse_nodes(await self._call(["sinfo", *shape]))

    async def gives_whole_nodes(self) -> bool:
        """Return whether every job gets nodes for itself, in whatever partition."""
        settings = await self._call(["scontrol", "show", "config"])
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
        return parse_queue(await self._call(["squeue", *shape, user, *which]))

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
            answer = await self._call(["scontrol", "--oneliner", "show", "job", array])
        except SlurmCommandError as error:
            return [] if "invalid job id" in error.stderr.lower() else None
        return parse_elements(answer) or None

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
        return parse_record(await self._call(["scontrol", "--oneliner", "show", "job", job]))

    async def _from_accounting(self, job: str) -> dict[str, str]:
        fields = ("JobState", "ExitCode", "NodeList")
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
            ]
        )
        lines = (line.split("|") for line in stdout.splitlines())
        found = next((line for line in lines if len(line) == len(fields)), ())
        return dict(zip(fields, found, strict=False))

    async def _call(self, argv: Sequence[str]) -> str:
        try:
            status, stdout, stderr = await _run_command(
                argv, None, query_environ(os.environ, self._cluster)
            )
        except FileNotFoundError:
            raise SlurmCommandError(argv[0], "not found on PATH") from None
        if status != 0:
            raise SlurmCommandError(shlex.join(argv), join_lines(stderr))
        return stdout


async def _run_command(
    argv: Sequence[str], stdin: str | None, env: Mapping[str, str]
) -> tuple[int, str, str]:
    program, *rest = argv
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            # By this process's PATH: the one in `env` is the job's.
            shutil.which(program) or program,
            *rest,
            stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=env,
            # Ctrl-C at the terminal must reach only the client, which then cancels the jobs in order.
            start_new_session=True,
        )
    )
    try:
        # If it was cancelled, it would end the command alone, and wait for what this has started.
        process = await asyncio.shield(starting)
        stdout, stderr = await process.communicate(None if stdin is None else stdin.encode())
    except asyncio.CancelledError:
        with contextlib.suppress(OSError):  # it could not be started
            process = await starting
            await _kill(process)
        raise
    assert process.returncode is not None  # noqa: S101 - communicate() has waited for it
    return process.returncode, stdout.decode(errors="replace"), stderr.decode(errors="replace")


async def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        # The whole process group: a site's command may be a script around Slurm's own.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
