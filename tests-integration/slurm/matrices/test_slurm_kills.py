"""A client that is killed at each of its calls of Slurm's commands: all it has started ends, or is reaped."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
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
kill_client() {{ touch "$files/reached"; until [ -e "$files/killed" ]; do sleep 0.05; done; }}
number=$({{ flock 9; echo {name} >&9; wc -l < {log}; }} 9>> {log})
read -r chosen moment files 2> /dev/null < {at}
if [ "$number" != "$chosen" ]; then exec {real} "$@"; fi
case $moment in
before) kill_client; exec {real} "$@" ;;
during) exec 3<&0; {real} "$@" <&3 & kill_client; wait $! ;;
after) {real} "$@"; status=$?; kill_client; exit $status ;;
esac
"""


class Calls:
    """The calls of Slurm's commands, and a kill at one of them.

    Parameters
    ----------
    directory : Path
        An empty directory.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._log, self._at = directory / "log", directory / "at"
        self._at.touch()
        self._kills = 0

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Put the commands on ``PATH`` that count."""
        programs = self._directory / "bin"
        programs.mkdir()
        for name in COMMANDS:
            text = COMMAND.format(name=name, real=shutil.which(name), log=self._log, at=self._at)
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        patch.setenv("PATH", f"{programs}:{os.environ['PATH']}")

    def names(self) -> list[str]:
        """Return the commands that were called since the last call of this."""
        names = self._log.read_text().split() if self._log.exists() else []
        self._log.unlink(missing_ok=True)
        return names

    def kill_at(self, manifest: Path, number: int, moment: str) -> bool:
        """Kill a client at its call of this number; return whether it came to that."""
        self._kills += 1
        files = self._directory / str(self._kills)
        files.mkdir()
        withdrawn = threading.Event()

        def follow(kill: Callable[[], None]) -> None:
            while not withdrawn.wait(0.02):
                if (files / "reached").exists():
                    with suppress(ProcessLookupError):  # it has ended meanwhile
                        kill()
                    break
            # Also for a command of a watchdog, which may have reached the number too late.
            (files / "killed").touch()

        def arrange(kill: Callable[[], None]) -> threading.Thread:
            self._at.write_text(f"{number} {moment} {files}\n")
            thread = threading.Thread(target=follow, args=(kill,))
            thread.start()
            return thread

        def withdraw(thread: threading.Thread) -> None:
            self._at.write_text("")
            withdrawn.set()
            thread.join()

        return killed_clients.run_until_killed(manifest, arrange, withdraw)


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
