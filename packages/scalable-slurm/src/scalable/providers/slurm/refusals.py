"""What ``sbatch`` means by a refusal. Pure functions.

Of the messages, those are known that the same submission will get again; all others may pass: munge restarts, a backup
controller takes over, a limit is reached. The texts are of slurm_errno.c and of sbatch, in the versions since 20.11.
"""

from __future__ import annotations

import re
from enum import Enum, auto

__all__ = ["Refusal", "classify_refusal"]


class Refusal(Enum):
    """What a refusal means."""

    FINAL = auto()
    """The same submission would be refused again."""
    TOO_MANY = auto()
    """Fewer jobs may be accepted."""
    PASSING = auto()
    """The same submission may be accepted later."""


# Of accounts (AssocMaxSubmitJobLimit, AssocGrpSubmitJobsLimit), of a QOS (QOSMaxSubmitJobPerUserLimit), of the cluster
# (MaxJobCount, for which sbatch itself waits for two minutes).
_TOO_MANY = re.compile(
    r"submit ?jobs?|job submit limit|invalid job array specification|too many (pending )?jobs"
    r"|temporarily (unable to accept job|unavailable)",
    re.IGNORECASE,
)

# Of accounts, and of a QOS that refuses what would wait for ever: QOSMaxCpuPerJobLimit, QOSMinCpuNotSatisfied. Slurm
# adds the same words to all of them: "(job submit limit, user's size and/or time limits)".
_OF_EACH_JOB = re.compile(r"PerJob|PerNode|QOSMin|MaxWall", re.IGNORECASE)

_FINAL = re.compile(
    "|".join(
        (
            r"invalid (partition|account|qos|feature|node|user|wckey|license|generic resource|trackable)",
            r"invalid .*specification",
            r"specification (is )?invalid",
            r"(requested )?node configuration is not available",
            r"(requested )?(time limit|reservation) is invalid",
            r"invalid --|invalid (option|argument|number|time|mail)|unrecognized option|requires an argument|ambiguous",
            r"can ?not be satisfied|mutually exclusive|job dependency problem|too long",
            r"not permitted|permission denied|access denied",
            r"(more|fewer) (processors|nodes|cpus|tasks) requested",
            r"job size specification|(batch|job) script",
            r"memory required by task",
            r"unspecified error",  # of a site's own plugin, whose text is the line before
        )
    ),
    re.IGNORECASE,
)


def classify_refusal(message: str) -> Refusal:
    """Return what a message of ``sbatch`` means.

    Examples
    --------
    >>> classify_refusal("Batch job submission failed: Invalid qos specification")
    <Refusal.FINAL: 1>
    >>> classify_refusal("AssocMaxSubmitJobLimit Batch job submission failed: Job violates accounting/QOS policy")
    <Refusal.TOO_MANY: 2>
    >>> classify_refusal("QOSMaxWallDurationPerJobLimit Job violates accounting/QOS policy")
    <Refusal.FINAL: 1>
    >>> classify_refusal("Batch job submission failed: Protocol authentication error")
    <Refusal.PASSING: 3>
    """
    if _OF_EACH_JOB.search(message):
        return Refusal.FINAL
    if _TOO_MANY.search(message):
        return Refusal.TOO_MANY
    return Refusal.FINAL if _FINAL.search(message) else Refusal.PASSING
