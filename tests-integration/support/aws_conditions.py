"""What tests change of the circumstances in which AWS starts tasks and instances."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

REGION = "us-east-1"
ACCOUNT = "123456789012"

CAPACITY = "Capacity is unavailable at this time. Please try again later or in a different availability zone"


@dataclass(frozen=True)
class Image:
    """What a container has of its image.

    Parameters
    ----------
    env : mapping of str to str
        Its variables.
    command : sequence of str, optional
        What runs instead of what is asked for.
    is_missing : bool
        Whether it cannot be pulled.
    """

    env: Mapping[str, str] = field(default_factory=dict)
    command: Sequence[str] = ()
    is_missing: bool = False


@dataclass
class Conditions:
    """The circumstances. A test may set each; see `aws_account.AwsAccount`."""

    capacity: int | None = None
    spare: int | None = None
    provisioning: float = 0.0
    interfaces_linger: float = 0.0
    roles_take: float = 0.0
    images: dict[str, Image] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def take(self, n: int, *, least: int = 1, spare: bool = False) -> int:
        """Return how many of `n` there is capacity for, which is gone then; 0 if it is less than `least`."""
        name = "spare" if spare else "capacity"
        with self._lock:
            there: int | None = getattr(self, name)
            if there is None:
                return n
            given = min(n, there)
            if given < least:
                return 0
            setattr(self, name, there - given)
            return given

    def image(self, name: str) -> Image:
        """Return an image; one that nobody has described is this Python with its packages."""
        return self.images.get(name, Image())


def container_environment(home: Path) -> dict[str, str]:
    """Return the variables of a container whose image is this Python."""
    path = [Path(sys.executable).parent, "/usr/local/bin", "/usr/bin", "/bin"]
    return {"PATH": os.pathsep.join(map(str, path)), "HOME": str(home), "LANG": "C.UTF-8"}


def bound(command: Sequence[str], address: str) -> list[str]:
    """Return a command that starts a server of Dask on an address only: what a network namespace would do.

    Examples
    --------
    >>> bound(["dask", "worker", "tcp://127.9.0.4:8786"], "127.9.0.5")
    ['dask', 'worker', 'tcp://127.9.0.4:8786', '--host', '127.9.0.5']
    """
    if {"scheduler", "worker"} & {*command} and "--host" not in command:
        return [*command, "--host", address]
    return [*command]
