"""The environment variables that Slurm's commands get."""

from __future__ import annotations

import re
from collections.abc import Mapping

from scalable.errors import NotSupportedError
from scalable.providers.slurm.directives import names_several_clusters

__all__ = ["cluster_from", "query_environ", "submit_environ"]

# Variables by which users give options to the commands that they type. With these, a command would list or cancel only
# some of a run's jobs.
_OPTION_PREFIXES = ("SQUEUE_", "SCANCEL_", "SINFO_", "SCONTROL_", "SACCT_")

# By default, scontrol names the elements of an array that wait in 64 characters, and leaves out the others.
_FOR_QUERIES = {"SLURM_BITSTR_LEN": "0"}

# Variables that make sbatch wait for the end of its jobs, or send their standard error, or themselves, elsewhere, or
# workers a signal that ends them.
_HARMFUL = frozenset(
    {
        *("SBATCH_WAIT", "SBATCH_ERROR", "SBATCH_SIGNAL", "SBATCH_CLUSTERS", "SLURM_CLUSTERS"),
        *("SBATCH_CLUSTER_CONSTRAINT", "SLURM_CLUSTER_CONSTRAINT"),
    }
)

# Inside a job, every other variable of Slurm's describes that job, those of MPI its place in a step, and those of GPUs
# the ones that it has.
_SITE_VARIABLES = frozenset({"SLURM_CONF", "SLURM_JWT"})
_OF_A_JOB = re.compile(
    r"SLURMD?_|SRUN_CPUS_PER_TASK|PMIX_(RANK|NAMESPACE|SERVER_|SYSTEM_TMPDIR|HOSTNAME)"
    r"|PMI_(FD|ID|JOBID|LOCAL_|PORT|RANK|SIZE|SPAWNED|UNIVERSE_SIZE)"
    # Its GPUs, which a job without any would take for its own.
    r"|(CUDA_VISIBLE_DEVICES|GPU_DEVICE_ORDINAL|(HIP|ROCR)_VISIBLE_DEVICES|ZE_AFFINITY_MASK)$"
)
_INSIDE_A_JOB = frozenset({"SLURM_JOB_ID", "SLURM_JOBID", "SLURM_JOB_NODELIST", "SLURM_STEP_ID"})


def cluster_from(environ: Mapping[str, str]) -> str | None:
    """Return the cluster to which a user's ``sbatch`` would send jobs; None for the one of this machine.

    Raises
    ------
    NotSupportedError
        There may be several.

    Examples
    --------
    >>> cluster_from({"SBATCH_CLUSTERS": "two", "SLURM_CLUSTERS": "one"}), cluster_from({})
    ('two', None)
    """
    for name in ("SBATCH_CLUSTERS", "SLURM_CLUSTERS"):
        if not (value := environ.get(name, "").strip()):
            continue
        if names_several_clusters(value):
            raise NotSupportedError(
                f"${name} names several clusters, of which jobs would be on any: {value}; "
                "set the option cluster to one of them"
            )
        return value
    return None


def query_environ(environ: Mapping[str, str], cluster: str | None = None) -> dict[str, str]:
    """Return the environment for queries and cancellations, without variables that act as options.

    Parameters
    ----------
    environ : mapping of str to str
        The environment.
    cluster : str or None
        The cluster to ask; None for the one of this machine.

    Examples
    --------
    >>> query_environ({"PATH": "/bin", "SQUEUE_PARTITION": "long", "SLURM_CLUSTERS": "all"}, "two")
    {'PATH': '/bin', 'SLURM_BITSTR_LEN': '0', 'SLURM_CLUSTERS': 'two'}
    """
    kept = {
        name: value
        for name, value in environ.items()
        if not name.startswith(_OPTION_PREFIXES) and name != "SLURM_CLUSTERS"
    }
    kept |= _FOR_QUERIES
    return {**kept, "SLURM_CLUSTERS": cluster} if cluster else kept


def submit_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment that a job inherits, without variables of the job that this process may run in.

    ``srun`` would read those in the new job too, and refuse to start or start something else.

    Examples
    --------
    >>> submit_environ({"SLURM_CONF": "/c", "SLURM_JOBID": "7", "PMIX_RANK": "0", "PMIX_MCA_psec": "native"})
    {'SLURM_CONF': '/c', 'PMIX_MCA_psec': 'native'}
    >>> gpus = {"CUDA_VISIBLE_DEVICES": "0"}
    >>> submit_environ({"SLURM_JOB_ID": "7", **gpus}), submit_environ(gpus)
    ({}, {'CUDA_VISIBLE_DEVICES': '0'})
    """
    inside = not _INSIDE_A_JOB.isdisjoint(environ)
    return {
        name: value
        for name, value in environ.items()
        if name not in _HARMFUL
        and not (inside and _OF_A_JOB.match(name) and name not in _SITE_VARIABLES)
    }
