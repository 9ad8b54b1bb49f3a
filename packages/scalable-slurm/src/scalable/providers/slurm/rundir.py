"""The directory of one run on the shared file system, with its TLS keys and logs, readable by its user only.

Its part ``jobs`` has the files by which jobs with several workers and the client tell each other about them.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from scalable.errors import NotSupportedError, describe_error
from scalable.providers.slurm.presence import FILE, Presence, dead_runs
from scalable.providers.tls import TlsFiles, make_credentials

if TYPE_CHECKING:
    from distributed.security import Security

__all__ = ["RunDirectory", "remove_keys"]

logger = logging.getLogger("scalable.providers.slurm")


class RunDirectory:
    """The directory for a run's TLS keys, which are removed at its end, and its logs, which are kept.

    Parameters
    ----------
    path : Path
        Created with mode 0700.

    Raises
    ------
    NotSupportedError
        Slurm cannot name logs in a directory with this name.
    """

    def __init__(self, path: Path) -> None:
        if "\\" in str(path):
            raise NotSupportedError(
                f"{path.parent} contains a backslash, which keeps Slurm from naming logs after their jobs; "
                "set logs_location to another directory"
            )
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700)
        try:
            (path / "jobs").mkdir(mode=0o700)
            self._presence = Presence(path)
        except OSError as error:
            shutil.rmtree(path, ignore_errors=True)
            error.filename = error.filename or str(path)  # that of a full file system names none
            raise

    @property
    def logs(self) -> str:
        """The directory for the jobs' logs."""
        return str(self.path)

    def write_keys(self) -> tuple[Security, TlsFiles]:
        """Create the keys of this run; return the configuration of scheduler and clients, and the files of workers.

        The files have mode 0600: anyone who can read them can run code as the user.
        """
        credentials = make_credentials()
        # Scheduler and clients do not read the files, which who can write above this directory could replace.
        return credentials.security(), credentials.write(self.path / "tls")

    def remove_keys(self) -> None:
        """Remove the keys, and the directory if it has no logs. Idempotent."""
        self._presence.stop()
        remove_keys(self.path)

    def remove_keys_of_dead_runs(self) -> None:
        """Remove the keys of other runs in the same place whose clients have died."""
        now = (self.path / FILE).stat().st_mtime
        for run in dead_runs(self.path.parent, now):
            try:
                remove_keys(run)
            except OSError as error:
                logger.warning("cannot remove the keys in %s: %s", run, describe_error(error))


def remove_keys(path: Path) -> None:
    """Remove all but the logs in a run's directory, and the directory if it has none. Idempotent.

    The watchdog of a client that was killed may do the same at the same time.
    """
    for part in (path / "tls", path / "jobs"):
        while part.exists():
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(part)
    (path / FILE).unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if not any(path.iterdir()):
            path.rmdir()
