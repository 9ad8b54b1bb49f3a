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
from dataclasses import dataclass

from scalable.errors import ClusterError, LaunchError, LaunchRefusedError

__all__ = [
    "Slurm",
    "SlurmCommandError",
    "SlurmJob",
    "parse_queue",
    "parse_record",
    "query_environ",
    "submit_environ",
]

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

# Array job, element, state, reason, walltime left, node, comment. The comment comes last, since that of somebody else's
# job may hold the separator.
_SEPARATOR = "|"
_QUEUE_FORMAT = _SEPARATOR.join(("%F", "%K", "%T", "%r", "%L", "%N", "%k"))


# Options that people give by variables to the commands they type. Ours would then show, or cancel, only some jobs.
_OPTION_PREFIXES = ("SQUEUE_", "SCANCEL_", "SINFO_")

# Variables of sbatch that hold its answer back until the jobs end, or have half of their logs go elsewhere.
_HARMFUL = frozenset({"SBATCH_WAIT", "SBATCH_ERROR"})

# Inside a job, every other variable of Slurm's is about that job.
_SITE_VARIABLES = frozenset({"SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT"})


def query_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """Say in which environment to ask and to cancel: one in which a command does what its arguments say.

    Examples
    --------
    >>> query_environ({"PATH": "/bin", "SQUEUE_PARTITION": "long"})
    {'PATH': '/bin'}
    """
    return {name: value for name, value in environ.items() if not name.startswith(_OPTION_PREFIXES)}


def submit_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """Say what a job inherits: not what describes the job that this process may be part of.

    ``srun`` would read that in the new job too, and refuse to start or start something else.

    Examples
    --------
    >>> submit_environ({"SLURM_CONF": "/c", "SLURM_JOB_ID": "7", "SLURM_MEM_PER_CPU": "300", "SBATCH_ACCOUNT": "a"})
    {'SLURM_CONF': '/c', 'SBATCH_ACCOUNT': 'a'}
    """
    inside = "SLURM_JOB_ID" in environ
    return {
        name: value
        for name, value in environ.items()
        if name not in _HARMFUL
        and not (inside and name.startswith("SLURM_") and name not in _SITE_VARIABLES)
    }


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


@dataclass(frozen=True)
class SlurmJob:
    """A job, which is one element of an array, as squeue shows it.

    Parameters
    ----------
    id : str
        As ``scancel`` takes it: ``<array job>_<element>``.
    state, reason, node, comment : str
        squeue's own words.
    seconds_left : int or None
        Walltime left; None where there is no limit or the job has not begun.
    """

    id: str
    state: str
    reason: str
    seconds_left: int | None
    node: str
    comment: str


def parse_queue(text: str) -> list[SlurmJob]:
    r"""Read what ``squeue`` printed in our format, and pass over what a site says besides.

    Examples
    --------
    >>> parse_queue("Maintenance on Friday!\n7|0|RUNNING|None|1:30|node1|mine\n")
    [SlurmJob(id='7_0', state='RUNNING', reason='None', seconds_left=90, node='node1', comment='mine')]
    """
    jobs = []
    for line in text.splitlines():
        fields = line.split(_SEPARATOR, _QUEUE_FORMAT.count(_SEPARATOR))
        if len(fields) <= _QUEUE_FORMAT.count(_SEPARATOR):
            continue
        array, element, state, reason, left, node, comment = fields
        jobs.append(SlurmJob(f"{array}_{element}", state, reason, _parse_left(left), node, comment))
    return jobs


def _parse_left(text: str) -> int | None:
    """Read squeue's %L.

    Examples
    --------
    >>> [_parse_left(t) for t in ("1-02:03:04", "0:07", "UNLIMITED", "NOT_SET", "INVALID")]
    [93784, 7, None, None, None]
    """
    if not re.fullmatch(r"[\d:-]+", text):
        return None
    days, _, clock = text.rpartition("-")
    seconds = 0
    for part in clock.split(":"):
        seconds = 60 * seconds + int(part)
    return int(days or 0) * 86400 + seconds


def parse_record(text: str) -> dict[str, str]:
    """Read one line of ``scontrol --oneliner show job``.

    Examples
    --------
    >>> parse_record("JobId=7 JobState=FAILED ExitCode=127:0 Command=(null)")["ExitCode"]
    '127:0'
    """
    return dict(re.findall(r"(?:^|\s)([\w:/]+)=(\S*)", text.strip()))


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
        message = _join_lines(stderr or stdout)
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
            raise SlurmCommandError("sbatch --test-only", _join_lines(stderr))
        return _join_lines(stderr)

    async def version(self) -> str:
        """Say which version of Slurm this is."""
        return (await self._call(["sinfo", "--version"])).strip()

    async def ping(self) -> str:
        """Say how the controller is."""
        return _join_lines(await self._call(["scontrol", "ping"]))

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
        shape = ("--noheader", "--array", f"--format={_QUEUE_FORMAT}")
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
            raise SlurmCommandError(shlex.join(argv), _join_lines(stderr))
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


def _join_lines(text: str) -> str:
    r"""Join what Slurm said, without the name of the command before each line.

    Examples
    --------
    >>> _join_lines("sbatch: error: invalid partition specified: x\nsbatch: error: Batch job submission failed\n")
    'invalid partition specified: x; Batch job submission failed'
    """
    lines = (re.sub(r"^\w+: (error: )?", "", line.strip()) for line in text.splitlines())
    return "; ".join(line for line in lines if line)
