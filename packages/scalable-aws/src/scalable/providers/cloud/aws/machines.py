"""Types of EC2 instances, and the choice of one for a worker. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import NamedTuple

__all__ = ["MACHINES", "OTHERS", "Machine", "machine_named", "smallest_machine"]


class Machine(NamedTuple):
    """A type of instance.

    Parameters
    ----------
    name : str
        ``c6i.large``.
    vcpus : int
        Its vCPUs.
    gib : int
        Its memory in GiB, of which the system takes a part.
    gpus : int
        Its GPUs.
    """

    name: str
    vcpus: int
    gib: int
    gpus: int = 0

    @property
    def usable(self) -> int:
        """Bytes that a worker can use, next to the system and Docker."""
        return int(self.gib * 2**30 * Decimal("0.95")) - 2**28

    def __str__(self) -> str:
        gpus = f", {self.gpus} GPUs" if self.gpus else ""
        return f"{self.name}: {self.vcpus} vCPU, {self.gib} GiB{gpus}"


_SIZES = {
    "large": 2,
    "xlarge": 4,
    "2xlarge": 8,
    "4xlarge": 16,
    "8xlarge": 32,
    "12xlarge": 48,
    "16xlarge": 64,
    "24xlarge": 96,
    "32xlarge": 128,
}
_GIB_PER_VCPU = {"c6i": 2, "m6i": 4, "r5": 8}
# https://docs.aws.amazon.com/ec2/latest/instancetypes/ac.html
_WITH_GPUS = (
    Machine("g4dn.xlarge", 4, 16, 1),
    Machine("g5.xlarge", 4, 16, 1),
    Machine("g4dn.2xlarge", 8, 32, 1),
    Machine("g5.2xlarge", 8, 32, 1),
    Machine("g4dn.4xlarge", 16, 64, 1),
    Machine("g5.4xlarge", 16, 64, 1),
    Machine("g4dn.8xlarge", 32, 128, 1),
    Machine("g5.8xlarge", 32, 128, 1),
    Machine("g4dn.12xlarge", 48, 192, 4),
    Machine("g5.12xlarge", 48, 192, 4),
    Machine("g5.48xlarge", 192, 768, 8),
)


def _general() -> Iterator[Machine]:
    # By growing price: within one number of vCPUs, memory is what makes the difference.
    for size, vcpus in _SIZES.items():
        for family, gib in _GIB_PER_VCPU.items():
            if (family, size) != ("r5", "32xlarge"):  # which is the only one that is missing
                yield Machine(f"{family}.{size}", vcpus, vcpus * gib)


MACHINES: tuple[Machine, ...] = (*_general(), *_WITH_GPUS)
"""The types among which one is chosen, the smallest first."""

OTHERS = (
    Machine("t3.medium", 2, 4),
    Machine("t3.large", 2, 8),
    Machine("t3.xlarge", 4, 16),
    Machine("t3.2xlarge", 8, 32),
)
"""Types that are known, and never chosen."""


def machine_named(name: str) -> Machine | None:
    """Return a type of instance that is known here; AWS has many more."""
    return next((each for each in (*MACHINES, *OTHERS) if each.name == name), None)


def smallest_machine(cpus: int, memory: int, gpus: int) -> Machine | None:
    """Return the smallest type that has this many cores, bytes and GPUs; None if none of them has.

    Examples
    --------
    >>> smallest_machine(2, 0, 0).name, smallest_machine(2, 8 * 10**9, 0).name, smallest_machine(1, 0, 1).name
    ('c6i.large', 'r5.large', 'g4dn.xlarge')
    """
    return next(
        (
            each
            for each in MACHINES
            if each.vcpus >= cpus
            and each.usable >= memory
            and each.gpus >= gpus
            and bool(each.gpus) == bool(gpus)
        ),
        None,
    )
