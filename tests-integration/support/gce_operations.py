"""Operations of zones: what Compute Engine does after it has answered, and how it tells what became of it."""

from __future__ import annotations

import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from gce_rules import BASE, require


@dataclass(frozen=True)
class Fault:
    """What went wrong in an operation: a code such as ``QUOTA_EXCEEDED``, a message, a status of HTTP."""

    code: str
    message: str
    status: int


Effect = Callable[[dict[str, Any]], Iterable[Fault]]
"""Does what an operation is for, may add to it, and returns what went wrong."""


class Operations:
    """The operations of a project.

    Parameters
    ----------
    project : str
        Its id.
    """

    def __init__(self, project: str) -> None:
        self.delay = 0.1
        self._project = project
        self._lock = threading.Lock()
        self._all: dict[str, dict[str, Any]] = {}
        self._requests: dict[str, tuple[object, dict[str, Any]]] = {}

    def clear(self) -> None:
        """Forget all that are over."""
        with self._lock:
            self._all = {k: v for k, v in self._all.items() if v["status"] != "DONE"}
            self._requests.clear()

    def repeated(self, request_id: str | None, request: object) -> dict[str, Any] | None:
        """Return the operation of an earlier request with this id, if there was one; it must have been the same."""
        with self._lock:
            if request_id is None or request_id not in self._requests:
                return None
            first, operation = self._requests[request_id]
            require(first == request, "requestId", request_id, "It was of another request.")
            return dict(operation)

    def of(self, zone: str) -> list[dict[str, Any]]:
        """Return those of a zone."""
        with self._lock:
            return [dict(each) for each in self._all.values() if each["zone"].endswith(f"/{zone}")]

    def unfinished(self, *kinds: str) -> list[str]:
        """Return the names of those of some kinds that are under way."""
        with self._lock:
            return [
                f"{each['operationType']} {each['name']}"
                for each in self._all.values()
                if each["status"] != "DONE" and each["operationType"] in kinds
            ]

    def record(
        self, kind: str, zone: str, target: str, faults: Iterable[Fault] = (), group: str = ""
    ) -> None:
        """Add one that is over at once, such as Compute Engine makes itself."""
        self._finish(self._new(kind, zone, target, group), faults)

    def start(
        self,
        kind: str,
        zone: str,
        target: str,
        effect: Effect,
        *,
        request_id: str | None = None,
        request: object = None,
    ) -> dict[str, Any]:
        """Start one, and return it as it is when the request is answered: pending.

        Parameters
        ----------
        kind : str
            ``bulkInsert``, ``delete``.
        zone, target : str
            Where, and the name of the instance that it is about, if it is about one.
        effect : callable
            What it does.
        request_id : str, optional
            By which a repetition of the request is known.
        request : object
            What must be the same in a repetition.
        """
        operation = self._new(kind, zone, target, "")
        if request_id is not None:
            operation["clientOperationId"] = request_id
        answer = dict(operation)
        if request_id is not None:
            with self._lock:
                self._requests[request_id] = request, operation
        run = threading.Thread(target=self._run, args=(operation, effect), daemon=True)
        run.start()
        return answer

    def _new(self, kind: str, zone: str, target: str, group: str) -> dict[str, Any]:
        url = f"{BASE}projects/{self._project}/zones/{zone}"
        key = uuid.uuid4()
        operation: dict[str, Any] = {
            "kind": "compute#operation",
            "id": str(key.int % 10**18),
            "name": f"operation-{key.hex}",
            "zone": url,
            "operationType": kind,
            "operationGroupId": group or str(uuid.uuid4()),
            "targetLink": f"{url}/instances/{target}" if target else url,
            "status": "PENDING",
            "progress": 0,
            "insertTime": datetime.now(UTC).isoformat(timespec="milliseconds"),
        }
        with self._lock:
            self._all[operation["name"]] = operation
        return operation

    def _run(self, operation: dict[str, Any], effect: Effect) -> None:
        time.sleep(self.delay)
        with self._lock:
            operation["status"] = "RUNNING"
        try:
            faults = [*effect(operation)]
        except Exception:  # noqa: BLE001 - a fault of the tests is shown where they look
            faults = [Fault("INTERNAL_ERROR", traceback.format_exc(), 500)]
        self._finish(operation, faults)

    def _finish(self, operation: dict[str, Any], faults: Iterable[Fault]) -> None:
        errors = [{"code": fault.code, "message": fault.message} for fault in faults]
        statuses = [fault.status for fault in faults]
        with self._lock:
            if errors:
                operation["error"] = {"errors": errors}
                operation["httpErrorStatusCode"] = statuses[0]
                operation["httpErrorMessage"] = errors[0]["code"]
            operation.update(status="DONE", progress=100)
            operation["endTime"] = datetime.now(UTC).isoformat(timespec="milliseconds")
