"""The size of a machine, from the name of its machine type."""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Machine", "read_machine_type"]

# https://cloud.google.com/compute/docs/machine-resource#naming_convention
_PREDEFINED = re.compile(
    r"[a-z0-9]+-(?:standard|highmem|highcpu|megamem|ultramem|hypermem)-([0-9]+)(?:-.+)?"
)
_CUSTOM = re.compile(r"(?:[a-z0-9]+-)?custom-([0-9]+)-([0-9]+)(?:-ext)?")
# https://cloud.google.com/compute/docs/gpus: the series that come with GPUs.
_WITH_GPU = re.compile(r"(?:a[234]x?|g[24])-.+")


class Machine(NamedTuple):
    """A machine, as far as the name of its type describes it.

    Parameters
    ----------
    vcpus : int or None
        vCPUs; None if they are not in the name.
    memory : int or None
        Bytes; None if it is not in the name.
    has_gpu : bool
        Whether the type comes with GPUs.
    """

    vcpus: int | None
    memory: int | None
    has_gpu: bool


def read_machine_type(name: str) -> Machine:
    """Return the machine that the name of a machine type describes.

    Examples
    --------
    >>> read_machine_type("n2-standard-4")
    Machine(vcpus=4, memory=None, has_gpu=False)
    >>> read_machine_type("n2-custom-6-20480")
    Machine(vcpus=6, memory=21474836480, has_gpu=False)
    >>> read_machine_type("a2-highgpu-1g")
    Machine(vcpus=None, memory=None, has_gpu=True)
    """
    has_gpu = _WITH_GPU.fullmatch(name) is not None
    if custom := _CUSTOM.fullmatch(name):
        return Machine(int(custom[1]), int(custom[2]) * 2**20, has_gpu)
    predefined = _PREDEFINED.fullmatch(name)
    return Machine(int(predefined[1]) if predefined else None, None, has_gpu)
