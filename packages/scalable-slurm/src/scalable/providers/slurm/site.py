"""A site's and a user's settings for Slurm in dask-jobqueue's configuration, parsed as dask-jobqueue parses them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from scalable.errors import ValidationFailedError
from scalable.manifest.issues import ValidationIssue, ValidationReport

__all__ = ["SiteDefaults", "read_site"]


@dataclass(frozen=True)
class SiteDefaults:
    """Defaults for what neither a worker's component nor its target sets; None where the site sets nothing either.

    Parameters
    ----------
    cpus : int or None
        Cores of a worker.
    memory : int or None
        Memory of a worker, in bytes.
    walltime : str or None
        A time in sbatch's own format, where a plain number is minutes.
    queue, account, interface, python, local_directory : str or None
        As in a target.
    directives, prologue : tuple of str
        Arguments of ``sbatch`` and lines of the job script. The target's own come after them.
    skipped : tuple of str
        Options of ``sbatch`` that contain one of these are left out.
    death_timeout : int
        Seconds after which a worker without a scheduler exits.
    """

    cpus: int | None = None
    memory: int | None = None
    walltime: str | None = None
    queue: str | None = None
    account: str | None = None
    interface: str | None = None
    python: str | None = None
    local_directory: str | None = None
    directives: tuple[str, ...] = ()
    prologue: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    death_timeout: int = 60


def read_site(config: Mapping[str, Any]) -> SiteDefaults:
    """Return the defaults from the ``jobqueue.slurm`` part of the configuration.

    Raises
    ------
    ValidationFailedError
        Some values cannot be read; the error lists all of them.

    Examples
    --------
    >>> site = read_site({"cores": 6, "job-cpu": None, "memory": "24 GB", "job-extra-directives": ["-C haswell"]})
    >>> site.cpus, site.memory, site.directives
    (6, 24000000000, ('-C', 'haswell'))
    """
    found: dict[str, Any] = {}
    issues = []
    for key, (field, read) in _READERS.items():
        if not config.get(key):  # not set
            continue
        try:
            found[field] = read(config[key])
        except (
            KeyError,
            TypeError,
            ValueError,
        ) as error:  # KeyError is Dask's, for an unknown unit
            message = f"{config[key]!r} cannot be read ({error.args[0]}); correct it in dask-jobqueue's configuration"
            issues.append(ValidationIssue(f"jobqueue.slurm.{key}", message, "E_JOBQUEUE"))
    if issues:
        raise ValidationFailedError(ValidationReport.of(issues))
    return SiteDefaults(**found)


def _memory(text: Any) -> int:
    """Return an amount of memory in bytes, as Dask reads it.

    Examples
    --------
    >>> _memory("4 GB"), _memory("16e9")
    (4000000000, 16000000000)
    """
    from dask.utils import parse_bytes

    return int(parse_bytes(text))


def _job_memory(text: Any) -> int:
    """Return in bytes what dask-jobqueue passes to ``sbatch --mem`` unchanged: 64G is 64 GiB, a plain number MiB.

    Examples
    --------
    >>> _job_memory("4000") == 4000 * 2**20, _job_memory("64G") == _job_memory("64GB") == 64 * 2**30
    (True, True)
    """
    number = re.fullmatch(r"(\d+)([kmgt]?)b?", str(text), re.IGNORECASE)
    if number is None:
        return _memory(text)
    power = "kmgt".index(number[2].lower() or "m") + 1
    return int(number[1]) << 10 * power


def _seconds(text: Any) -> int:
    """Return a time in seconds, as Dask reads it.

    Examples
    --------
    >>> _seconds(60), _seconds("5 minutes")
    (60, 300)
    """
    from dask.utils import parse_timedelta

    return int(parse_timedelta(text))


def _split_directives(directives: Any) -> tuple[str, ...]:
    """Split directives such as ``-C haswell`` into arguments of a command line.

    Examples
    --------
    >>> _split_directives(["-C haswell", "--mail-type=END"])
    ('-C', 'haswell', '--mail-type=END')
    """
    return tuple(argument for directive in directives for argument in shlex.split(directive))


# By dask-jobqueue's key. Where two keys set the same field, the later one takes precedence.
_READERS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "cores": ("cpus", int),
    "job-cpu": ("cpus", int),
    "memory": ("memory", _memory),
    "job-mem": ("memory", _job_memory),
    "walltime": ("walltime", str),
    "queue": ("queue", str),
    "account": ("account", str),
    "interface": ("interface", str),
    "python": ("python", str),
    "local-directory": ("local_directory", str),
    "job-extra-directives": ("directives", _split_directives),
    "job-script-prologue": ("prologue", tuple),
    "job-directives-skip": ("skipped", tuple),
    "death-timeout": ("death_timeout", _seconds),
}
