"""A site's and a user's settings for Slurm in dask-jobqueue's configuration, parsed as dask-jobqueue parses them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from scalable.errors import ValidationFailedError, did_you_mean
from scalable.manifest.issues import ValidationIssue, ValidationReport
from scalable.providers.slurm.directives import (
    names_several_clusters,
    owned_options,
    parse_options,
    split_cluster,
    values_of,
)
from scalable.providers.slurm.paths import check_variables

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
    queue, account, cluster, name, interface, python, shebang, local_directory : str or None
        As in a target.
    log_directory : str or None
        The target's ``logs_location``.
    directives, prologue : tuple of str
        Arguments of ``sbatch`` and lines of the job script. The target's own come after them.
    skipped : tuple of str
        Options of ``sbatch`` that contain one of these, as dask-jobqueue or Scalable writes them, are left out.
    worker_arguments : tuple of str
        Further arguments of the workers.
    scheduler : mapping
        Where the scheduler listens: ``host``, ``port``, ``interface``, ``contact_address``, ``dashboard_address``.
    death_timeout : int
        Seconds after which a worker without a scheduler exits.
    notes : tuple of ValidationIssue
        Warnings of what is set and has no effect.
    """

    cpus: int | None = None
    memory: int | None = None
    walltime: str | None = None
    queue: str | None = None
    account: str | None = None
    cluster: str | None = None
    name: str | None = None
    interface: str | None = None
    python: str | None = None
    shebang: str | None = None
    local_directory: str | None = None
    log_directory: str | None = None
    directives: tuple[str, ...] = ()
    prologue: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    worker_arguments: tuple[str, ...] = ()
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    death_timeout: int = 60
    notes: tuple[ValidationIssue, ...] = ()


def read_site(config: Mapping[str, Any], files: Mapping[str, str] | None = None) -> SiteDefaults:
    """Return the defaults from the ``jobqueue.slurm`` part of the configuration.

    Parameters
    ----------
    config : mapping
        That part, with the names of dask-jobqueue 0.9 or the older ones that it still obeys.
    files : mapping of str to str, optional
        Where each key is set, for messages.

    Raises
    ------
    ValidationFailedError
        Some values cannot be read; the error lists all of them.

    Examples
    --------
    >>> site = read_site({"cores": 6, "job-cpu": None, "memory": "24 GB", "job-extra-directives": ["-C haswell"]})
    >>> site.cpus, site.memory, site.directives
    (6, 24000000000, ('-C', 'haswell'))
    >>> print(read_site({"project": "climate", "processes": 4}).notes[0].message)
    has no effect: set workers_per_job for several workers in one job
    """
    found: dict[str, Any] = {}
    issues: list[ValidationIssue] = []
    notes: list[ValidationIssue] = []

    def note(key: str, message: str) -> None:
        where = (files or {}).get(key)
        notes.append(
            ValidationIssue(f"jobqueue.slurm.{key}", message, "W_JOBQUEUE", "warning", where)
        )

    given = {key: value for key, value in config.items() if not _is_unset(value)}
    settings = _with_present_names(given, note)
    for key, (name, read) in _READERS.items():
        if key not in settings:
            continue
        written, value = settings.pop(key)
        try:
            found[name] = read(value, partial(note, written))
        except (
            KeyError,
            TypeError,
            ValueError,
            OverflowError,
        ) as error:  # KeyError: an unit that Dask does not know
            message = f"{value!r} cannot be read ({error.args[0]}); correct it in dask-jobqueue's configuration"
            place = (files or {}).get(written)
            issues.append(
                ValidationIssue(f"jobqueue.slurm.{written}", message, "E_JOBQUEUE", file=place)
            )
    for key, (written, value) in settings.items():
        if (why := _explain_no_effect(key, value)) is not None:
            note(written, why)
    if issues:
        raise ValidationFailedError(ValidationReport.of(issues))
    cluster, directives = split_cluster(found.pop("directives", ()))
    return SiteDefaults(**found, cluster=cluster, directives=directives, notes=tuple(notes))


def _is_unset(value: Any) -> bool:
    return value is None or (value != 0 and not value)


def _with_present_names(
    config: Mapping[str, Any], note: Callable[[str, str], None]
) -> dict[str, tuple[str, Any]]:
    """Return each setting by its present name, with the name that it was written under."""
    settings = {key: (key, value) for key, value in config.items() if key not in _OLD_NAMES}
    for old, new in _OLD_NAMES.items():
        if old not in config:
            continue
        if new in settings:
            note(old, f"has no effect because its new name, {new}, is set as well; remove it")
        else:
            settings[new] = (old, config[old])
    return settings


def _explain_no_effect(key: str, value: Any) -> str | None:
    if key not in _NO_EFFECT:
        near = did_you_mean(key, [*_READERS, *_OLD_NAMES])
        return f"has no effect: dask-jobqueue has no such setting{near}"
    harmless, why = _NO_EFFECT[key]
    return None if value == harmless else f"has no effect: {why}"


Note = Callable[[str], None]
Reader = Callable[[Any, Note], Any]


