"""The environment variables that Slurm's commands get."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["query_environ", "submit_environ"]

# Variables by which users give options to the commands that they type. With these, a command would list or cancel only
# some of a run's jobs.
_OPTION_PREFIXES = ("SQUEUE_", "SCANCEL_", "SINFO_")

# Variables that make sbatch wait for the end of its jobs, or send their standard error elsewhere.
_HARMFUL = frozenset({"SBATCH_WAIT", "SBATCH_ERROR"})

# Inside a job, every other variable of Slurm's describes that job.
_SITE_VARIABLES = frozenset({"SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT"})


def query_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for queries and cancellations, without variables that act as options.

    Examples
    --------
    >>> query_environ({"PATH": "/bin", "SQUEUE_PARTITION": "long"})
    {'PATH': '/bin'}
    """
    return {name: value for name, value in environ.items() if not name.startswith(_OPTION_PREFIXES)}


def submit_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment that a job inherits, without variables of the job that this process may run in.

    ``srun`` would read those in the new job too, and refuse to start or start something else.

    Examples
    --------
    >>> submit_environ({"SLURM_CONF": "/c", "SLURM_JOB_ID": "7", "SLURM_MEM_PER_CPU": "300", "SBATCH_ACCOUNT": "a"})
    {'SLURM_CONF': '/c', 'SBATCH_ACCOUNT': 'a'}
    """
    inside = "SLURM_JOB_ID" in environ
    return {
        name: value
        for name, value in environ.items()
        if name not in _HARMFUL
        and not (inside and name.startswith("SLURM_") and name not in _SITE_VARIABLES)
    }
