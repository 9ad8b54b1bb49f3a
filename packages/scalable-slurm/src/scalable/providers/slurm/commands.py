"""The only place that runs Slurm's commands."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import shutil
import signal
from collections.abc import Mapping, Sequence

from scalable.errors import ClusterError, LaunchError, LaunchRefusedError
from scalable.providers.slurm.environ import query_environ, submit_environ
from scalable.providers.slurm.output import (
    QUEUE_FORMAT,
    SlurmJob,
    join_lines,
    parse_queue,
    parse_record,
)

__all__ = ["Slurm", "SlurmCommandError"]

# What sbatch says when the same submission may be accepted later; everything else it refuses for good.
_TRANSIENT = (
    "temporarily unable to accept",
    "Socket timed out",
    "Unable to contact slurm controller",
    "Zero Bytes were transmitted",
    "Transport endpoint is not connected",
    "Connection refused",
    "SubmitJob",  # AssocGrpSubmitJobsLimit, QOSMaxSubmitJobPerUserLimit and their kin
    "Resource temporarily unavailable",
)


class SlurmCommandError(ClusterError):
    """One of Slurm's commands failed.

    Attributes
    ----------
    command : str
        What was run.
    stderr : str
        What it said.
    """

    def __init__(self, command: str, stderr: str) -> None:
        self.command, self.stderr = command, stderr
        super().__init__(f"{command}: {stderr or 'failed without a word'}")


class Slurm:
    """Slurm as the environment of this process reaches it (``PATH``, ``SLURM_CONF``)."""

    async def submit(self, argv: Sequence[str], script: str, env: Mapping[str, str]) -> str:
        """Submit one array.

        Parameters
        ----------
        argv : sequence of str
            The words of ``sbatch``, ``--parsable`` among them.
        script : str
            Given on standard input.
        env : mapping of str to str
            What the job inherits on top of this process's environment.

        Returns
        -------
        str
            The array's job id.

        Raises
        ------
        LaunchRefusedError
            sbatch refused it for good.
        LaunchError
            The controller did not answer, or takes no more jobs now.
        """
        try:
            status, stdout, stderr = await _run_command(
                argv, script, {**submit_environ(os.environ), **env}
            )
        except FileNotFoundError:
            raise LaunchRefusedError(
                "sbatch was not found; run this where Slurm's commands are on PATH, such as a login node"
            ) from None
        # Banners of the site may stand around it: "7" or "7;cluster", alone on its line.
        job = re.search(r"^(\d+)(?:;\S+)?\s*$", stdout, re.MULTILINE)
        if status == 0 and job:
            return job.group(1)
        message = join_lines(stderr or stdout)
        if any(text in message for text in _TRANSIENT):
            raise LaunchError(f"sbatch could not submit the job: {message}")
        if "Invalid job array specification" in message:
            message += (
                "; a group cannot lack more workers at once than the site's MaxArraySize, "
                "which `scontrol show config` tells: ask for fewer"
            )
        raise LaunchRefusedError(f"sbatch refused the job: {message}")

    async def test_only(self, argv: Sequence[str]) -> str:
        """Ask whether Slurm would take a submission; nothing is submitted.

        Returns
        -------
        str
            When and where it would start.

        Raises
        ------
        SlurmCommandError
            It would not.
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
        """Say which version of Slurm this is."""
        return (await self._call(["sinfo", "--version"])).strip()

    async def ping(self) -> str:
        """Say how the controller is."""
        return join_lines(await self._call(["scontrol", "ping"]))

    async def partitions(self) -> dict[str, str]:
        """Say whether each partition is ``up``, by name; also those that are hidden, to which one may submit."""
        lines = (await self._call(["sinfo", "--noheader", "--all", "--format=%R|%a"])).splitlines()
        return dict(line.rsplit("|", 1) for line in lines if "|" in line)

    async def list_user_jobs(self) -> list[SlurmJob]:
        """List every job of this user that is not over: one ``squeue``."""
        return await self._squeue()

    async def list_jobs(self, job_name: str) -> list[SlurmJob]:
        """List the elements of all arrays of that name, those that ended lately included: one ``squeue``."""
        return await self._squeue("--states=all", f"--name={job_name}")

    async def _squeue(self, *which: str) -> list[SlurmJob]:
        shape = ("--noheader", "--array", f"--format={QUEUE_FORMAT}")
        # Of this user, or the controller would send the jobs of everybody. By number: the name that the
        # environment has may be somebody else's, or none that Slurm knows.
        user = f"--user={os.getuid()}"
        return parse_queue(await self._call(["squeue", *shape, user, *which]))

    async def cancel(self, jobs: Sequence[str]) -> None:
        """Cancel array elements: one ``scancel``. One that ended already is no error."""
        await self._call(["scancel", "--quiet", *jobs])

    async def cancel_by_name(self, job_name: str) -> None:
        """Cancel everything of that name: one ``scancel``."""
        await self._call(["scancel", "--quiet", f"--name={job_name}"])

    async def find_record(self, job: str) -> dict[str, str]:
        """Say what the controller, or else accounting, remembers of one array element; empty where nobody does."""
        for find in (self._from_controller, self._from_accounting):
            try:
                if record := await find(job):
                    return record
            except SlurmCommandError:
                continue  # forgotten by the controller after MinJobAge; many sites have no accounting
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
            ]
        )
        lines = (line.split("|") for line in stdout.splitlines())
        found = next((line for line in lines if len(line) == len(fields)), ())
        return dict(zip(fields, found, strict=False))

    async def _call(self, argv: Sequence[str]) -> str:
        try:
            status, stdout, stderr = await _run_command(argv, None, query_environ(os.environ))
        except FileNotFoundError:
            raise SlurmCommandError(argv[0], "not found on PATH") from None
        if status != 0:
            raise SlurmCommandError(shlex.join(argv), join_lines(stderr))
        return stdout


async def _run_command(
    argv: Sequence[str], stdin: str | None, env: Mapping[str, str]
) -> tuple[int, str, str]:
    program, *rest = argv
    process = await asyncio.create_subprocess_exec(
        # By this process's PATH: that of `env` is the job's.
        shutil.which(program) or program,
        *rest,
        stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=env,
        # Ctrl-C at the terminal is for the client, which cancels in order.
        start_new_session=True,
    )
    try:
        stdout, stderr = await process.communicate(None if stdin is None else stdin.encode())
    except asyncio.CancelledError:
        if process.returncode is None:
            # The whole of it: a site's command may be a script around Slurm's own.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        raise
    assert process.returncode is not None  # noqa: S101 - communicate() has waited for it
    return process.returncode, stdout.decode(errors="replace"), stderr.decode(errors="replace")
