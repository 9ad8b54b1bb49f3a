"""Runs a command whatever it leaves behind, and ends it with all that it has started.

A site's own ``sbatch`` or ``squeue`` may be a script: what it starts in the background may hold its output for hours,
and the script itself may go on long after it has printed what matters.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import IO

__all__ = ["RunningCommand", "run_command", "start_command"]

_REST_WITHIN = 2.0
"""Seconds for the rest of the output of a command that has ended, where something else holds it open."""


class _Output:
    """Collects what is written to a pipe, for which asyncio's own would have a command go on as long as the pipe."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._read_end, self.write_end = os.pipe()
        self._data = bytearray()
        self._kept = True
        self.ended: asyncio.Future[None] = self._loop.create_future()
        os.set_blocking(self._read_end, False)
        self._loop.add_reader(self._read_end, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._read_end, 2**16)
        except BlockingIOError:
            return
        if not data:
            self.close()
        elif self._kept:
            self._data += data

    @property
    def text(self) -> str:
        """What was written so far."""
        return self._data.decode(errors="replace")

    def drop(self) -> None:
        """Keep nothing of what is written from now on."""
        self._kept = False

    def close(self) -> None:
        """Read no more. Idempotent."""
        if not self.ended.done():
            self._loop.remove_reader(self._read_end)
            os.close(self._read_end)
            self.ended.set_result(None)


class RunningCommand:
    """A command that was started.

    Attributes
    ----------
    stdout, stderr : str
        What it has written so far.
    """

    def __init__(
        self, process: asyncio.subprocess.Process, stdout: _Output, stderr: _Output
    ) -> None:
        self._process = process
        self._stdout = stdout
        self._stderr = stderr

    @property
    def stdout(self) -> str:  # noqa: D102 - above
        return self._stdout.text

    @property
    def stderr(self) -> str:  # noqa: D102 - above
        return self._stderr.text

    @property
    def has_ended(self) -> bool:
        """Whether it has ended."""
        return self._process.returncode is not None

    async def wait(self, timeout: float | None = None) -> int | None:
        """Return its status once it has ended, and its output is known; None where it runs on after some seconds."""
        end = asyncio.ensure_future(self._process.wait())
        try:
            await asyncio.wait({end}, timeout=timeout)
            if not end.done():
                return None
        finally:
            end.cancel()
        outputs = (self._stdout, self._stderr)
        await asyncio.wait({output.ended for output in outputs}, timeout=_REST_WITHIN)
        self._close()
        return end.result()

    def leave(self) -> None:
        """Let it run on, and keep nothing of what it writes."""
        self._stdout.drop()
        self._stderr.drop()

    async def kill(self) -> None:
        """End it, and all that it has started. Idempotent."""
        if self._process.returncode is None:
            # The whole process group: a site's command may be a script around Slurm's own.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()
        self._close()

    def _close(self) -> None:
        self._stdout.close()
        self._stderr.close()


async def start_command(
    argv: Sequence[str], stdin: str | None, env: Mapping[str, str]
) -> RunningCommand:
    """Start a command, with this text as its standard input.

    Raises
    ------
    OSError
        It cannot be started: FileNotFoundError where there is none of this name.
    """
    starting = asyncio.ensure_future(_start(argv, stdin, env))
    try:
        # If it was cancelled, it would end the command alone, and wait for what this has started.
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        with contextlib.suppress(OSError):  # it could not be started
            await (await starting).kill()
        raise


async def _start(argv: Sequence[str], stdin: str | None, env: Mapping[str, str]) -> RunningCommand:
    program, *rest = argv
    with contextlib.ExitStack() as failing, contextlib.ExitStack() as ours:
        outputs = []
        for _ in range(2):
            output = _Output()
            ours.callback(os.close, output.write_end)
            failing.callback(output.close)
            outputs.append(output)
        given: int = asyncio.subprocess.DEVNULL
        if stdin is not None:
            given = ours.enter_context(_file_of(stdin)).fileno()
        process = await asyncio.create_subprocess_exec(
            # By this process's PATH: the one in `env` is the job's.
            shutil.which(program) or program,
            *rest,
            stdin=given,
            stdout=outputs[0].write_end,
            stderr=outputs[1].write_end,
            env=env,
            # Ctrl-C at the terminal must reach only the client, which then cancels the jobs in order.
            start_new_session=True,
        )
        failing.pop_all()
    return RunningCommand(process, *outputs)


def _file_of(text: str) -> IO[bytes]:
    """Return a file with this text. Of a pipe, nobody would know when a command has read enough of it."""
    # In memory where that exists: the disk of a login node may be full.
    file: IO[bytes]
    if sys.platform == "linux":
        file = os.fdopen(os.memfd_create("stdin"), "w+b")
    else:
        file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    file.write(text.encode())
    file.seek(0)
    return file


async def run_command(
    argv: Sequence[str], stdin: str | None, env: Mapping[str, str]
) -> tuple[int, str, str]:
    """Run a command to its end; return its status, output and errors. It ends if this is cancelled.

    Raises
    ------
    OSError
        It cannot be started.
    """
    command = await start_command(argv, stdin, env)
    try:
        status = await command.wait()
    except asyncio.CancelledError:
        await command.kill()
        raise
    assert status is not None  # noqa: S101 - without a timeout, it has waited for the end
    return status, command.stdout, command.stderr
