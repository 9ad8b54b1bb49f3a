"""A client that is killed at each of its calls of Slurm's commands: all it has started ends, or is reaped."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import killed_clients
import pytest
from slurm_site import SlurmSite, wait_until

COMMANDS = ("sbatch", "scancel", "scontrol", "sinfo", "squeue")

MANIFEST = """\
version: 1
project: {name: site}
targets:
  here:
    provider: slurm
    queue: short
    walltime: 00:10:00
    interface: lo
components:
  gcam: {memory: 400M}
"""

MOMENTS = ("before", "during", "after")

# Counts the calls. At the chosen one, the client is killed before Slurm's own command runs, while it runs, or after it.
COMMAND = """\
#!/bin/sh
kill_client() {{ echo kill > {reached}; cat {killed} > /dev/null; }}
number=$({{ flock 9; echo {name} >&9; wc -l < {log}; }} 9>> {log})
if [ "$number" != "$(cat {at} 2> /dev/null)" ]; then exec {real} "$@"; fi
case $(cat {moment}) in
before) kill_client; exec {real} "$@" ;;
during) exec 3<&0; {real} "$@" <&3 & kill_client; wait $! ;;
after) {real} "$@"; status=$?; kill_client; exit $status ;;
esac
"""


@dataclass(frozen=True)
class Calls:
    """The calls of Slurm's commands, and a kill at one of them."""

    directory: Path

    def __getattr__(self, name: str) -> Path:
        return self.directory / name

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Put the commands on ``PATH`` that count."""
        names = ("log", "at", "moment", "reached", "killed")
        files = {name: str(self.directory / name) for name in names}
        bin_ = self.directory / "bin"
        bin_.mkdir()
        for name in COMMANDS:
            text = COMMAND.format(name=name, real=shutil.which(name), **files)
            (bin_ / name).write_text(text)
            (bin_ / name).chmod(0o755)
        for fifo in ("reached", "killed"):
            os.mkfifo(self.directory / fifo)
        patch.setenv("PATH", f"{bin_}:{os.environ['PATH']}")

    def names(self) -> list[str]:
        """Return the commands that were called since the last call of this."""
        names = self.log.read_text().split() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return names

    def kill_at(self, manifest: Path, number: int, moment: str) -> bool:
        """Kill a client at its call of this number; return whether it came to that."""

        def arrange(kill: Callable[[], None]) -> threading.Thread:
            self.at.write_text(f"{number}\n")
            self.moment.write_text(moment)
            thread = threading.Thread(target=self._kill, args=(kill,))
            thread.start()
            return thread

        def withdraw(thread: threading.Thread) -> None:
            self.at.unlink()
            # It may be waiting still, and the command then is not there.
            if thread.is_alive():
                self.reached.write_text("none\n")
            thread.join()

        return killed_clients.run_until_killed(manifest, arrange, withdraw)

    def _kill(self, kill: Callable[[], None]) -> None:
        if self.reached.read_text() == "kill\n":
            kill()
            self.killed.write_text("go on\n")


@pytest.fixture
def counted(work: Path, monkeypatch: pytest.MonkeyPatch) -> Calls:
    directory = work / "calls"
    directory.mkdir()
    calls = Calls(directory)
    calls.install(monkeypatch)
    return calls


def test_what_a_killed_client_has_made_ends_or_is_reaped(
    work: Path, site: SlurmSite, counted: Calls
) -> None:
    manifest = work / "scalable.yaml"
    manifest.write_text(MANIFEST)
    foreign = site.run(
        "sbatch", "--parsable", "--partition=short", "--mem=100M", "--wrap=sleep 3000"
    ).strip()
    try:
        counted.names()
        killed_clients.run(manifest)
        usual = counted.names()
        assert {"sbatch", "squeue", "scancel"} <= {*usual}, usual
        killed = 0
        for number in range(1, len(usual) + 1):
            for moment in MOMENTS:
                killed += counted.kill_at(manifest, number, moment)
                counted.names()
        wait_until(
            lambda: [job for job in site.jobs() if not job.startswith(foreign)] == [],
            "all jobs have ended by themselves",
            300,
        )
        left = killed_clients.reap(manifest)
        print(f"{killed} kills in {len(usual)} calls; what was left: {left}")
        # A client makes as many calls as it looks, so the last ones may not be reached.
        assert killed >= len(MOMENTS) * (len(usual) - 1)
        assert [job for job in site.jobs() if job.startswith(foreign)], "it is not ours"
        assert len(site.jobs()) == 1
    finally:
        site.run("scancel", foreign)
