"""The ``sbatch`` command line that submits the jobs of one launch as an array.

A pure function. Nothing is quoted because no shell reads it; values that Slurm itself would misread are rejected when
options are validated (`scalable.providers.slurm.options`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from scalable.providers.slurm.directives import drop_options, values_of
from scalable.providers.slurm.request import JobRequest

__all__ = ["asked_for", "sbatch_argv"]

# sbatch replaces %A and %a by the array's job id and the element's index.
LOG_PATTERN = "%A_%a.log"


def sbatch_argv(
    request: JobRequest, n: int, *, job_name: str, comment: str, left_out: Sequence[str] = ()
) -> list[str]:
    """Return the ``sbatch`` command line that submits `n` jobs as one array.

    Parameters
    ----------
    request : JobRequest
        One of the workers, of which each job has room for some.
    n : int
        How many jobs there are.
    job_name, comment : str
        The name and the comment of the jobs.
    left_out : sequence of str, optional
        Nodes on which they must not run.

    Examples
    --------
    >>> gcam = JobRequest("gcam", "/logs", cpus=8, memory=32 * 2**30, walltime=7200, partition="short")
    >>> " ".join(sbatch_argv(gcam, 4, job_name="scalable-1", comment="c"))  # doctest: +NORMALIZE_WHITESPACE
    'sbatch --nodes=1 --ntasks=1 --cpus-per-task=8 --mem=32768M --time=120 --partition=short
     --parsable --job-name=scalable-1 --comment=c --array=0-3 --output=/logs/%A_%a.log --export=ALL --no-requeue'
    """
    room = request.room
    options: dict[str, str | int | None] = {
        "job-name": job_name,
        "comment": comment,
        "array": f"0-{n - 1}",
        # In sbatch's file name patterns, a literal percent sign is written twice.
        "output": request.log_directory.replace("%", "%%") + "/" + LOG_PATTERN,
        # Variables reach the job by inheritance: --export=NAME=value cuts a value at its first comma.
        "export": "ALL",
    }
    shape: dict[str, str | int | None] = {
        "nodes": request.nodes,
        "ntasks": request.ranks,
        # Or Slurm may put them on the nodes in any way.
        "ntasks-per-node": request.ranks // request.nodes
        if request.ranks > 1 and request.ranks % request.nodes == 0
        else None,
        "cpus-per-task": room * request.cpus,
        # Slurm's M is 2**20 bytes.
        "mem": None if request.memory is None else f"{room * math.ceil(request.memory / 2**20)}M",
        # Plain minutes, the unit in which Slurm enforces it.
        "time": math.ceil(request.walltime / 60)
        if isinstance(request.walltime, int)
        else request.walltime,
        "gres": f"gpu:{room * request.gpus}" if request.gpus else None,
        "clusters": request.cluster,
        "partition": request.partition,
        "account": request.account,
        "qos": request.qos,
        "constraint": request.constraint,
        "reservation": request.reservation,
    }
    directives = _without_nodes(request.directives, left_out)
    generic = values_of(directives, "--gres")
    if request.gpus and generic and not any("gpu" in value for value in generic):
        # Of several, only the last would count.
        directives = drop_options(directives, {"--gres"})
        shape["gres"] = ",".join([f"gpu:{room * request.gpus}", generic[-1]])
    return [
        "sbatch",
        *(
            option
            for option in _long_options(shape)
            if not any(_matches(option, part) for part in request.skipped)
        ),
        *directives,
        # After the directives because the last occurrence counts: Scalable recognizes its jobs by these.
        "--parsable",
        *_long_options(options),
        # The engine would not recognize a requeued worker: it has replaced it by then.
        "--no-requeue",
    ]


def asked_for(argv: Sequence[str], option: str, environ: Mapping[str, str]) -> str | None:
    """Return the value that ``sbatch`` takes for an option: the last one of its command line, or else of its variable.

    Examples
    --------
    >>> asked_for(["sbatch", "--partition=a", "-p", "b"], "partition", {"SBATCH_PARTITION": "c"})
    'b'
    >>> asked_for(["sbatch"], "partition", {"SBATCH_PARTITION": "c"}), asked_for(["sbatch"], "partition", {})
    ('c', None)
    """
    given = values_of(argv, f"--{option}")
    return given[-1] if given else environ.get(f"SBATCH_{option.upper()}") or None


def _without_nodes(directives: Sequence[str], nodes: Sequence[str]) -> tuple[str, ...]:
    """Return directives that also exclude these nodes: of several ``--exclude``, only the last would count."""
    if not nodes:
        return tuple(directives)
    excluded = [*values_of(directives, "--exclude"), *nodes]
    return (*drop_options(directives, {"--exclude"}), f"--exclude={','.join(excluded)}")


def _long_options(options: Mapping[str, str | int | None]) -> list[str]:
    return [f"--{name}={value}" for name, value in options.items() if value is not None]


# As dask-jobqueue writes the options that both set.
_SHORT = {"--account": "-A", "--ntasks": "-n", "--partition": "-p", "--time": "-t"}


def _matches(option: str, skipped: str) -> bool:
    """Return whether a text of ``job-directives-skip`` is meant for an option, in our words or in dask-jobqueue's.

    Examples
    --------
    >>> [_matches("--time=30", text) for text in ("-t ", "--time", "-A ", "mem")]
    [True, True, False, False]
    """
    name, _, value = option.partition("=")
    line = f"#SBATCH {_SHORT[name]} {value}" if name in _SHORT else f"#SBATCH {option}"
    return skipped in line or skipped in option
