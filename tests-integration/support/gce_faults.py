"""What goes wrong between a client and Compute Engine, and the calls that were made."""

from __future__ import annotations

import fnmatch
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from gce_rules import RefusedError

_PERMISSIONS = {
    "projects.get": ("compute.projects.get",),
    "zones.list": ("compute.zones.list",),
    "instances.bulkInsert": ("compute.instances.create", "compute.disks.create"),
    "instances.delete": ("compute.instances.delete",),
    "instances.get": ("compute.instances.get",),
    "instances.list": ("compute.instances.list",),
    "instances.aggregatedList": ("compute.instances.list",),
    "instances.getSerialPortOutput": ("compute.instances.getSerialPortOutput",),
    "zoneOperations.get": ("compute.zoneOperations.get",),
    "zoneOperations.list": ("compute.zoneOperations.list",),
}
"""What a caller must be allowed for the calls of a run."""


class AnswerLostError(Exception):
    """The connection breaks, and the client gets no answer."""


@dataclass(frozen=True)
class Call:
    """A call that a client has made.

    Parameters
    ----------
    method : str
        Its name in the API: ``instances.bulkInsert``.
    path, query : str
        What was asked for.
    at : float
        When, by `time.monotonic`.
    """

    method: str
    path: str
    query: str
    at: float


@dataclass
class CallFault:
    """A fault of some calls; see `gce_project.GceProject.fault`."""

    method: str
    status: int | None
    reason: str
    times: float
    skip: int
    after: bool
    before: Callable[[], None] | None


@dataclass
class Traffic:
    """The calls of clients, and the faults that tests have set.

    Parameters
    ----------
    log : list of Call
        The calls, in their order.
    faults : list of CallFault
        What goes wrong.
    denied : set of str
        What callers may not do: ``compute.instances.create``.
    most_at_once : Counter of str
        How many calls of each method were under way at once, at most.
    unknown : list of str
        Requests of which tests know no method.
    """

    log: list[Call] = field(default_factory=list)
    faults: list[CallFault] = field(default_factory=list)
    denied: set[str] = field(default_factory=set)
    most_at_once: Counter[str] = field(default_factory=Counter)
    unknown: list[str] = field(default_factory=list)
    _now: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            for each in (self.log, self.faults, self.denied, self.most_at_once, self.unknown):
                each.clear()

    def log_unknown(self, request: str) -> None:
        """Note a request of which tests know no method."""
        with self._lock:
            self.unknown.append(request)

    def begin(self, method: str, path: str, query: str) -> CallFault | None:
        """Note a call, and return its fault if it has one."""
        with self._lock:
            self.log.append(Call(method, path, query, time.monotonic()))
            self._now[method] += 1
            self.most_at_once[method] = max(self.most_at_once[method], self._now[method])
            for fault in self.faults:
                if not fnmatch.fnmatchcase(method, fault.method) or fault.times <= 0:
                    continue
                if fault.skip:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                return fault
        return None

    def end(self, method: str) -> None:
        """Note that a call was answered."""
        with self._lock:
            self._now[method] -= 1

    def check_allowed(self, method: str, path: str) -> None:
        """Refuse a call for which the caller lacks a permission."""
        for permission in _PERMISSIONS.get(method, ()):
            if permission in self.denied:
                what = path.removeprefix("/compute/v1/")
                message = f"Required '{permission}' permission for '{what}'"
                raise RefusedError(403, "forbidden", message)


def fail(fault: CallFault) -> None:
    """Let a call fail."""
    if fault.status is None:
        raise AnswerLostError
    raise RefusedError(fault.status, fault.reason, f"A fault of a test: {fault.reason}")
