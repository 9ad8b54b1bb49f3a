"""The environments in which Slurm's commands run."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["query_environ", "submit_environ"]

# Options that people give by variables to the commands they type. Ours would then show, or cancel, only some jobs.
_OPTION_PREFIXES = ("SQUEUE_", "SCANCEL_", "SINFO_")

# Variables of sbatch that hold its answer back until the jobs end, or have half of their logs go elsewhere.
_HARMFUL = frozenset({"SBATCH_WAIT", "SBATCH_ERROR"})

# Inside a job, every other variable of Slurm's is about that job.
_SITE_VARIABLES = frozenset({"SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT"})


def query_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """Say in which environment to ask and to cancel: one in which a command does what its arguments say.

    Examples
    --------
    >>> query_environ({"PATH": "/bin", "SQUEUE_PARTITION": "long"})
    {'PATH': '/bin'}
    """
    return {name: value for name, value in environ.items() if not name.startswith(_OPTION_PREFIXES)}


def submit_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """Say what a job inherits: not what describes the job that this process may be part of.

    ``srun`` would read that in the new job too, and refuse to start or start something else.

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
