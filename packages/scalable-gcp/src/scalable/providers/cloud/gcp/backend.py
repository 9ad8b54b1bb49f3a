"""The engine's port: workers as machines of Compute Engine."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from scalable.cluster.port import (
    Explanation,
    GroupSpec,
    LaunchResult,
    Leftover,
    Phase,
    Reason,
    Unit,
    UnitState,
)
from scalable.errors import LaunchError, LaunchRefusedError, NativeTimeoutError
from scalable.providers.cloud.gcp.api import GceError, GceUnreachableError
from scalable.providers.cloud.gcp.instances import MAX_METADATA, metadata_size, worker_body
from scalable.providers.cloud.gcp.names import REQUEST, RUN, TAG, native_request, worker_names
from scalable.providers.cloud.gcp.refusals import (
    explain_refusal,
    is_expired,
    is_lasting,
    is_transient,
    makes_nothing,
    tells_of_all_attempts,
)
from scalable.providers.cloud.gcp.removal import delete_run
from scalable.providers.cloud.gcp.states import (
    NativeState,
    console_tail,
    end_in_console,
    machine_state,
)
from scalable.providers.labels import dns_label

if TYPE_CHECKING:
    from scalable.providers.cloud.gcp.api import GceApi
    from scalable.providers.cloud.gcp.request import WorkerRequest
    from scalable.providers.cloud.gcp.scheduler import Place

__all__ = ["GceBackend"]

_LONGEST_PAUSE = 8.0
"""Seconds for which machines that no zone has are shown as pending at most, before they are requested again."""

_JOINED = "Registered to"
"""What a worker of Dask writes when it has joined; its console is not of interest from then on."""


@dataclass
class _Creation:
    """The machines of one launch, as long as they are being created.

    Parameters
    ----------
    tag, request_id : str
        The group, and the launch.
    names : list of str
        The machines that no zone has been found for yet.
    zone : int
        The zone that is tried, by its number.
    operation : str
        The operation of bulkInsert in this zone; empty before it is accepted.
    is_unclear : bool
        Whether this zone was asked, and it is not known what has come of it.
    """

    tag: str
    request_id: str
    names: list[str]
    zone: int = 0
    operation: str = ""
    is_unclear: bool = False


@dataclass
class _Machine:
    """What is known of one machine."""

    unit: Unit
    zone: str
    accepted: float
    is_creating: bool = True
    is_stopped: bool = False
    has_joined: bool = False
    console: str = ""
    read_at: float = 0.0
    """When its console was read last."""
    shown_from: float = 0.0
    """When its end is shown as such."""
    end: NativeState | None = field(default=None)


class GceBackend:
    """Runs workers as machines: one bulkInsert for a launch and zone, one list for each zone and observation.

    Parameters
    ----------
    api : GceApi
        Compute Engine.
    place : Place
        The run, and where its machines are.
    requests : mapping of str to WorkerRequest
        What the workers of each group are, by tag.
    scheduler, scheduler_machine : str
        The scheduler's address for workers, and its machine, which is no worker.
    close_timeout : float
        Seconds for the end of all workers.
    """

    def __init__(
        self,
        api: GceApi,
        place: Place,
        requests: Mapping[str, WorkerRequest],
        *,
        scheduler: str,
        scheduler_machine: str,
        close_timeout: float,
    ) -> None:
        self._api, self._place, self._requests = api, place, requests
        self._scheduler, self._scheduler_machine = scheduler, scheduler_machine
        self._close_timeout = close_timeout
        self._tags = {dns_label(tag)[:63]: tag for tag in requests}
        self._closed = False
        self._creations: dict[str, _Creation] = {}
        self._launched: dict[str, list[Unit]] = {}
        self._machines: dict[str, _Machine] = {}
        self._shortages: dict[str, int] = {}
        """Launches in a row that no zone had machines for, by group."""

    # -- Launch

    async def launch(self, group: GroupSpec, n: int, request_id: str) -> LaunchResult:
        """Request `n` machines; return when Compute Engine has accepted that. A repetition makes no others."""
        if self._closed:
            raise LaunchRefusedError(f"cluster {self._place.run.name!r} is closed; build a new one")
        if request_id in self._launched:
            return LaunchResult(self._launched[request_id])
        names = worker_names(self._place.run.name, group.tag, request_id, n)
        creation = self._creations.setdefault(request_id, _Creation(group.tag, request_id, names))
        try:
            why = await self._request(creation)
        except GceError as error:
            self._creations.pop(request_id)
            refusal = explain_refusal(error)
            kind = LaunchRefusedError if is_lasting(error) else LaunchError
            message = f"Compute Engine starts no workers of {group.tag}: {refusal}"
            raise kind(message, refusal) from error
        if why is not None:
            self._creations.pop(request_id)
            raise LaunchError(f"Compute Engine starts no workers of {group.tag}: {why}", why)
        zone = self._place.zones[creation.zone]
        units = [Unit(name, group.tag, request_id, name) for name in names]
        for unit in units:
            self._machines[unit.id] = _Machine(unit, zone, time.monotonic())
        self._launched[request_id] = units
        return LaunchResult(units)

    async def _request(self, creation: _Creation) -> Explanation | None:
        """Request machines in the first zone, from the present one on, that accepts that; return why none does.

        Raises
        ------
        GceError
            None was created, for another reason than that there are no machines.
        Exception
            It is not known what has been created.
        """
        while True:
            zone = self._place.zones[creation.zone]
            request_id, body = native_request(creation.request_id, zone), self._body(creation)
            was_unclear, creation.is_unclear = creation.is_unclear, True
            try:
                operation = await self._api.create(zone, body, request_id)
            except GceError as error:
                if not (tells_of_all_attempts if was_unclear else makes_nothing)(error):
                    raise ConnectionError(str(error)) from error  # asked for again with the same id
                creation.is_unclear = False
                why = explain_refusal(error)
                if why.reason is not Reason.CAPACITY:
                    raise
                if not self._next_zone(creation):
                    return why
            else:
                creation.operation, creation.is_unclear = operation.name, False
                return None

    def _next_zone(self, creation: _Creation) -> bool:
        if self._closed or creation.zone + 1 >= len(self._place.zones):
            return False
        creation.zone += 1
        creation.operation = ""
        return True

    def _body(self, creation: _Creation) -> dict[str, Any]:
        body = worker_body(
            self._place.run,
            self._place.options,
            self._place.subnetwork,
            self._requests[creation.tag],
            names=creation.names,
            request_id=creation.request_id,
            scheduler=self._scheduler,
            keys=self._place.keys,
        )
        size = metadata_size(body)
        if size > MAX_METADATA:
            problem = (
                f"the startup script of {creation.tag} has {size} bytes, and Compute Engine takes "
                f"{MAX_METADATA}; set fewer variables"
            )
            raise LaunchRefusedError(problem, Explanation(Reason.REFUSED, problem))
        return body

    # -- Creations under way

    async def _advance(self) -> None:
        """Learn what has come of the creations under way, and try the next zone for what one has not."""
        # The engine repeats a launch that it has no answer to.
        under_way = [self._creations[each] for each in self._launched if each in self._creations]
        await asyncio.gather(*(self._advance_one(each) for each in under_way))

    async def _advance_one(self, creation: _Creation) -> None:
        why: Explanation | None = None
        if creation.operation:
            why = await self._shortfall(creation)
            if why is None:
                return
            if why.reason is not Reason.CAPACITY or not self._next_zone(creation):
                self._give_up(creation, why)
                return
        # Or the request in this zone was not answered before.
        try:
            why = await self._request(creation)
        except GceError as error:
            if is_expired(error) or is_transient(error):
                return  # asked for again with the next look
            why = explain_refusal(error)
        if why is not None:
            self._give_up(creation, why)
            return
        for name in creation.names:
            self._machines[name].zone = self._place.zones[creation.zone]

    async def _shortfall(self, creation: _Creation) -> Explanation | None:
        """Return why a zone has not made all machines; None where it has, or is not done."""
        zone = self._place.zones[creation.zone]
        operation = await self._api.call(
            "ZoneOperations", "get", zone=zone, operation=creation.operation
        )
        if operation.status.name != "DONE":
            return None
        made, problems = await self._outcome(creation, zone, operation)
        for name in made:
            self._machines[name].is_creating = False
        withdrawn = [name for name in made if self._machines[name].is_stopped]
        await asyncio.gather(*(self._api.delete(zone, name) for name in withdrawn))
        missing = [name for name in creation.names if name not in made]
        creation.names = [n for n in missing if not self._machines[n].is_stopped or self._end(n)]
        if creation.names:
            return _explain(problems)
        self._creations.pop(creation.request_id, None)
        self._shortages.pop(creation.tag, None)
        return None

    def _end(self, name: str) -> bool:
        """Note that a machine which was stopped was never made; return whether it is still wanted."""
        machine = self._machines[name]
        machine.end = NativeState(Phase.GONE, Reason.STOPPED, "it was never made")
        return False

    def _give_up(self, creation: _Creation, why: Explanation) -> None:
        """Note that machines are not to be had. They are shown as waiting for a while, which grows."""
        self._creations.pop(creation.request_id, None)
        count = self._shortages[creation.tag] = self._shortages.get(creation.tag, 0) + 1
        pause = min(2.0 ** (count - 1), _LONGEST_PAUSE) if count > 1 else 0.0
        for name in creation.names:
            machine = self._machines[name]
            machine.end = NativeState(Phase.GONE, why.reason, why.summary)
            machine.shown_from = time.monotonic() + pause

    async def _outcome(
        self, creation: _Creation, zone: str, operation: Any
    ) -> tuple[set[str], list[GceError]]:
        """Return the machines that an operation has made, and what it says of the others."""
        statuses = operation.instances_bulk_insert_operation_metadata.per_location_status
        if sum(each.created_vm_count for each in statuses.values()) == len(creation.names):
            return {*creation.names}, []
        group = operation.operation_group_id
        parts = await self._api.call(
            "ZoneOperations", "list", zone=zone, filter=f'operationGroupId = "{group}"'
        )
        found = await self._api.instances([zone], REQUEST, creation.request_id)
        problems = [
            GceError("Instances.bulkInsert", error.code, " ".join(error.message.split()))
            for each in (operation, *parts)
            for error in each.error.errors
        ]
        return {each.name for each in found} & {*creation.names}, problems

    # -- Observe

    async def observe(self) -> Mapping[str, UnitState]:
        """Return the state of every machine of the run, from one list for each zone."""
        await self._advance()
        found = {
            each.name: each
            for each in await self._api.instances(self._place.zones, RUN, self._place.run.name)
            if each.name != self._scheduler_machine
        }
        for name, each in found.items():
            self._remember(name, each)
        absent = [
            machine
            for name, machine in self._machines.items()
            if name not in found and machine.end is None and not machine.is_creating
        ]
        for machine, there in zip(
            absent, await asyncio.gather(*map(self._look, absent)), strict=True
        ):
            if there is not None:
                found[machine.unit.id] = there
        ending = {name: each for name, each in found.items() if each.status not in _ALIVE}
        lost = [each for each in absent if each.unit.id not in found]
        preempted = await self._preempted() if ending or lost else set()
        for machine in lost:
            machine.end = self._end_of_lost(machine, preempted)
        states = {name: self._state(name, each, preempted) for name, each in found.items()}
        await self._read_consoles([n for n, s in states.items() if s.phase is Phase.RUNNING])
        await self._delete_ended(found)
        return {
            name: self._shown(machine, states.get(name)) for name, machine in self._machines.items()
        }

    def _remember(self, name: str, each: Any) -> None:
        tag, request_id = self._tags.get(each.labels.get(TAG, "")), each.labels.get(REQUEST)
        if name not in self._machines and tag is not None and request_id is not None:
            unit = Unit(name, tag, request_id, name)
            zone = each.zone.rpartition("/")[2]
            self._machines[name] = _Machine(unit, zone, time.monotonic(), is_creating=False)

    async def _look(self, machine: _Machine) -> Any:
        """Return a machine that a list lacks; None if there is none."""
        try:
            return await self._api.call(
                "Instances", "get", zone=machine.zone, instance=machine.unit.id
            )
        except GceError as error:
            if error.status == 404:
                return None
            raise

    async def _preempted(self) -> set[str]:
        """Return the machines that Compute Engine has taken back: https://cloud.google.com/compute/docs/instances/create-use-spot."""
        if not self._place.options.spot:
            return set()
        only = 'operationType = "compute.instances.preempted"'
        lists = await asyncio.gather(
            *(
                self._api.call("ZoneOperations", "list", zone=zone, filter=only)
                for zone in self._place.zones
            )
        )
        return {each.target_link.rpartition("/")[2] for some in lists for each in some}

    def _state(self, name: str, each: Any, preempted: set[str]) -> NativeState:
        state = machine_state(each, is_preempted=name in preempted)
        machine = self._machines.get(name)
        if machine is None or machine.end is not None or state.phase is not Phase.GONE:
            return state
        if machine.is_stopped:
            state = state._replace(reason=Reason.STOPPED)
        machine.end = state
        return state

    @staticmethod
    def _end_of_lost(machine: _Machine, preempted: set[str]) -> NativeState:
        if machine.is_stopped:
            return NativeState(Phase.GONE, Reason.STOPPED, "its machine was deleted")
        if machine.unit.id in preempted:
            text = "Compute Engine has taken its spare capacity back"
            return NativeState(Phase.GONE, Reason.PREEMPTED, text)
        text = "its machine was deleted, by somebody else or at the end of its lifetime"
        return NativeState(Phase.GONE, Reason.CANCELLED, text)

    async def _read_consoles(self, running: Sequence[str]) -> None:
        """Read the console of one machine of each group whose worker is not known to have joined.

        A machine whose container has failed runs on for a while, because its console is not readable later.
        """
        unread: dict[str, _Machine] = {}
        for name in running:
            machine = self._machines.get(name)
            if machine and machine.end is None and not (machine.has_joined or machine.is_stopped):
                # Each in its turn.
                first = unread.setdefault(machine.unit.tag, machine)
                if machine.read_at < first.read_at:
                    unread[machine.unit.tag] = machine
        await asyncio.gather(*map(self._read_console, unread.values()))

    async def _read_console(self, machine: _Machine) -> None:
        machine.read_at = time.monotonic()
        console = await self._api.console(machine.zone, machine.unit.id)
        machine.console = console_tail(console) or machine.console
        machine.has_joined = _JOINED in console
        if (end := end_in_console(console)) is not None:
            machine.end = end

    async def _delete_ended(self, found: Mapping[str, Any]) -> None:
        """Delete what has ended: its disk would be paid for."""
        ended = [
            machine
            for name, machine in self._machines.items()
            if name in found and machine.end is not None and not machine.is_stopped
        ]

        async def delete(machine: _Machine) -> None:
            # What is refused is asked for again with the next list; `sweep` tells of what cannot be deleted at all.
            with contextlib.suppress(GceError, GceUnreachableError, NativeTimeoutError):
                await self._api.delete(machine.zone, machine.unit.id)
                machine.is_stopped = True

        await asyncio.gather(*map(delete, ended))

    def _shown(self, machine: _Machine, state: NativeState | None) -> UnitState:
        end = machine.end
        if end is not None and time.monotonic() < machine.shown_from:
            return UnitState(machine.unit, Phase.PENDING, end.reason, end.detail)
        if end is not None:
            state = end
        if state is None:
            text = "Compute Engine creates its machine"
            return UnitState(machine.unit, Phase.PENDING, Reason.STARTING, text)
        left = state.seconds_left
        if left is None and state.phase is Phase.RUNNING:
            age = time.monotonic() - machine.accepted
            left = max(0.0, self._place.options.lifetime - age)
        return UnitState(machine.unit, state.phase, state.reason, state.detail, left)

    # -- Stop

    async def stop(self, units: Sequence[Unit]) -> None:
        """Request the deletion of the machines of these units. What is still being created is deleted after that."""
        machines = [self._machines[unit.id] for unit in units if unit.id in self._machines]
        for machine in machines:
            machine.is_stopped = True
        await asyncio.gather(*(self._api.delete(m.zone, m.unit.id) for m in machines))

    # -- Describe

    async def describe(self, unit: Unit) -> Explanation:
        """Explain a unit: what Compute Engine says of its machine, with the end of its console."""
        machine = self._machines.get(unit.id)
        if machine is None:
            return Explanation(Reason.UNKNOWN, f"Compute Engine does not know machine {unit.id}")
        if machine.end is None or not machine.console:
            console = await self._api.console(machine.zone, unit.id)
            machine.console = console_tail(console) or machine.console
            state = (await self.observe())[unit.id]
            reason, detail = state.reason, state.detail
        else:
            reason, detail = machine.end.reason, machine.end.detail
        return Explanation(reason, f"{unit.id}: {detail}", detail, machine.console)

    @property
    def logs_outlive_units(self) -> bool:
        """False: consoles go with their machines."""
        return False

    async def read_log(self, unit: Unit, size: int) -> str:
        """Return the end of the console of a unit's machine, on which its worker writes."""
        machine = self._machines.get(unit.id)
        if machine is None:
            return ""
        console = await self._api.console(machine.zone, unit.id)
        return (console or machine.console)[-size:]

    # -- The end

    async def sweep(self) -> Sequence[Leftover]:
        """Accept no more launches, wait for those under way, and delete all machines but the scheduler's."""
        self._closed = True
        unanswered = await self._api.settle()
        left = await delete_run(
            self._api,
            self._place.zones,
            self._place.run.name,
            self._close_timeout,
            but=[self._scheduler_machine],
        )
        return [*left, *unanswered]


_ALIVE = ("PROVISIONING", "STAGING", "REPAIRING", "RUNNING")


def _explain(problems: Sequence[GceError]) -> Explanation:
    """Return why machines were not created; lack of machines only where that is the only reason."""
    why = [explain_refusal(each) for each in problems]
    others = [each for each in why if each.reason is not Reason.CAPACITY]
    if others:
        return others[0]
    if why:
        return why[0]
    return Explanation(Reason.CAPACITY, "Compute Engine has created fewer machines than asked for")
