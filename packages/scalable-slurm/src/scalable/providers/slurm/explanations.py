"""Why a unit waits, runs or has ended, for users: from its job, the record that Slurm has of it, and its log.

Pure functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from scalable.cluster.port import Explanation, Phase, Reason, Unit
from scalable.manifest.units import format_memory
from scalable.providers.slurm.jobfiles import WorkerEnd
from scalable.providers.slurm.nodes import LEFT_OUT_FOR
from scalable.providers.slurm.output import SlurmJob, node_names
from scalable.providers.slurm.states import (
    describe_exit,
    end_reason,
    pending_reason,
    phase_of,
    was_signalled,
)

__all__ = ["Log", "explain_job", "explain_worker_end", "with_left_out"]


@dataclass(frozen=True)
class Log:
    """The log of a unit.

    Parameters
    ----------
    path : Path
        Where it is, as this machine sees it.
    tail : str
        Its last lines; empty where there is none.
    """

    path: Path
    tail: str = ""

    @property
    def remedy(self) -> str:
        """What the user may do with it."""
        return f"its log is {self.path}" if self.tail else ""


def explain_job(
    unit: Unit, last: SlurmJob | None, record: Mapping[str, str], memory: int | None, log: Log
) -> Explanation:
    """Explain a unit by its job.

    Parameters
    ----------
    unit : Unit
        The unit.
    last : SlurmJob or None
        Its job, as ``squeue`` showed it last.
    record : mapping of str to str
        The record of the job that the controller or accounting has; empty if there is none.
    memory : int or None
        What it requested, in bytes.
    log : Log
        Its log, or that of its job.

    Examples
    --------
    >>> unit, log = Unit("gcam-7_0", "gcam", "request", "7_0"), Log(Path("/logs/7_0.log"))
    >>> explain_job(unit, None, {"JobState": "TIMEOUT", "NodeList": "node1"}, None, log).summary
    'job 7_0 reached its walltime on node1'
    >>> explain_job(unit, None, {"JobState": "PENDING", "Reason": "Priority"}, None, log).summary
    'job 7_0 waits: Priority'
    >>> explain_job(unit, SlurmJob("7_0", "RUNNING", "None", None, "node1", ""), {}, None, log).summary
    'Slurm has no record of job 7_0, which was RUNNING when last seen'
    """
    state = record.get("JobState", "").split(" ")[0]
    if not state and last is not None and phase_of(last.state) is Phase.GONE:
        state = last.state
    if not state:
        # Slurm has dropped the job's record, or does not answer.
        seen = f", which was {last.state} when last seen" if last else ""
        summary = f"Slurm has no record of job {unit.native}{seen}"
        return Explanation(Reason.UNKNOWN, summary, log_tail=log.tail)
    phase = phase_of(state)
    if phase is Phase.PENDING:
        why = record.get("Reason", "None")
        return Explanation(pending_reason(why), f"job {unit.native} waits: {why}", native=why)
    if phase is Phase.RUNNING:
        summary = f"job {unit.native} runs on {record.get('NodeList', 'a node')}"
        return Explanation(Reason.STARTING, summary, native=state, log_tail=log.tail)
    return _explain_end(unit, state, record, memory, log)


def _explain_end(
    unit: Unit, state: str, record: Mapping[str, str], memory: int | None, log: Log
) -> Explanation:
    reason = end_reason(state)
    how = {
        Reason.WALLTIME: "reached its walltime",
        Reason.OUT_OF_MEMORY: f"used more memory than {_amount(memory, 'it requested')}",
        Reason.NODE_FAILURE: "lost its node",
        Reason.PREEMPTED: "was preempted",
        Reason.CANCELLED: "was cancelled",
    }.get(reason, describe_exit(record.get("ExitCode", "")))
    remedy = {
        Reason.WALLTIME: "request a longer walltime",
        Reason.OUT_OF_MEMORY: _MORE_MEMORY,
    }.get(reason, "")
    if record.get("Reason") == "JobLaunchFailure" and not was_signalled(record.get("ExitCode", "")):
        # Slurm could not open the log, usually because the node does not see its directory. It gives the same reason
        # for jobs that a signal has ended.
        how = "could not be started"
        remedy = "check that logs_location is on a file system that the nodes share"
    return Explanation(
        reason,
        f"job {unit.native} {how}{_on(record.get('NodeList', ''))}",
        native=state,
        log_tail=log.tail,
        remedy=_join(remedy, log.remedy),
    )


def explain_worker_end(
    unit: Unit, end: WorkerEnd, node: str, memory: int | None, log: Log
) -> Explanation:
    """Explain the end of one worker of a job with several.

    Examples
    --------
    >>> unit, log = Unit("gcam-7_0.3", "gcam", "request", "7_0"), Log(Path("/logs/7_0.3.log"))
    >>> explain_worker_end(unit, WorkerEnd(-9, 61, "memory"), "node1", 2**30, log).summary
    'worker gcam-7_0.3 used more memory than its 1Gi on node1'
    """
    how, remedy = str(end), ""
    if end.reason is Reason.OUT_OF_MEMORY:
        how, remedy = f"used more memory than {_amount(memory, 'there is')}", _MORE_MEMORY
    return Explanation(
        end.reason,
        f"worker {unit.id} {how}{_on(node)}",
        log_tail=log.tail,
        remedy=_join(remedy, log.remedy),
    )


def with_left_out(why: Explanation, node: str, left_out: Sequence[str]) -> Explanation:
    """Return the explanation of a unit, which also says if its node is one of those that new workers do not get."""
    names = [name for name in node_names(node) if name in left_out]
    if not names:
        return why
    text = f"workers fail to start on {', '.join(names)}, so new ones are kept off it for {LEFT_OUT_FOR:g} s"
    return replace(why, remedy=_join(text, why.remedy))


_MORE_MEMORY = "give the component more memory"


def _amount(memory: int | None, unknown: str) -> str:
    return unknown if memory is None else f"its {format_memory(memory)}"


def _on(node: str) -> str:
    return f" on {node}" if node else ""


def _join(*remedies: str) -> str:
    return "; ".join(filter(None, remedies))
