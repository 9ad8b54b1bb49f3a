"""The options of ``sbatch`` that are Scalable's own, wherever others may set them.

Pure functions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

__all__ = [
    "drop_options",
    "find_owned",
    "is_exclusive",
    "names_several_clusters",
    "owned_options",
    "parse_options",
    "split_cluster",
    "values_of",
]

_ITSELF = "Scalable sets it itself"

# What would rename, re-array, move or detach jobs, or lose their logs: they would not be found again.
_OWNED = {
    "--array": _ITSELF,
    "--cluster-constraint": "it would move jobs to another cluster; use the option cluster",
    "--clusters": "use the option cluster",
    "--comment": _ITSELF,
    "--error": "the log of a job is one file below logs_location",
    "--export": _ITSELF,
    "--export-file": "use env of the component",
    "--gid": "jobs run as you",
    "--het-group": "a job has one part",
    "--help": "no job would be submitted",
    "--job-name": "use the option name",
    "--no-requeue": _ITSELF,
    "--output": "logs are below logs_location",
    "--parsable": _ITSELF,
    "--quiet": "it would hide what sbatch answers",
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
    "-Q": "--quiet",
    "-V": "--version",
    "-W": "--wait",
    "-a": "--array",
    "-c": "--cpus-per-task",
    "-d": "--dependency",
    "-e": "--error",
    "-h": "--help",
    "-n": "--ntasks",
    "-o": "--output",
    "-p": "--partition",
    "-q": "--qos",
    "-t": "--time",
    "-x": "--exclude",
}


# Options whose value, if they have one, is part of the same argument.
_FLAGS = frozenset(
    {
        *(
            "--contiguous",
            "--exclusive",
            "--get-user-env",
            "--help",
            "--hold",
            "--ignore-pbs",
            "--nice",
        ),
        *(
            "--no-kill",
            "--no-requeue",
            "--overcommit",
            "--oversubscribe",
            "--parsable",
            "--propagate",
        ),
        *(
            "--quiet",
            "--reboot",
            "--requeue",
            "--spread-job",
            "--test-only",
            "--usage",
            "--use-min-nodes",
        ),
        *("--verbose", "--version", "--wait"),
    }
)

# Several of them may be one argument, of which the last may be another option: -HMtwo is -H -M two.
_SHORT_FLAGS = frozenset("HOQVWhv")
_SHORT_WITH_OPTIONAL_VALUE = frozenset("ks")


@dataclass(frozen=True)
class Option:
    """An option on the command line of ``sbatch``.

    Parameters
    ----------
    names : tuple of str
        The long names that it may stand for; none for an argument that is no option, nor the value of one.
    value : str or None
        Its value.
    arguments : tuple of str
        The arguments that it consists of.
    """

    names: tuple[str, ...]
    value: str | None
    arguments: tuple[str, ...]


def parse_options(arguments: Sequence[str]) -> Iterator[Option]:
    """Yield the options of a command line as ``sbatch`` understands it.

    Examples
    --------
    >>> [(option.names[0], option.value) for option in parse_options(["-HMtwo", "--exclusive", "--time", "60"])]
    [('-H', None), ('--clusters', 'two'), ('--exclusive', None), ('--time', '60')]
    >>> [option.arguments for option in parse_options(["-C", "ssd", "run.sh"]) if not option.names]
    [('run.sh',)]
    """
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument.startswith("--") and len(argument) > len("--"):
            given, separator, value = argument.partition("=")
            names = _names(given)
            if separator:
                yield Option(names, value, (argument,))
                continue
            has_value = not _FLAGS & {*names}
        elif argument.startswith("-") and len(argument) > len("-"):
            letter, value = argument[1], argument[2:]
            names = (_SHORT.get(f"-{letter}", f"-{letter}"),)
            if letter in _SHORT_FLAGS and value:
                yield Option(names, None, (f"-{letter}",))
                rest.insert(0, f"-{value}")
                continue
            if value:
                yield Option(names, value, (argument,))
                continue
            has_value = letter not in _SHORT_FLAGS | _SHORT_WITH_OPTIONAL_VALUE
        else:
            yield Option((), None, (argument,))
            continue
        if has_value and rest and not rest[0].startswith("-"):
            value = rest.pop(0)
            yield Option(names, value, (argument, value))
        else:
            yield Option(names, None, (argument,))


def _names(given: str) -> tuple[str, ...]:
    """Return the long options that a name may stand for: ``sbatch`` accepts any unique prefix of one."""
    given = _ALIASES.get(given, given)
    known = {*_OWNED, *_SHORT.values(), *_FLAGS, "--mem", "--gres", "--reservation", "--signal"}
    if given in known:
        return (given,)
    return tuple(sorted(name for name in known if name.startswith(given))) or (given,)


_ALIASES = {"--cluster": "--clusters"}


def find_owned(argument: str) -> tuple[str, str] | None:
    """Return the option of Scalable's own that an argument of ``sbatch`` would set, and what to do instead.

    Examples
    --------
    >>> find_owned("-J"), find_owned("--cluster=two")
    (('--job-name', 'use the option name'), ('--clusters', 'use the option cluster'))
    >>> find_owned("--exclusive"), find_owned("--signal=USR1@60"), find_owned("haswell")
    (None, None, None)
    """
    return next(iter(owned_options([argument])), None)


def owned_options(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """Return the options of Scalable's own that a command line would set, and what to do instead.

    Examples
    --------
    >>> owned_options(["-QW"])
    [('--quiet', 'it would hide what sbatch answers'), ('--wait', 'Scalable waits for jobs itself')]
    """
    found = []
    for option in parse_options(arguments):
        value = option.value or ""
        if "--signal" in option.names and "B:" in value.upper():
            found.append(
                ("--signal", "it would end the worker, which is drained before its walltime")
            )
        elif "--dependency" in option.names and "singleton" in value.lower():
            why = "jobs of a run have one name, so that they would run one after another"
            found.append(("--dependency", why))
        else:
            found += [(name, _OWNED[name]) for name in option.names if name in _OWNED][:1]
    return found


def drop_options(arguments: Sequence[str], names: Collection[str]) -> tuple[str, ...]:
    """Return the arguments of a command line without these options, by their long names, and their values.

    Examples
    --------
    >>> drop_options(["-A", "old", "--exclusive", "--partition=x", "-Cssd"], {"--account", "--partition"})
    ('--exclusive', '-Cssd')
    """
    kept = (o for o in parse_options(arguments) if not {*o.names} & {*names})
    return tuple(argument for option in kept for argument in option.arguments)


def split_cluster(arguments: Sequence[str]) -> tuple[str | None, tuple[str, ...]]:
    """Return the cluster that a command line sends jobs to, if any, and the command line without it.

    Examples
    --------
    >>> split_cluster(["-M", "two", "--exclusive"]), split_cluster(["-Mone"]), split_cluster(["--clusters=two"])
    (('two', ('--exclusive',)), ('one', ()), ('two', ()))
    """
    clusters = values_of(arguments, "--clusters")
    return (clusters[-1] if clusters else None), drop_options(arguments, {"--clusters"})


def names_several_clusters(value: str) -> bool:
    """Return whether a value of ``--clusters`` leaves to Slurm where jobs go.

    Examples
    --------
    >>> names_several_clusters("one,two"), names_several_clusters("all"), names_several_clusters("one")
    (True, True, False)
    """
    return "," in value or value.strip().lower() == "all"


def values_of(arguments: Sequence[str], name: str) -> list[str]:
    """Return the values that a command line gives to an option.

    Examples
    --------
    >>> values_of(["-x", "n1", "--exclusive", "--exclude=n2,n3", "-xn4"], "--exclude")
    ['n1', 'n2,n3', 'n4']
    """
    return [o.value for o in parse_options(arguments) if name in o.names and o.value]


def is_exclusive(arguments: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Return whether a command line, or else a variable of ``sbatch``, asks for nodes that no other job uses.

    Examples
    --------
    >>> [is_exclusive([given], {}) for given in ("--exclusive", "--exclus", "--exclusive=user", "--exclude=node1")]
    [True, True, False, False]
    >>> is_exclusive([], {"SBATCH_EXCLUSIVE": "exclusive"})
    True
    """
    given = [o.value or "" for o in parse_options(arguments) if o.names == ("--exclusive",)]
    if not given and "SBATCH_EXCLUSIVE" in environ:
        given = [environ["SBATCH_EXCLUSIVE"]]
    return bool(given) and given[-1] not in {"user", "mcs", "topo"}
