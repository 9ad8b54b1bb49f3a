"""The jobs of a run and the units in them, of which a job may have several."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from scalable.cluster.port import Phase, Reason, Unit, UnitState
from scalable.providers.slurm.jobfiles import WorkerEnd
from scalable.providers.slurm.output import SlurmJob
from scalable.providers.slurm.states import end_reason, pending_reason, phase_of

__all__ = ["Awaited", "Job", "Jobs", "first_workers", "log_name"]

_YOUNG = 60.0
"""Seconds within which a worker that ends by itself has not started well; tasks end it by a signal."""

_FAILURES = 2
"""One may be that of the worker."""


def first_workers(workers: int, room: int, element: int) -> int:
    """Return how many workers an element of an array begins with, of all workers of the array.

    Examples
    --------
    >>> [first_workers(20, 16, element) for element in range(2)]
    [16, 4]
    """
    return min(room, workers - room * element)


def log_name(unit: Unit) -> str:
    """Return the name of the log of a unit.

    Examples
    --------
    >>> log_name(Unit("gcam-7_0", "gcam", "r", "7_0")), log_name(Unit("gcam-7_0.3", "gcam", "r", "7_0"))
    ('7_0.log', '7_0.3.log')
    """
    return f"{unit.id.removeprefix(f'{unit.tag}-')}.log"


@dataclass
class Job:
    """One element of an array, and its units.

    Parameters
    ----------
    id : str
        ``<array job>_<element>``.
    tag : str
        The group.
    room : int
        Units that it can have at a time. With room for one, that is the job itself, as long as it lives.
    units : dict of int to Unit
        All units that it was ever to have, by number.
    ends : dict of int to WorkerEnd
        How those have ended that ended before the job.
    stopped : set of int
        Those that were asked to end.
    given : int
        How many numbers it has given to units.
    last : SlurmJob or None
        As Slurm showed it last.
    walltime : float or None
        Seconds that were left when it was first seen to run.
    """

    id: str
    tag: str
    room: int = 1
    units: dict[int, Unit] = field(default_factory=dict)
    ends: dict[int, WorkerEnd] = field(default_factory=dict)
    stopped: set[int] = field(default_factory=set)
    given: int = 0
    last: SlurmJob | None = None
    walltime: float | None = None

    def add(self, n: int, request_id: str) -> list[Unit]:
        """Add `n` units; return them."""
        numbers = range(self.given, self.given + n)
        self.given += n
        for number in numbers:
            suffix = "" if self.room == 1 else f".{number}"
            unit_id = f"{self.tag}-{self.id}{suffix}"
            self.units[number] = Unit(unit_id, self.tag, request_id, self.id)
        return [self.units[number] for number in numbers]

    def forget(self, units: Iterable[Unit]) -> None:
        """Forget units that it could not be asked to start."""
        for unit in units:
            number = self.number(unit)
            if number is not None:
                del self.units[number]

    def number(self, unit: Unit) -> int | None:
        """Return the number of a unit of this job; None where it has no such unit."""
        return next((number for number, each in self.units.items() if each == unit), None)

    def end_of(self, unit: Unit) -> WorkerEnd | None:
        """Return how a unit of this job has ended, if it has, and the job had not."""
        number = self.number(unit)
        return None if number is None else self.ends.get(number)

    @property
    def phase(self) -> Phase:
        """The phase of the job as a whole."""
        return Phase.PENDING if self.last is None else phase_of(self.last.state)

    @property
    def wanted(self) -> set[int]:
        """The numbers of the units that have not ended and were not asked to."""
        return self.units.keys() - self.ends.keys() - self.stopped

    @property
    def free(self) -> int:
        """How many more units it should be given: 0 where most of its walltime is over, or units failed early."""
        failures = sum(
            end.why != "stopped" and end.status > 0 and end.seconds < _YOUNG
            for end in self.ends.values()
        )
        if not self.wanted or self.phase is Phase.GONE or failures >= _FAILURES:
            return 0
        left = self.last.seconds_left if self.last is not None else None
        if left is not None and self.walltime is not None and left < self.walltime / 2:
            return 0
        if self.last is not None and self.last.state not in ("PENDING", "RUNNING"):
            return 0
        return self.room - len(self.wanted)

    def is_shown_by(self, job: SlurmJob) -> bool:
        """Return whether it is the job that Slurm shows under its id.

        A controller that has lost its state counts from the beginning again, and another job may be the user's own.
        """
        before = "" if self.last is None else self.last.name
        return not before or not job.name or before.split()[0] == job.name.split()[0]

    def see(self, job: SlurmJob) -> None:
        """Note how Slurm shows it."""
        self.last = job
        if self.walltime is None and phase_of(job.state) is Phase.RUNNING:
            self.walltime = job.seconds_left

    def states(self) -> Sequence[UnitState]:
        """Return the state of each of its units."""
        return [self._state(number, unit) for number, unit in self.units.items()]

    def _state(self, number: int, unit: Unit) -> UnitState:
        end, job = self.ends.get(number), self.last
        if end is not None:
            return UnitState(unit, Phase.GONE, end.reason, str(end))
        if job is None or self.phase is Phase.PENDING:
            if self.room > 1 and number in self.stopped:
                return UnitState(unit, Phase.GONE, Reason.STOPPED, "was stopped")
            # "None" until Slurm's scheduler has considered the job for the first time.
            reason = "None" if job is None else job.reason
            detail = "just submitted" if reason == "None" else reason
            return UnitState(unit, Phase.PENDING, pending_reason(reason), detail)
        if self.phase is Phase.RUNNING:
            return UnitState(
                unit,
                Phase.RUNNING,
                Reason.STARTING,
                f"on {job.node}",
                seconds_left=job.seconds_left,
            )
        return UnitState(unit, Phase.GONE, end_reason(job.state), job.state)


@dataclass
class Awaited:
    """An array that was submitted, and of which no job is known yet.

    Parameters
    ----------
    label : mapping of str to str
        The fields of its comment.
    workers : int
        How many workers it begins with.
    since : float
        When it was submitted.
    said : str
        What ``sbatch`` has printed in place of its id.
    """

    label: Mapping[str, str]
    workers: int
    since: float
    said: str


class Jobs:
    """All jobs of a run that are known, in the order in which they became known.

    Attributes
    ----------
    awaited : dict of str to Awaited
        Arrays of which none is known yet, by request id.
    found : dict of str to str
        The array that was found of a launch that has not told it, by request id.
    """

    def __init__(self) -> None:
        self._by_id: dict[str, Job] = {}
        self.awaited: dict[str, Awaited] = {}
        self.found: dict[str, str] = {}

    def __iter__(self) -> Iterator[Job]:
        return iter(self._by_id.values())

    def get(self, name: str) -> Job | None:
        """Return a job by its id; None where it is not known."""
        return self._by_id.get(name)

    def of(self, unit: Unit) -> Job | None:
        """Return the job of a unit; None where it is not known."""
        return self._by_id.get(unit.native)

    def add_array(self, array: str, tag: str, n: int, room: int, request_id: str) -> list[Unit]:
        """Add the jobs of an array that begins with `n` workers; return their units."""
        if self.found.get(request_id) == array:
            del self.found[request_id]
        units: list[Unit] = []
        for element in range(-(-n // room)):
            job = self._add(f"{array}_{element}", tag, room)
            if not job.units:
                job.add(first_workers(n, room, element), request_id)
            units += job.units.values()
        return units

    def add_found(self, name: str, label: Mapping[str, str]) -> Job:
        """Add a job that was found, if sbatch's answer was lost, by the fields of its comment or script."""
        room, workers = int(label.get("room", 1)), int(label.get("workers", 1))
        job = self._add(name, label["tag"], room)
        array, element = name.partition("_")[0], int(name.partition("_")[2])
        self.found[label["request"]] = array
        job.add(first_workers(workers, room, element) if room > 1 else 1, label["request"])
        self.awaited.pop(label["request"], None)
        return job

    def _add(self, name: str, tag: str, room: int) -> Job:
        return self._by_id.setdefault(name, Job(name, tag, room))
