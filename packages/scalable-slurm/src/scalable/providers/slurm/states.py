"""Slurm's job states and reasons, in the engine's vocabulary."""

from __future__ import annotations

import signal

from scalable.cluster.port import Phase, Reason

__all__ = ["describe_exit", "end_reason", "pending_reason", "phase_of", "was_signalled"]

# https://slurm.schedmd.com/squeue.html#SECTION_JOB-STATE-CODES, in the long form of squeue's %T.
_PENDING = frozenset(
    {
        "PENDING",
        "REQUEUED",
        "REQUEUE_HOLD",
        "REQUEUE_FED",
        "SPECIAL_EXIT",
        "RESV_DEL_HOLD",
        "EXPEDITING",
        "POWER_UP_NODE",
        "RECONFIG_FAIL",
    }
)

_ENDED = {
    "COMPLETED": Reason.EXITED,
    "FAILED": Reason.EXITED,
    "CANCELLED": Reason.CANCELLED,
    "REVOKED": Reason.CANCELLED,
    "TIMEOUT": Reason.WALLTIME,
    "DEADLINE": Reason.WALLTIME,
    "OUT_OF_MEMORY": Reason.OUT_OF_MEMORY,
    "PREEMPTED": Reason.PREEMPTED,
    "NODE_FAIL": Reason.NODE_FAILURE,
    "BOOT_FAIL": Reason.NODE_FAILURE,
    "LAUNCH_FAILED": Reason.NODE_FAILURE,
}

# https://slurm.schedmd.com/job_reason_codes.html. Others are recognized by their prefix, below.
_WAITING = {
    "Priority": Reason.PRIORITY,
    "Resources": Reason.RESOURCES,
    "BeginTime": Reason.PRIORITY,
    "Dependency": Reason.PRIORITY,
    "ReqNodeNotAvail": Reason.RESOURCES,
    "Nodes_required_for_job_are_DOWN,_DRAINED_or_reserved_for_jobs_in_higher_priority_partitions": Reason.RESOURCES,
    "NodeDown": Reason.RESOURCES,
    "Licenses": Reason.RESOURCES,
    "Reservation": Reason.PRIORITY,
    "Prolog": Reason.STARTING,
    "None": Reason.PRIORITY,
    "JobArrayTaskLimit": Reason.QUOTA,
    "PartitionTimeLimit": Reason.UNSCHEDULABLE,
    "PartitionNodeLimit": Reason.UNSCHEDULABLE,
    "PartitionDown": Reason.UNSCHEDULABLE,
    "PartitionInactive": Reason.UNSCHEDULABLE,
    "BadConstraints": Reason.UNSCHEDULABLE,
    "DependencyNeverSatisfied": Reason.UNSCHEDULABLE,
    "ReservationDeleted": Reason.UNSCHEDULABLE,
    "InvalidAccount": Reason.CREDENTIALS,
    "InvalidQOS": Reason.CREDENTIALS,
    "AccountNotAllowed": Reason.CREDENTIALS,
    "job_requeued_in_held_state": Reason.CANCELLED,
    "launch_failed_requeued_held": Reason.NODE_FAILURE,
    "JobHeldUser": Reason.CANCELLED,
    "JobHeldAdmin": Reason.CANCELLED,
}

# QOSMaxCpuPerUserLimit, AssocGrpNodeLimit, MaxJobsPerAccount and many more.
_LIMITS = ("QOS", "Assoc", "Max")


def phase_of(state: str) -> Phase:
    """Return the phase of a job from its state (``squeue``'s %T, or a State of ``sacct``).

    A state that is not known, as of a version to come, is not the end of a job.

    Examples
    --------
    >>> [str(phase_of(state)) for state in ("PENDING", "COMPLETING", "NODE_FAIL", "LEVITATING")]
    ['pending', 'running', 'gone', 'running']
    """
    if state in _PENDING:
        return Phase.PENDING
    return Phase.GONE if state in _ENDED else Phase.RUNNING


def pending_reason(reason: str) -> Reason:
    """Return the normalised reason why a job is pending (``squeue``'s %r).

    Examples
    --------
    >>> [str(pending_reason(r)) for r in ("Priority", "QOSMaxCpuPerUserLimit", "ReqNodeNotAvail, Reserved", "Cosmic")]
    ['priority', 'quota', 'resources', 'unknown']
    >>> text = "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions"
    >>> str(pending_reason(text))
    'resources'
    """
    # The longest reason has blanks in some versions: "Nodes required for job are DOWN, DRAINED or reserved for jobs …".
    whole = reason.replace(" ", "_")
    code = whole if whole in _WAITING else reason.partition(",")[0].strip()
    if code in _WAITING:
        return _WAITING[code]
    return Reason.QUOTA if code.startswith(_LIMITS) else Reason.UNKNOWN


def end_reason(state: str) -> Reason:
    """Return the normalised reason why a job ended (``squeue``'s %T, or a State of ``sacct``: ``CANCELLED by 1000``).

    Examples
    --------
    >>> [str(end_reason(state)) for state in ("TIMEOUT", "CANCELLED by 1000", "FAILED")]
    ['walltime', 'cancelled', 'exited']
    """
    return _ENDED.get(state.split(" ")[0].rstrip("+"), Reason.UNKNOWN)


def describe_exit(exit_code: str) -> str:
    """Return how a job ended, from its ExitCode: status and signal, of which the shell adds 128 to the signal.

    Examples
    --------
    >>> [describe_exit(code) for code in ("3:0", "0:11", "139:0", "0:9", "")]
    ['ended with exit code 3', 'crashed with SIGSEGV', 'crashed with SIGSEGV', 'was ended by SIGKILL', 'has ended']
    """
    code, _, number = exit_code.partition(":")
    status = int(code) if code.isdigit() else 0
    by = int(number) if number.isdigit() and int(number) else max(0, status - 128)
    try:
        name = signal.Signals(by).name
    except ValueError:
        if not code:
            return "has ended"
        return f"ended with exit code {code}" + (f", signal {number}" if int(number or 0) else "")
    outside = by in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    return f"was ended by {name}" if outside else f"crashed with {name}"


def was_signalled(exit_code: str) -> bool:
    """Return whether a signal has ended a job, by its ExitCode. Slurm itself has numbers there that are none.

    Examples
    --------
    >>> [was_signalled(code) for code in ("0:9", "0:53", "1:0", "")]
    [True, False, False, False]
    """
    number = exit_code.partition(":")[2]
    return number.isdigit() and 0 < int(number) < signal.SIGRTMIN
