"""The sizes of Fargate tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType
from typing import NamedTuple

__all__ = [
    "LARGEST_TASK",
    "MEMORY_BY_CPU",
    "UNITS_PER_VCPU",
    "TaskSize",
    "describe_memory",
    "next_memory",
    "task_size",
]

UNITS_PER_VCPU = 1024
"""CPU units of one vCPU."""

# https://docs.aws.amazon.com/AmazonECS/latest/developerguide/fargate-tasks-services.html, Linux.
MEMORY_BY_CPU: Mapping[int, Sequence[int]] = MappingProxyType(
    {
        256: (512, 1024, 2048),
        512: range(1024, 4096 + 1, 1024),
        1024: range(2048, 8192 + 1, 1024),
        2048: range(4096, 16384 + 1, 1024),
        4096: range(8192, 30720 + 1, 1024),
        8192: range(16384, 61440 + 1, 4096),
        16384: range(32768, 122880 + 1, 8192),
        32768: (61440, 122880, 249856),
    }
)
"""Amounts of memory, in MiB, by CPU units, of which 1024 are one vCPU."""


class TaskSize(NamedTuple):
    """A size of task.

    Parameters
    ----------
    cpu : int
        CPU units, of which 1024 are one vCPU.
    memory : int
        MiB.
    """

    cpu: int
    memory: int

    @property
    def vcpus(self) -> Decimal:
        """Its vCPUs."""
        return Decimal(self.cpu) / UNITS_PER_VCPU

    @property
    def gb(self) -> Decimal:
        """Its memory in GB, as Fargate counts them: 1024 MiB."""
        return Decimal(self.memory) / 1024

    def __str__(self) -> str:
        return f"{self.vcpus:f} vCPU, {self.gb:f} GB"


LARGEST_TASK = TaskSize(max(MEMORY_BY_CPU), MEMORY_BY_CPU[max(MEMORY_BY_CPU)][-1])
"""The largest task that Fargate has."""


def next_memory(mib: int) -> int:
    """Return the smallest amount of memory, from `mib` up, that some task can have.

    Parameters
    ----------
    mib : int
        MiB, not more than the largest task has.

    Examples
    --------
    >>> next_memory(2048), next_memory(5000), next_memory(130_000)
    (2048, 5120, 249856)
    """
    return min(amount for amounts in MEMORY_BY_CPU.values() for amount in amounts if amount >= mib)


def task_size(cpu: int, memory: int) -> TaskSize | None:
    """Return the smallest size of task with at least this many CPU units and MiB; None if none is large enough.

    The fewest CPU units count first, because they cost more than memory.

    Examples
    --------
    >>> task_size(1024, 0), task_size(1024, 9000), task_size(32768, 249857)
    (TaskSize(cpu=1024, memory=2048), TaskSize(cpu=2048, memory=9216), None)
    """
    return next(
        (
            TaskSize(units, amount)
            for units, amounts in MEMORY_BY_CPU.items()
            if units >= cpu
            for amount in amounts
            if amount >= memory
        ),
        None,
    )


def describe_memory(cpu: int) -> str:
    """Return a description of the amounts of memory that go with a number of CPU units.

    Examples
    --------
    >>> describe_memory(256), describe_memory(8192)
    ('512, 1024 or 2048', '16384 to 61440 in steps of 4096')
    """
    amounts = MEMORY_BY_CPU[cpu]
    if isinstance(amounts, range):
        return f"{amounts[0]} to {amounts[-1]} in steps of {amounts.step}"
    *most, last = map(str, amounts)
    return f"{', '.join(most)} or {last}"
