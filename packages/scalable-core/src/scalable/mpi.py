"""Start MPI programs from a task of a component that has several nodes or ranks.

The worker of such a component runs on the first of its nodes, and its task starts the program on all of them. The
worker has the variables ``SCALABLE_NODES``, ``SCALABLE_RANKS`` and ``SCALABLE_CPUS_PER_RANK``.

Examples
--------
In a workflow, with ``components: {wrf: {nodes: 4, ranks: 256}}`` in the manifest::

    from scalable.mpi import run_mpi


    def simulate(case):
        run_mpi(["./wrf.exe"], cwd=case)


    client.submit(simulate, "/scratch/case1", tag="wrf")
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from scalable.errors import NotSupportedError

__all__ = ["mpi_argv", "mpi_environment", "run_mpi"]


def mpi_environment(nodes: int, ranks: int, cpus: int) -> dict[str, str]:
    """Return the variables that tell a worker's tasks what they may start; a backend sets them.

    Examples
    --------
    >>> mpi_environment(2, 8, 4)
    {'SCALABLE_NODES': '2', 'SCALABLE_RANKS': '8', 'SCALABLE_CPUS_PER_RANK': '4'}
    """
    return {
        "SCALABLE_NODES": str(nodes),
        "SCALABLE_RANKS": str(ranks),
        "SCALABLE_CPUS_PER_RANK": str(cpus),
    }


def mpi_argv(
    program: Sequence[str],
    *,
    ranks: int | None = None,
    launcher: Literal["srun", "mpirun"] = "srun",
    options: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> list[str]:
    """Return the command line that starts an MPI program on all ranks of the component.

    Parameters
    ----------
    program : sequence of str
        The program and its arguments.
    ranks : int, optional
        How many ranks to start, where they are to be fewer than the component has.
    launcher : {"srun", "mpirun"}, optional
        What starts them: Slurm, or the command of an MPI that knows Slurm's allocations.
    options : sequence of str, optional
        Further options of the launcher, such as ``--mpi=pmix``.
    environ : mapping of str to str, optional
        The variables of the worker; by default, those of this process.

    Raises
    ------
    NotSupportedError
        This worker's component has neither nodes nor ranks.
    ValueError
        It has fewer ranks.

    Examples
    --------
    >>> mpi_argv(["wrf.exe"], environ=mpi_environment(4, 256, 1))
    ['srun', '--nodes=4', '--ntasks=256', '--cpus-per-task=1', '--kill-on-bad-exit=1', 'wrf.exe']
    >>> mpi_argv(["wrf.exe"], launcher="mpirun", environ=mpi_environment(4, 256, 1))
    ['mpirun', '-n', '256', 'wrf.exe']
    """
    environ = os.environ if environ is None else environ
    try:
        nodes, most, cpus = (
            int(environ[name])
            for name in ("SCALABLE_NODES", "SCALABLE_RANKS", "SCALABLE_CPUS_PER_RANK")
        )
    except KeyError:
        raise NotSupportedError(
            "this worker has no MPI ranks; give its component `nodes` or `ranks`, and submit the task with its tag"
        ) from None
    wanted = most if ranks is None else ranks
    if not 1 <= wanted <= most:
        raise ValueError(f"ranks must be from 1 to {most}, which the component has, not {wanted}")
    if launcher == "mpirun":
        return ["mpirun", "-n", str(wanted), *options, *program]
    return [
        "srun",
        f"--nodes={min(nodes, wanted)}",
        f"--ntasks={wanted}",
        f"--cpus-per-task={cpus}",
        # One rank that fails would leave the others waiting for it until the walltime.
        "--kill-on-bad-exit=1",
        *options,
        *program,
    ]


def run_mpi(
    program: Sequence[str],
    *,
    ranks: int | None = None,
    launcher: Literal["srun", "mpirun"] = "srun",
    options: Sequence[str] = (),
    **kwargs: Any,
) -> subprocess.CompletedProcess[Any]:
    """Run an MPI program on all ranks of the component, and return once it has ended well.

    Parameters
    ----------
    program, ranks, launcher, options
        As for `mpi_argv`.
    **kwargs
        Arguments of `subprocess.run`, such as ``cwd`` or ``capture_output``.

    Raises
    ------
    subprocess.CalledProcessError
        A rank has failed.
    NotSupportedError, ValueError
        As for `mpi_argv`.
    """
    argv = mpi_argv(program, ranks=ranks, launcher=launcher, options=options)
    return subprocess.run(argv, **{"check": True, **kwargs})