def _alone(read: Callable[[Any], Any]) -> Reader:
    """Return a reader that has nothing to note."""
    return lambda value, _: read(value)


def _text(value: Any) -> str:
    """Return text, or a number as text.

    Examples
    --------
    >>> _text("climate"), _text(4711)
    ('climate', '4711')
    """
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise TypeError("must be text")
    text = str(value).strip()
    if not text.isprintable() or not text:
        raise ValueError("must be one line of text")
    return text


def _word(value: Any) -> str:
    text = _text(value)
    if not re.fullmatch(r"[^\s,/\\]{1,50}", text):
        raise ValueError("must be one word of 50 characters at most, without commas or slashes")
    return text


def _texts(values: Any) -> tuple[str, ...]:
    """Return a list of text. One text is none: it would be read letter by letter."""
    if not isinstance(values, (list, tuple)):
        raise TypeError("must be a list of text, such as ['...']")
    return tuple(_text(value) for value in values if not _is_unset(value))


def _lines(values: Any) -> tuple[str, ...]:
    if not isinstance(values, (list, tuple)) or not all(isinstance(line, str) for line in values):
        raise TypeError("must be a list of text, one line each")
    return tuple(line for text in values for line in text.splitlines())


def _count(value: Any) -> int:
    if isinstance(value, (bool, float)) or int(value) < 1:
        raise ValueError("must be a number, at least 1")
    return int(value)


def _memory(text: Any) -> int:
    """Return an amount of memory in bytes, as Dask reads it.

    Examples
    --------
    >>> _memory("4 GB"), _memory("16e9")
    (4000000000, 16000000000)
    """
    from dask.utils import parse_bytes

    amount = int(parse_bytes(_text(text)))
    if amount < _LEAST_MEMORY:
        raise ValueError("is less than 1 MiB; write it with its unit, such as 24GB")
    return amount


_LEAST_MEMORY = 2**20
"""Bytes below which an amount is taken for one that lacks its unit."""


def _job_memory(text: Any) -> int:
    """Return in bytes what dask-jobqueue passes to ``sbatch --mem`` unchanged: 64G is 64 GiB, a plain number MiB.

    Examples
    --------
    >>> _job_memory("4000") == 4000 * 2**20, _job_memory("64G") == _job_memory("64GB") == 64 * 2**30
    (True, True)
    """
    number = re.fullmatch(r"(\d+)([kmgt]?)b?", _text(text), re.IGNORECASE)
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

    seconds = int(parse_timedelta(_text(text)))
    if seconds < 1:
        raise ValueError("must be a second or more")
    return seconds


def _name(value: Any) -> str | None:
    return None if value == "dask-worker" else _word(value)  # dask-jobqueue's own default


def _python(value: Any) -> str:
    text = _text(value)
    if re.search(r"[\s$`]", text):
        raise ValueError(
            "must be the path of an interpreter; for a container, give the component an image"
        )
    return text


def _directory(value: Any) -> str:
    return check_variables(_text(value))


