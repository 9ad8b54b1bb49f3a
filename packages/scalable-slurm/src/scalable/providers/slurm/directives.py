"""The options of ``sbatch`` that are Scalable's own, wherever others may set them.

Pure functions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

__all__ = ["drop_options", "find_owned", "is_exclusive", "split_cluster", "values_of"]

_ITSELF = "Scalable sets it itself"

# What would rename, re-array, move or detach jobs, or lose their logs: they would not be found again.
_OWNED = {
    "--array": _ITSELF,
    "--cluster-constraint": "it would move jobs to another cluster; use the option cluster",
    "--clusters": "use the option cluster",
    "--comment": _ITSELF,
    "--error": "the log of a job is one file below logs_location",
    "--export": _ITSELF,
    "--gid": "jobs run as you",
    "--het-group": "a job has one part",
    "--help": "no job would be submitted",
    "--job-name": "use the option name",
    "--no-requeue": _ITSELF,
    "--output": "logs are below logs_location",
    "--parsable": _ITSELF,
    "--requeue": "a lost worker is replaced under a new name",
    "--test-only": "no job would be submitted",
    "--uid": "jobs run as you",
    "--usage": "no job would be submitted",
    "--version": "no job would be submitted",
    "--wait": "Scalable waits for jobs itself",
    "--wrap": _ITSELF,
}

_SHORT = {
    "-A": "--account",
    "-C": "--constraint",
    "-G": "--gpus",
    "-J": "--job-name",
    "-M": "--clusters",
    "-N": "--nodes",
    "-V": "--version",
    "-W": "--wait",
    "-a": "--array",
    "-c": "--cpus-per-task",
    "-e": "--error",
    "-h": "--help",
    "-n": "--ntasks",
    "-o": "--output",
    "-p": "--partition",
    "-q": "--qos",
    "-t": "--time",
    "-x": "--exclude",
}


def find_owned(argument: str) -> tuple[str, str] | None:
    """Return the option of Scalable's own that an argument of ``sbatch`` would set, and what to do instead.

    Examples
    --------
    >>> find_owned("-J"), find_owned("--clusters=two")
    (('--job-name', 'use the option name'), ('--clusters', 'use the option cluster'))
    >>> find_owned("--exclusive"), find_owned("haswell")
    (None, None)
    """
    return next(((name, _OWNED[name]) for name in _names(argument) if name in _OWNED), None)


def _names(argument: str) -> Iterator[str]:
    """Yield the long options that an argument may stand for: ``sbatch`` accepts any unique prefix of a name."""
    if argument.startswith("--") and len(argument) > len("--"):
        given = argument.partition("=")[0]
        known = {*_OWNED, *_SHORT.values(), "--mem", "--gres", "--reservation", given}
        yield from sorted(name for name in known if name.startswith(given))
    elif argument[:2] in _SHORT:
        yield _SHORT[argument[:2]]


def drop_options(arguments: Sequence[str], names: Collection[str]) -> tuple[str, ...]:
    """Return the arguments of a command line without these options, by their long names, and their values.

    Examples
    --------
    >>> drop_options(["-A", "old", "--exclusive", "--partition=x", "-Cssd"], {"--account", "--partition"})
    ('--exclusive', '-Cssd')
    """
    return tuple(
        argument for option, argument in _with_options(arguments) if not set(option) & set(names)
    )


def split_cluster(arguments: Sequence[str]) -> tuple[str | None, tuple[str, ...]]:
    """Return the cluster that a command line sends jobs to, if any, and the command line without it.

    Examples
    --------
    >>> split_cluster(["-M", "two", "--exclusive"]), split_cluster(["-Mone"]), split_cluster(["--clusters=two"])
    (('two', ('--exclusive',)), ('one', ()), ('two', ()))
    """
    clusters = values_of(arguments, "--clusters")
    return (clusters[-1] if clusters else None), drop_options(arguments, {"--clusters"})


def values_of(arguments: Sequence[str], name: str) -> list[str]:
    """Return the values that a command line gives to an option.

    Examples
    --------
    >>> values_of(["-x", "n1", "--exclusive", "--exclude=n2,n3", "-xn4"], "--exclude")
    ['n1', 'n2,n3', 'n4']
    """
    values = []
    for option, argument in _with_options(arguments):
        if name not in option:
            continue
        if argument.startswith("--"):
            values.append(argument.partition("=")[2])
        else:
            values.append(argument[2:] if argument.startswith("-") else argument)
    return [value for value in values if value]


def is_exclusive(arguments: Sequence[str]) -> bool:
    """Return whether a command line asks for nodes that no other job uses.

    Examples
    --------
    >>> is_exclusive(["--exclusive"]), is_exclusive(["--exclusive=user"]), is_exclusive(["--exclude=node1"])
    (True, False, False)
    """
    return "--exclusive" in arguments


def _with_options(arguments: Sequence[str]) -> Iterator[tuple[list[str], str]]:
    """Yield each argument with the names of the option that it is, or that it is the value of."""
    option: list[str] = []
    for argument in arguments:
        if argument.startswith("-"):
            option = list(_names(argument)) or [argument]
            yield option, argument
            if "=" in argument or (not argument.startswith("--") and len(argument) > len("-x")):
                option = []
        else:
            yield option, argument
            option = []
