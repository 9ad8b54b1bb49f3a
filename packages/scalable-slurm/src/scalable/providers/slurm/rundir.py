"""The directory of one run on the shared file system, with its TLS keys and logs, readable by its user only."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from scalable.errors import NotSupportedError
from scalable.providers.slurm.request import Tls

if TYPE_CHECKING:
    from distributed.security import Security

__all__ = ["RunDirectory"]

_ROLES = (
    "ca_file",
    *("scheduler_cert", "scheduler_key"),
    *("worker_cert", "worker_key"),
    *("client_cert", "client_key"),
)


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

    @property
    def logs(self) -> str:
        """The directory for the jobs' logs."""
        return str(self.path)

    def write_keys(self) -> tuple[Security, Tls]:
        """Create a certificate authority for this run; return the TLS files of scheduler and clients, and of workers.

        The files have mode 0600: anyone who can read them can run code as the user.
        """
        from distributed.security import Security

        temporary = Security.temporary()
        directory = self.path / "tls"
        directory.mkdir(mode=0o700)
        paths = {}
        for role in _ROLES:
            paths[f"tls_{role}"] = str(directory / f"{role}.pem")
            _write_private(directory / f"{role}.pem", getattr(temporary, f"tls_{role}"))
        return Security(require_encryption=True, **paths), Tls(
            paths["tls_ca_file"], paths["tls_worker_cert"], paths["tls_worker_key"]
        )

    def remove_keys(self) -> None:
        """Remove the keys, and the directory if it has no logs. Idempotent."""
        if (self.path / "tls").exists():
            shutil.rmtree(self.path / "tls")
        if self.path.exists() and not any(self.path.iterdir()):
            self.path.rmdir()


def _write_private(path: Path, text: str) -> None:
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
    except OSError as error:
        # The error of a write over quota has no file name.
        error.filename = str(path)
        raise