def _walltime(value: Any, note: Note) -> str:
    """Return a time in sbatch's own format.

    Examples
    --------
    >>> _walltime(7200, print)
    is 7200 minutes to Slurm; YAML reads 02:00:00 as a number too, unless it is in quotes
    '7200'
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 3600:
        note(
            f"is {value} minutes to Slurm; YAML reads 02:00:00 as a number too, unless it is in quotes"
        )
    return _text(value)


def _shebang(value: Any) -> str | None:
    if value == "#!/usr/bin/env bash":  # dask-jobqueue's own default
        return None
    text = _text(value)
    if not re.fullmatch(r"#!\s*/.*\bbash\b.*", text):
        raise ValueError("must be the line of a bash, such as #!/bin/bash -l")
    return text


def _directives(values: Any, note: Note) -> tuple[str, ...]:
    """Split directives such as ``-C haswell`` into arguments of a command line, without those that are Scalable's.

    Examples
    --------
    >>> _directives(["-C haswell", "--mail-type=END", "-o logs/%j.out"], print)
    '-o logs/%j.out' has no effect: logs are below logs_location
    ('-C', 'haswell', '--mail-type=END')
    """
    kept: list[str] = []
    for directive in _texts(values):
        if directive.startswith("#"):
            raise ValueError(f"{directive!r} must be an option alone, without #SBATCH")
        arguments = shlex.split(directive)
        if not arguments[0].startswith("-"):
            raise ValueError(f"{directive!r} is no option; options begin with - or --")
        if ":" in arguments:
            raise ValueError(f"{directive!r} would make a heterogeneous job, which workers are not")
        options = list(parse_options(arguments))
        if stray := next((option.arguments[0] for option in options if not option.names), None):
            raise ValueError(f"{directive!r} has {stray!r}, which is no option's value")
        if any(map(names_several_clusters, values_of(arguments, "--clusters"))):
            raise ValueError(f"{directive!r} would leave to Slurm where jobs go; name one cluster")
        owned = owned_options(arguments)
        if all(option == "--clusters" for option, _ in owned):
            kept += arguments
        elif len(options) == 1:
            note(f"{directive!r} has no effect: {owned[0][1]}")
        else:
            raise ValueError(f"{directive!r} sets {owned[0][0]}: {owned[0][1]}; take it out")
    return tuple(kept)


_LINES_THAT_STAY = ("-J", "-o", "-e", "--job-name", "--output", "--error")


def _skipped(values: Any, note: Note) -> tuple[str, ...]:
    _texts(values)
    skipped = []
    for value in values:
        text = "" if _is_unset(value) else str(value)
        if text.partition("=")[0].strip() in _LINES_THAT_STAY:
            note(f"{text!r} cannot be left out: Scalable finds its jobs and their logs by it")
        elif text.strip():
            # Its blanks count: "-t " is in the line of the walltime, and "-t" in that of --cpus-per-task, too.
            skipped.append(text)
    return tuple(skipped)


_OWN_WORKER_ARGUMENTS = frozenset(
    {
        "--name",
        "--nanny",
        "--no-nanny",
        "--nprocs",
        "--nthreads",
        "--nworkers",
        "--memory-limit",
        "--protocol",
        "--resources",
        "--scheduler-file",
        "--tls-ca-file",
        "--tls-cert",
        "--tls-key",
    }
)


def _worker_arguments(values: Any) -> tuple[str, ...]:
    """Return arguments of a command line; dask-jobqueue has a shell split each text at its blanks.

    Examples
    --------
    >>> _worker_arguments(["--lifetime 55m", "--lifetime-stagger", "5m"])
    ('--lifetime', '55m', '--lifetime-stagger', '5m')
    """
    arguments = tuple(word for text in _texts(values) for word in shlex.split(text))
    for argument in arguments:
        if re.search(r"[$`]", argument):
            raise ValueError(f"{argument} has a variable, which is not expanded; write its value")
        if argument.partition("=")[0] in _OWN_WORKER_ARGUMENTS:
            raise ValueError(f"{argument} is set by Scalable itself; take it out")
    return arguments


def _scheduler(options: Any, note: Note) -> dict[str, Any]:
    """Return where the scheduler listens; what else configures Dask's scheduler here is Scalable's."""
    if not isinstance(options, Mapping):
        raise TypeError("must be a mapping, such as {port: 8786}")
    found: dict[str, Any] = {}
    for name, value in options.items():
        key = str(name).replace("-", "_")
        if key not in _SCHEDULER:
            near = did_you_mean(key, _SCHEDULER)
            note(f"{name} has no effect: Scalable sets the scheduler's other options itself{near}")
        elif not _is_unset(value) and (read := _SCHEDULER[key](value)) is not None:
            found[key] = read
    if {"host", "interface"} <= found.keys():
        raise ValueError("must have host or interface, not both")
    return found


def _port(value: Any) -> int:
    port = _count(value)
    if port > 65535:
        raise ValueError("port must be at most 65535")
    return port


def _any_port(value: Any) -> int | None:
    """Return a port; None for any that is free, which is 0 to Dask."""
    return None if str(value) == "0" else _port(value)


_SCHEDULER: Mapping[str, Callable[[Any], Any]] = {
    "host": _text,
    "port": _any_port,
    "interface": _text,
    "contact_address": _text,
    "dashboard_address": _text,
}

# Names that dask-jobqueue 0.9 still obeys where the present name is not set.
_OLD_NAMES = {
    "project": "account",
    "extra": "worker-extra-args",
    "env-extra": "job-script-prologue",
    "header-skip": "job-directives-skip",
    "job-extra": "job-extra-directives",
}

# By key, the value that changes nothing, and why others have no effect.
_NO_EFFECT: Mapping[str, tuple[Any, str]] = {
    "processes": (1, "set workers_per_job for several workers in one job"),
    "worker-command": (
        "distributed.cli.dask_worker",
        "Scalable starts Dask's own worker; use preload_script of a component",
    ),
    "shared-temp-directory": (None, "keys are kept below logs_location; set that instead"),
}

# By dask-jobqueue's key. Where two keys set the same field, the later one takes precedence.
_READERS: Mapping[str, tuple[str, Reader]] = {
    "cores": ("cpus", _alone(_count)),
    "job-cpu": ("cpus", _alone(_count)),
    "memory": ("memory", _alone(_memory)),
    "job-mem": ("memory", _alone(_job_memory)),
    "walltime": ("walltime", _walltime),
    "queue": ("queue", _alone(_text)),
    "account": ("account", _alone(_text)),
    "name": ("name", _alone(_name)),
    "interface": ("interface", _alone(_text)),
    "python": ("python", _alone(_python)),
    "shebang": ("shebang", _alone(_shebang)),
    "local-directory": ("local_directory", _alone(_directory)),
    "log-directory": ("log_directory", _alone(_text)),
    "job-extra-directives": ("directives", _directives),
    "job-script-prologue": ("prologue", _alone(_lines)),
    "job-directives-skip": ("skipped", _skipped),
    "worker-extra-args": ("worker_arguments", _alone(_worker_arguments)),
    "scheduler-options": ("scheduler", _scheduler),
    "death-timeout": ("death_timeout", _alone(_seconds)),
}
