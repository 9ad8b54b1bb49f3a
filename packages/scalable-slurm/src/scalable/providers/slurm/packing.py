"""How many workers of a component one job runs: as many as fit, where a job gets whole nodes."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from scalable.providers.slurm.directives import is_exclusive
from scalable.providers.slurm.sbatch import asked_for, sbatch_argv

if TYPE_CHECKING:
    from scalable.providers.slurm.commands import Slurm
    from scalable.providers.slurm.request import JobRequest

__all__ = ["NODE_FORMAT", "NodeShape", "pack", "parse_nodes", "reduce_room", "workers_that_fit"]

logger = logging.getLogger("scalable.providers.slurm")

_ANSWER_WITHIN = 20.0
"""Seconds for what is only asked to use nodes better: a launch waits for it."""

# Partition (the default one has a star), whether jobs share nodes, CPUs, MiB, generic resources, features.
NODE_FORMAT = "%P|%h|%c|%m|%G|%f"


@dataclass(frozen=True)
class NodeShape:
    """One kind of node of a partition, as ``sinfo`` shows it.

    Parameters
    ----------
    partition : str
        The partition.
    is_default, is_exclusive : bool
        Whether jobs get into the partition by default, and whether each gets nodes for itself.
    cpus, gpus : int
        What a node has.
    memory : int
        In bytes.
    features : frozenset of str
        For constraints.
    """

    partition: str
    is_default: bool
    is_exclusive: bool
    cpus: int
    gpus: int
    memory: int
    features: frozenset[str]


def parse_nodes(text: str) -> list[NodeShape]:
    r"""Parse the output of ``sinfo --exact`` with `NODE_FORMAT`.

    Examples
    --------
    >>> (node,) = parse_nodes("Welcome!\nexcl*|EXCLUSIVE|128|256000|gpu:a100:4(S:0-1)|skylake,ib\n")
    >>> node.is_default, node.is_exclusive, node.cpus, node.gpus, sorted(node.features)
    (True, True, 128, 4, ['ib', 'skylake'])
    """
    found = []
    for line in text.splitlines():
        fields = line.strip().split("|")
        if len(fields) != len(NODE_FORMAT.split("|")):
            continue
        partition, sharing, cpus, memory, generic, features = fields
        cpus, memory = (
            cpus.rstrip("+"),
            memory.rstrip("+"),
        )  # of nodes that differ: the least of them
        if not (cpus.isdigit() and memory.isdigit()):
            continue
        gpus = re.findall(r"\bgpu(?::[^,:()]+)?:(\d+)", generic)
        found.append(
            NodeShape(
                partition.rstrip("*"),
                partition.endswith("*"),
                sharing.upper() == "EXCLUSIVE",
                int(cpus),
                sum(map(int, gpus)),
                int(memory) * 2**20,
                frozenset(features.split(",")),
            )
        )
    return found


def workers_that_fit(
    request: JobRequest,
    nodes: Sequence[NodeShape],
    *,
    always_whole: bool = False,
    environ: Mapping[str, str] | None = None,
) -> int:
    r"""Return how many workers one job should run: 1, or as many as fit on the smallest node that has room for one.

    Parameters
    ----------
    request : JobRequest
        One of the workers.
    nodes : sequence of NodeShape
        The nodes of the cluster.
    always_whole : bool, optional
        Whether all jobs get nodes for themselves.
    environ : mapping of str to str, optional
        Variables from which ``sbatch`` takes what neither the request nor its directives say.

    Examples
    --------
    >>> from scalable.providers.slurm.request import JobRequest
    >>> nodes = parse_nodes("excl|EXCLUSIVE|16|64000|(null)|(null)\nshort*|NO|16|64000|(null)|(null)")
    >>> [workers_that_fit(JobRequest("a", "/l", cpus=3, partition=name), nodes) for name in ("excl", None)]
    [5, 1]
    """
    environ = environ or {}
    argv = sbatch_argv(request, 1, job_name="", comment="")
    partition = asked_for(argv, "partition", environ)
    constraint = asked_for(argv, "constraint", environ)
    wanted = partition.split(",") if partition else None
    candidates = [
        node
        for node in nodes
        if (node.is_default if wanted is None else node.partition in wanted)
        and _may_match(constraint, node.features)
    ]
    whole = (
        always_whole
        or is_exclusive(argv, environ)
        or (bool(candidates) and all(node.is_exclusive for node in candidates))
    )
    counts = [count for node in candidates if (count := _fitting(request, node))]
    return min(counts) if whole and counts else 1


def _may_match(constraint: str | None, features: Iterable[str]) -> bool:
    """Return whether nodes with these features may match; other constraints than one feature are not looked into."""
    return constraint is None or not re.fullmatch(r"\w+", constraint) or constraint in features


def _fitting(request: JobRequest, node: NodeShape) -> int:
    counts = [node.cpus // request.cpus]
    if request.memory:
        counts.append(node.memory // request.memory)
    if request.gpus:
        counts.append(node.gpus // request.gpus)
    return min(counts)


async def pack(slurm: Slurm, request: JobRequest) -> JobRequest:
    """Return a request with the number of workers of one job, for which Slurm is asked where it is to be ``auto``.

    It is still ``auto``, and one worker, where Slurm does not tell.
    """
    from scalable.providers.slurm.commands import SlurmCommandError

    if request.workers_per_job != "auto":
        return request
    try:
        async with asyncio.timeout(_ANSWER_WITHIN):
            nodes = await slurm.nodes()
            always_whole = await slurm.gives_whole_nodes()
    except (SlurmCommandError, TimeoutError) as error:
        text = (
            "%s: one worker in each job, because it is not known whether jobs get whole nodes: %s"
        )
        why = str(error) or f"sinfo or scontrol has not answered for {_ANSWER_WITHIN:g} s"
        logger.warning(text, request.tag, why)
        return request
    count = workers_that_fit(request, nodes, always_whole=always_whole, environ=os.environ)
    return replace(request, workers_per_job=count)


async def reduce_room(slurm: Slurm, request: JobRequest) -> JobRequest | None:
    """Return a request with as many workers in one job as Slurm accepts, where it refuses as many as seemed to fit.

    A site may keep memory or cores of nodes for itself, or limit what a job gets of them, which sinfo does not show.

    Parameters
    ----------
    slurm : Slurm
        Runs the commands.
    request : JobRequest
        What it refuses.

    Returns
    -------
    JobRequest or None
        None where it would refuse one worker, too, or does not tell.
    """
    from scalable.providers.slurm.commands import NoAnswerError, SlurmCommandError

    accepted, refused = 0, request.room
    while refused - accepted > 1:
        room = (accepted + refused) // 2 if accepted else 1
        smaller = replace(request, workers_per_job=room)
        try:
            await slurm.test_only(sbatch_argv(smaller, 1, job_name="scalable-check", comment=""))
        except NoAnswerError:
            return None
        except SlurmCommandError:
            if not accepted:
                return None
            refused = room
        else:
            accepted = room
    return replace(request, workers_per_job=accepted) if accepted else None
