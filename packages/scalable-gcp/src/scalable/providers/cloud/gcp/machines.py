"""Machine types of Compute Engine, and the choice of one for a worker. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from typing import NamedTuple

from scalable.providers.cloud.gcp.prices import table_rate

__all__ = ["MACHINES", "Machine", "attached_gpus", "cheapest_machine", "machine_named"]

_GIB = 2**30


class Machine(NamedTuple):
    """A machine, as far as its type is known here.

    Parameters
    ----------
    name : str
        ``n2-standard-4``.
    vcpus : int or None
        vCPUs; None if they are not known.
    memory : int or None
        Bytes; None if they are not known.
    gpus : int or None
        GPUs that the type comes with; None if it comes with some, and it is not known how many.
    gpu_type : str
        Which; empty without GPUs, or where it is not known.
    paid_vcpus : Decimal or None
        How many vCPUs are paid for, where it has them at times only; None for all that it has.
    """

    name: str
    vcpus: int | None
    memory: int | None
    gpus: int | None = 0
    gpu_type: str = ""
    paid_vcpus: Decimal | None = None

    @property
    def rates(self) -> str | None:
        """By which series it is paid for: ``n2``, ``n2 custom``; None if its prices are not known to be of any."""
        if not _CUSTOM.fullmatch(self.name):
            return self.series
        if self.name.endswith("-ext"):  # part of its memory has another price
            return None
        series = "n1" if self.series == "custom" else self.series
        return f"{series} custom" if series in _DEARER_CUSTOM else series

    @property
    def series(self) -> str:
        """Its series: ``n2``."""
        return self.name.partition("-")[0]

    @property
    def disk(self) -> str:
        """The type of its boot disk.

        Examples
        --------
        >>> machine_named("n2-standard-4").disk, machine_named("n4-standard-4").disk
        ('pd-balanced', 'hyperdisk-balanced')
        """
        return "hyperdisk-balanced" if self.series in _ONLY_HYPERDISK else "pd-balanced"

    @property
    def is_arm(self) -> bool:
        """Whether its processor runs programs for ARM, and no others."""
        return self.series in _ARM

    @property
    def usable(self) -> int | None:
        """Bytes that a worker can use, next to the system and Docker; None if they are not known."""
        return None if self.memory is None else self.memory * 93 // 100


# https://cloud.google.com/compute/docs/general-purpose-machines
_SIZES = {
    ("e2", "highcpu", 1): (2, 4, 8, 16, 32),
    ("e2", "standard", 4): (2, 4, 8, 16, 32),
    ("e2", "highmem", 8): (2, 4, 8, 16),
    ("n1", "standard", 3.75): (1, 2, 4, 8, 16, 32, 64, 96),
    ("n1", "highmem", 6.5): (2, 4, 8, 16, 32, 64, 96),
    ("n1", "highcpu", 0.9): (2, 4, 8, 16, 32, 64, 96),
    ("n2", "highcpu", 1): (2, 4, 8, 16, 32, 48, 64, 80, 96),
    ("n2", "standard", 4): (2, 4, 8, 16, 32, 48, 64, 80, 96, 128),
    ("n2", "highmem", 8): (2, 4, 8, 16, 32, 48, 64, 80, 96),
    ("n2d", "highcpu", 1): (2, 4, 8, 16, 32, 48, 64, 80, 96, 128, 224),
    ("n2d", "standard", 4): (2, 4, 8, 16, 32, 48, 64, 80, 96, 128, 224),
    ("n2d", "highmem", 8): (2, 4, 8, 16, 32, 48, 64, 80, 96),
    ("c2", "standard", 4): (4, 8, 16, 30, 60),
    ("t2d", "standard", 4): (1, 2, 4, 8, 16, 32, 48, 60),
}
# https://cloud.google.com/compute/docs/gpus: vCPUs, GiB, GPUs.
_WITH_GPUS = {
    "g2-standard-4": (4, 16, 1),
    "g2-standard-8": (8, 32, 1),
    "g2-standard-12": (12, 48, 1),
    "g2-standard-16": (16, 64, 1),
    "g2-standard-24": (24, 96, 2),
    "g2-standard-32": (32, 128, 1),
    "g2-standard-48": (48, 192, 4),
    "g2-standard-96": (96, 384, 8),
    "a2-highgpu-1g": (12, 85, 1),
    "a2-highgpu-2g": (24, 170, 2),
    "a2-highgpu-4g": (48, 340, 4),
    "a2-highgpu-8g": (96, 680, 8),
}
# They may use their two vCPUs at times: https://cloud.google.com/compute/docs/general-purpose-machines#sharedcore
# Which vCPUs are paid for, and GiB.
_SHARED_CORE = {"e2-micro": ("0.25", 1), "e2-small": ("0.5", 2), "e2-medium": ("1", 4)}
# The Cloud Billing Catalog has products of their own for the custom types of these, and of no other series.
_DEARER_CUSTOM = ("n1", "n2", "n2d", "n4")
# https://cloud.google.com/compute/docs/disks/hyperdisks: these take no disk of type pd-balanced.
_ONLY_HYPERDISK = frozenset({"a4", "a4x", "c4", "c4a", "c4d", "n4", "n4a", "n4d", "x4"})
# https://cloud.google.com/compute/docs/instances/arm-on-compute
_ARM = frozenset({"a4x", "c4a", "n4a", "t2a"})
_GPU_OF = {"g2": "nvidia-l4", "a2": "nvidia-tesla-a100"}
_CHOSEN = ("e2", "n2", "n2d")
"""The series from which one is chosen, where a component needs no GPU."""
# https://cloud.google.com/compute/docs/gpus#t4-gpus: at most so many vCPUs with so many GPUs.
_T4_VCPUS = {1: 48, 2: 48, 4: 96}

# https://cloud.google.com/compute/docs/machine-resource#naming_convention
_PREDEFINED = re.compile(
    r"[a-z0-9]+-(?:standard|highmem|highcpu|megamem|ultramem|hypermem)-([0-9]+)(?:-.+)?"
)
_CUSTOM = re.compile(r"(?:[a-z0-9]+-)?custom-([0-9]+)-([0-9]+)(?:-ext)?")
# https://cloud.google.com/compute/docs/gpus: the series that come with GPUs.
_GPU_SERIES = re.compile(r"(?:a[234]x?|g[24])-.+")


def _all() -> Iterator[Machine]:
    for (series, kind, gib), sizes in _SIZES.items():
        for vcpus in sizes:
            memory = int(Decimal(str(gib)) * vcpus * _GIB)
            yield Machine(f"{series}-{kind}-{vcpus}", vcpus, memory)
    for name, (vcpus, gib, gpus) in _WITH_GPUS.items():
        yield Machine(name, vcpus, gib * _GIB, gpus, _GPU_OF[name[:2]])


MACHINES: dict[str, Machine] = {machine.name: machine for machine in _all()}
"""The types that are known here, by name; Compute Engine has more."""


def machine_named(name: str) -> Machine:
    """Return the machine of a type, as far as it is known here, or its name tells.

    Examples
    --------
    >>> machine_named("n2-standard-4").memory // 2**30
    16
    >>> machine_named("n2-custom-6-20480")
    Machine(name='n2-custom-6-20480', vcpus=6, memory=21474836480, gpus=0, gpu_type='', paid_vcpus=None)
    >>> machine_named("c4-standard-8").vcpus, machine_named("a3-highgpu-8g").gpus
    (8, None)
    """
    if known := MACHINES.get(name):
        return known
    if shared := _SHARED_CORE.get(name):
        return Machine(name, 2, shared[1] * _GIB, paid_vcpus=Decimal(shared[0]))
    gpus = None if _GPU_SERIES.fullmatch(name) else 0
    if custom := _CUSTOM.fullmatch(name):
        return Machine(name, int(custom[1]), int(custom[2]) * 2**20, gpus)
    predefined = _PREDEFINED.fullmatch(name)
    return Machine(name, int(predefined[1]) if predefined else None, None, gpus)


def attached_gpus(vcpus: int, gpus: int) -> int | None:
    """Return how many T4 are attached to a machine of series n1 for this many GPUs; None if it takes so many not."""
    return next((n for n, most in _T4_VCPUS.items() if n >= gpus and vcpus <= most), None)


def cheapest_machine(
    cpus: int, memory: int, gpus: int = 0, gpu_type: str | None = None
) -> Machine | None:
    """Return the cheapest type that has this many cores, bytes and GPUs; None if none of them has.

    The prices are those of us-central1; those of other regions are in nearly the same proportion.

    Examples
    --------
    >>> cheapest_machine(2, 0).name, cheapest_machine(2, 8 * 10**9).name, cheapest_machine(48, 0).name
    ('e2-highcpu-2', 'e2-highmem-2', 'n2d-highcpu-48')
    >>> cheapest_machine(4, 0, 1).name, cheapest_machine(4, 0, 1, "nvidia-tesla-t4").name
    ('g2-standard-4', 'n1-highcpu-4')
    """
    wanted = (gpu_type or "nvidia-l4") if gpus else ""

    def fits(machine: Machine) -> bool:
        vcpus, usable = machine.vcpus or 0, machine.usable or 0
        if vcpus < cpus or usable < memory:
            return False
        if wanted == "nvidia-tesla-t4":
            return machine.series == "n1" and attached_gpus(vcpus, gpus) is not None
        if wanted:
            return machine.gpu_type == wanted and (machine.gpus or 0) >= gpus
        return machine.series in _CHOSEN

    def price(machine: Machine) -> tuple[Decimal, int]:
        rate = table_rate(machine.series, machine.vcpus, machine.memory)
        return (rate or Decimal(0), machine.vcpus or 0)  # without a price, the smallest

    return min(filter(fits, MACHINES.values()), key=price, default=None)
