"""The target of a manifest that is used when none is named."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["AUTO", "choose_target"]

AUTO = "auto"
"""The target's name that means: use `choose_target`."""


def choose_target(providers: Mapping[str, str], environ: Mapping[str, str]) -> str | None:
    """Choose a target: a Slurm target inside a Slurm job, else a local one, else the first.

    Parameters
    ----------
    providers : mapping of str to str
        The provider of each target, by the target's name, in the manifest's order.
    environ : mapping of str to str
        The environment; ``SLURM_JOB_ID`` is set inside a Slurm job.

    Returns
    -------
    str or None
        None if there is no target. Of several local targets, the one named ``local``.

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
