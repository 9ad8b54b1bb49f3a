"""Which target of a manifest is meant where nobody says."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["AUTO", "choose_target"]

AUTO = "auto"
"""What stands for `choose_target` where a target's name is asked for."""


def choose_target(providers: Mapping[str, str], environ: Mapping[str, str]) -> str | None:
    """Choose a target: a Slurm target inside a Slurm job, else a local one, else the first.

    Parameters
    ----------
    providers : mapping of str to str
        The provider of each target, by the target's name, in the manifest's order.
    environ : mapping of str to str
        The environment; ``SLURM_JOB_ID`` in it means a Slurm job.

    Returns
    -------
    str or None
        None where there is no target. Of several local targets, the one called ``local``.

    Examples
    --------
    >>> providers = {"aws": "aws", "hpc": "slurm", "laptop": "local"}
    >>> choose_target(providers, {})
    'laptop'
    >>> choose_target(providers, {"SLURM_JOB_ID": "4711"})
    'hpc'
    >>> choose_target({"aws": "aws"}, {})
    'aws'
    """
    by_provider: dict[str, list[str]] = {}
    for target, provider in providers.items():
        by_provider.setdefault(provider.strip().lower(), []).append(target)
    if environ.get("SLURM_JOB_ID") and "slurm" in by_provider:
        return by_provider["slurm"][0]
    if local := by_provider.get("local"):
        return "local" if "local" in local else local[0]
    return next(iter(providers), None)
