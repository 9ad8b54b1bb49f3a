"""The directory of one run on the shared file system: keys and logs, for nobody else's eyes."""

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
    """Where one run keeps its keys, which go with it, and its logs, which stay.

    Parameters
    ----------
    path : Path
        Made here, with mode 0700.

    Raises
    ------
    NotSupportedError
        Slurm could not name logs in there.
    """

    def __init__(self, path: Path) -> None:
        if "\\" in str(path):
            raise NotSupportedError(
                f"{path.parent} has a backslash in it, with which Slurm names no log after its job; "
                "set logs_location to another directory"
            )
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700)

    @property
    def logs(self) -> str:
        """Where the jobs' logs go."""
        return str(self.path)

    def write_keys(self) -> tuple[Security, Tls]:
        """Make an authority for this run alone; return what the scheduler and clients need, and what workers need.

        The files have mode 0600: whoever reads them can run code as the user.
        """
        from distributed.security import Security

        fresh = Security.temporary()
        directory = self.path / "tls"
        directory.mkdir(mode=0o700)
        paths = {}
        for role in _ROLES:
            paths[f"tls_{role}"] = str(directory / f"{role}.pem")
            _write_private(directory / f"{role}.pem", getattr(fresh, f"tls_{role}"))
        return Security(require_encryption=True, **paths), Tls(
            paths["tls_ca_file"], paths["tls_worker_cert"], paths["tls_worker_key"]
        )

    def remove_keys(self) -> None:
        """Remove the keys; a run without logs leaves nothing at all. Idempotent."""
        if (self.path / "tls").exists():
            shutil.rmtree(self.path / "tls")
        if self.path.exists() and not any(self.path.iterdir()):
            self.path.rmdir()


def _write_private(path: Path, text: str) -> None:
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
    except OSError as error:
        # Of a write over quota, the system does not say where.
        error.filename = str(path)
        raise
