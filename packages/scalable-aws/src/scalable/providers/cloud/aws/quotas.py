"""The quotas of vCPUs that a run needs. Pure functions and data."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import NamedTuple

from scalable.providers.cloud.aws.fargate import UNITS_PER_VCPU
from scalable.providers.cloud.aws.options import AWSOptions
from scalable.providers.cloud.aws.request import WorkerRequest

__all__ = ["Quota", "fargate_quotas", "instance_quotas"]


class Quota(NamedTuple):
    """A quota of vCPUs.

    Parameters
    ----------
    code : str
        Its code.
    service : str
        The code of its service.
    kind : str
        Of what.
    """

    code: str
    service: str
    kind: str


# https://docs.aws.amazon.com/AmazonECS/latest/developerguide/service-quotas.html
_FARGATE = {
    False: Quota("L-3032A538", "fargate", "Fargate"),
    True: Quota("L-36FBB829", "fargate", "Fargate Spot"),
}
# https://docs.aws.amazon.com/ec2/latest/instancetypes/ec2-instance-quotas.html: by the letter of a family, on demand
# and on spare capacity. Other families have quotas of their own.
_STANDARD = ("L-1216C47A", "L-34B43A08", "standard instances")
_INSTANCES = {
    **dict.fromkeys("acdhimrtz", _STANDARD),
    "g": ("L-DB2E81BA", "L-3819A6DF", "G and VT instances"),
    "vt": ("L-DB2E81BA", "L-3819A6DF", "G and VT instances"),
    "p": ("L-417A185B", "L-7212CCBC", "P instances"),
}
_FAMILY = re.compile(r"[a-z]+")


def fargate_quotas(
    options: AWSOptions, requests: Iterable[WorkerRequest], counts: Mapping[str, int]
) -> dict[Quota, Decimal]:
    """Return how many vCPUs scheduler and workers take of each quota, as Fargate tasks."""
    workers = sum(
        (
            request.task.vcpus * counts.get(request.tag, 0)
            for request in requests
            if request.task is not None
        ),
        Decimal(0),
    )
    scheduler = Decimal(options.scheduler_cpu) / UNITS_PER_VCPU
    if options.spot and workers:
        return {_FARGATE[True]: workers, _FARGATE[False]: scheduler}
    return {_FARGATE[False]: workers + scheduler}


def instance_quotas(
    options: AWSOptions,
    machines: Mapping[str, str],
    vcpus: Mapping[str, int],
    counts: Mapping[str, int],
) -> dict[Quota, Decimal]:
    """Return how many vCPUs scheduler and workers take of each quota, as EC2 instances.

    Parameters
    ----------
    options : AWSOptions
        The target's options.
    machines : mapping of str to str
        The type of instance of each group.
    vcpus : mapping of str to int
        The vCPUs of each type.
    counts : mapping of str to int
        How many workers there are of each group.

    Examples
    --------
    >>> options = AWSOptions(cluster_type="ec2", spot=True)
    >>> vcpus = {"t3.medium": 2, "g5.xlarge": 4}
    >>> for quota, n in instance_quotas(options, {"gcam": "g5.xlarge"}, vcpus, {"gcam": 3}).items():
    ...     print(n, quota.kind, quota.code)
    2 standard instances L-1216C47A
    12 G and VT instances on spare capacity L-3819A6DF
    """
    if options.scheduler_type == "fargate":
        wanted = fargate_quotas(options, (), counts)
        every = []
    else:
        wanted, every = {}, [(options.scheduler_instance_type, 1, False)]
    every += [(machine, counts.get(tag, 0), options.spot) for tag, machine in machines.items()]
    for machine, n, spot in every:
        quota = _instance_quota(machine, spot=spot)
        if quota is not None:
            wanted[quota] = wanted.get(quota, Decimal(0)) + n * vcpus[machine]
    return wanted


def _instance_quota(machine: str, *, spot: bool) -> Quota | None:
    family = _FAMILY.match(machine)
    known = _INSTANCES.get(family[0]) if family else None
    if known is None:
        return None
    on_demand, spare, kind = known
    return (
        Quota(spare, "ec2", f"{kind} on spare capacity") if spot else Quota(on_demand, "ec2", kind)
    )
