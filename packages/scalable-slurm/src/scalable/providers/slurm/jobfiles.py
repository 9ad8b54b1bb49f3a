"""The files by which a client and the jobs of its run that have several workers tell each other about these.

A worker of such a job is told to start or to end, and shown to have ended, by two files of its job
(`scalable.providers.worker.forking_command`). Slurm knows the job as a whole only.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scalable.cluster.port import Reason
from scalable.errors import LaunchError, LaunchRefusedError, NativeTimeoutError, describe_error
from scalable.providers.slurm.states import describe_exit

if TYPE_CHECKING:
    from scalable.providers.blocking import BlockingCalls
    from scalable.providers.slurm.jobs import Job
    from scalable.providers.slurm.request import JobRequest

__all__ = ["JobFiles", "WorkerEnd", "parse_ends"]

logger = logging.getLogger("scalable.providers.slurm")

_DEADLINE = 10.0
"""Seconds for reading or writing files of jobs, on a file system that may hang."""


@dataclass(frozen=True)
class WorkerEnd:
    """The end of one worker of a job that goes on.

    Parameters
    ----------
    status : int
        Its exit status, or minus its signal.
    seconds : float
        How long it lived.
    why : str
        ``exited``, ``memory`` or ``stopped``.
    """

    status: int
    seconds: float
    why: str

    @property
    def reason(self) -> Reason:
        """The normalised reason."""
        reasons = {"memory": Reason.OUT_OF_MEMORY, "stopped": Reason.STOPPED}
        return reasons.get(self.why, Reason.EXITED)

    def __str__(self) -> str:
        if self.why != "exited":
            return {"memory": "used too much memory", "stopped": "was stopped"}[self.why]
        return describe_exit(f"{max(0, self.status)}:{max(0, -self.status)}")


def parse_ends(text: str) -> dict[int, WorkerEnd]:
    r"""Return how workers of a job have ended, from a file that its program writes.

    Examples
    --------
    >>> [str(end) for end in parse_ends("3 -9 61 exited\n0 -9 5 memory\n4 1").values()]
    ['was ended by SIGKILL', 'used too much memory']
    """
    lines = re.findall(r"^(\d+) (-?\d+) (\d+) (exited|memory|stopped)\n", text, re.MULTILINE)
    return {
        int(number): WorkerEnd(int(status), float(seconds), why)
        for number, status, seconds, why in lines
    }


class JobFiles:
    """The files of all jobs of a run that have several workers.

    Parameters
    ----------
    requests : mapping of str to JobRequest
        The request of a worker of each group, which names the directory.
    calls : BlockingCalls
        For the file system, which may hang.
    """

    def __init__(self, requests: Mapping[str, JobRequest], calls: BlockingCalls) -> None:
        self._requests = requests
        self._calls = calls

    async def check_keys(self, tag: str) -> None:
        """Check that the keys are there that workers of a group need, beside which they write their logs.

        Raises
        ------
        LaunchRefusedError
            They were removed.
        LaunchError
            Nor is the directory above that of the run there: its file system may not be mounted at present.
        """
        tls = self._requests[tag].tls
        if tls is None:
            return
        keys = Path(tls.ca_file)
        run = keys.parent.parent
        try:
            is_there = await self._calls.run(keys.exists, deadline=_DEADLINE)
            was_removed = not is_there and await self._calls.run(
                run.parent.exists, deadline=_DEADLINE
            )
        except (OSError, NativeTimeoutError) as error:
            logger.warning("cannot look for the keys of this run: %s", describe_error(error))
            return
        if was_removed:
            raise LaunchRefusedError(
                f"the keys of this run are not in {keys.parent} any more, so that no worker could start; "
                "start the run again"
            )
        if not is_there:
            raise LaunchError(
                f"there is no directory {run.parent}, where the keys of this run are; mount its file system"
            )

    async def ask(self, tag: str, lines: Mapping[str, str]) -> None:
        """Append what is asked of jobs of a group, by job, to their files.

        Raises
        ------
        OSError, NativeTimeoutError
            They cannot be written.
        """
        files = Path(self._requests[tag].files)
        await self._calls.run(_ask, files, lines, deadline=_DEADLINE)

    async def read_ends(self, jobs: Sequence[Job]) -> None:
        """Read which workers of jobs have ended. If that fails, they end with their Dask workers or their jobs."""
        if not jobs:
            return
        files = Path(self._requests[jobs[0].tag].files)
        by_id = {job.id: job for job in jobs}
        try:
            found = await self._calls.run(_read_ends, files, list(by_id), deadline=_DEADLINE)
        except (OSError, NativeTimeoutError) as error:
            logger.warning("cannot read which workers have ended: %s", describe_error(error))
            return
        for name, ends in found.items():
            by_id[name].ends |= ends


def _read_ends(directory: Path, jobs: Iterable[str]) -> dict[str, dict[int, WorkerEnd]]:
    found = {}
    for job in jobs:
        try:
            found[job] = parse_ends((directory / f"{job}.ended").read_text())
        except FileNotFoundError:  # the job has not begun
            continue
    return found


def _ask(directory: Path, lines: Mapping[str, str]) -> None:
    directory.mkdir(mode=0o700, exist_ok=True)
    for job, text in lines.items():
        with (directory / f"{job}.asked").open("a") as file:
            file.write(text)
