"""The scheduler as a machine of Compute Engine, and the place in which a run is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from scalable.cluster.host import SchedulerState
from scalable.cluster.port import Explanation, Leftover, Phase, Reason
from scalable.errors import SchedulerStartError, did_you_mean
from scalable.providers.cloud.gcp.api import GceError, GceUnreachableError
from scalable.providers.cloud.gcp.instances import PORT, scheduler_body, subnetwork
from scalable.providers.cloud.gcp.keys import Keys
from scalable.providers.cloud.gcp.names import (
    Run,
    native_request,
    regions_of,
    scheduler_name,
    zones_of,
)
from scalable.providers.cloud.gcp.options import GCPOptions
from scalable.providers.cloud.gcp.refusals import explain_refusal, is_lasting, is_transient
from scalable.providers.cloud.gcp.removal import delete_run
from scalable.providers.cloud.gcp.secret_manager import delete_secret, store_key
from scalable.providers.cloud.gcp.states import console_tail, end_in_console, machine_state

if TYPE_CHECKING:
    from scalable.providers.cloud.gcp.api import GceApi
    from scalable.providers.tls import Credentials

__all__ = ["GceScheduler", "Place"]

_SHOWN_WITHIN = 60.0
"""Seconds for which a machine that was seen before may be missing in answers."""


@dataclass(frozen=True)
class Place:
    """A run, and where its machines are.

    Parameters
    ----------
    run, options : Run, GCPOptions
        The run, and the target's options.
    zones : sequence of str
        The zones, in the order in which they are tried.
    subnetwork : str
        The path of the subnetwork.
    keys : Keys
        The run's keys.
    """

    run: Run
    options: GCPOptions
    zones: Sequence[str]
    subnetwork: str
    keys: Keys


class GceScheduler:
    """A `RemoteScheduler` on a machine of Compute Engine.

    Parameters
    ----------
    api : GceApi
        Compute Engine.
    run, options : Run, GCPOptions
        The run, and the target's options.
    credentials : Credentials
        The run's keys.
    image : str
        The scheduler's image.
    close_timeout : float
        Seconds for the removal.
    """

    def __init__(
        self,
        api: GceApi,
        run: Run,
        options: GCPOptions,
        credentials: Credentials,
        image: str,
        *,
        close_timeout: float,
    ) -> None:
        self.place = Place(run, options, (), "", Keys(credentials.cert, credentials.key))
        self.name = scheduler_name(run.name)
        """The name of its machine."""
        self.address = ""
        """Its address for workers."""
        self._api = api
        self._image = image
        self._close_timeout = close_timeout
        self._may_exist = False
        self._zone = ""
        self._seen: Any = None
        self._absent_since: float | None = None

    # -- Start

    async def start(self) -> None:
        """Find the zones, and request the scheduler's machine in the first one that has some."""
        run, options = self.place.run, self.place.options
        project = await self._api.check_credentials()
        try:
            zones = await self._zones(project)
            network = subnetwork(options, project, options.own_region)
            self.place = replace(self.place, zones=zones, subnetwork=network)
            self._may_exist = True
            await self._store_key(project)
            await self._launch()
        except GceError as error:
            raise SchedulerStartError(run.name, explain_refusal(error)) from error
        except GceUnreachableError as error:
            raise SchedulerStartError(run.name, Explanation(Reason.NETWORK, str(error))) from error

    async def _zones(self, project: str) -> Sequence[str]:
        """Return the zones of the run. With one that is not there, no machine could be observed."""
        region, own = self.place.options.own_region, self.place.options.own_zones
        try:
            every = await self._api.zones()
        except GceError as error:
            if own and is_lasting(error):  # a role without this permission
                return own
            raise
        missing = [zone for zone in own if zone not in every]
        found = own or zones_of(region, every)
        if found and not missing:
            return found
        problem = f"in region {region!r}{did_you_mean(region, regions_of(every))}"
        if missing:
            problem = f"called {missing[0]!r}{did_you_mean(missing[0], every)}"
        summary = f"project {project} has no zones {problem}"
        why = Explanation(Reason.REFUSED, summary, remedy="correct the target's region and zones")
        raise SchedulerStartError(self.place.run.name, why)

    async def _store_key(self, project: str) -> None:
        run, options = self.place.run, self.place.options
        if options.keys == "metadata":
            return
        account, keys = options.service_account, self.place.keys
        try:
            keys = await store_key(self._api, project, run, account, options.lifetime, keys)
        except GceError as error:
            why = explain_refusal(error, "secretmanager")
            raise SchedulerStartError(run.name, why) from error
        self.place = replace(self.place, keys=keys)

    async def _launch(self) -> None:
        place = self.place
        body = scheduler_body(
            place.run, place.options, place.subnetwork, self.name, self._image, place.keys
        )
        for zone in place.zones:
            try:
                request = native_request(place.run.name, zone)
                await self._create(zone, body, request)
            except GceError as error:
                # Another zone may have room.
                no_room = explain_refusal(error).reason is Reason.CAPACITY
                if not no_room or zone == place.zones[-1]:
                    raise
            else:
                self._zone = zone
                return

    async def _create(self, zone: str, body: dict[str, Any], request: str) -> None:
        """Create the machine, and wait until that is done."""
        for attempt in range(4):
            try:
                operation = await self._api.create(zone, body, request)
                break
            except (GceError, GceUnreachableError) as error:
                no_room = isinstance(error, GceError) and (
                    explain_refusal(error).reason is Reason.CAPACITY
                )
                passes = not isinstance(error, GceError) or is_transient(error)
                if no_room or not passes or attempt == 3:
                    raise
                await asyncio.sleep(2.0**attempt / 2)
        while operation.status.name != "DONE":
            await asyncio.sleep(0.5)
            operation = await self._api.call(
                "ZoneOperations", "get", zone=zone, operation=operation.name
            )
        parts = await self._api.call(
            "ZoneOperations",
            "list",
            zone=zone,
            filter=f'operationGroupId = "{operation.operation_group_id}"',
        )
        for each in (operation, *parts):
            for problem in each.error.errors:
                text = " ".join(problem.message.split())
                raise GceError("Instances.bulkInsert", problem.code, text)

    # -- State

    async def state(self) -> SchedulerState:
        """Return the state of the scheduler's machine."""
        try:
            found = await self._api.call("Instances", "get", zone=self._zone, instance=self.name)
        except GceError as error:
            if error.status == 404:
                return self._absent()
            if self._seen is not None or not is_lasting(error):
                raise
            return SchedulerState(Phase.GONE, explain_refusal(error))
        self._absent_since = None
        self._seen = found
        state = machine_state(found)
        if state.phase is Phase.GONE:
            return SchedulerState(Phase.GONE, Explanation(state.reason, state.detail))
        if state.phase is Phase.PENDING:
            return SchedulerState(Phase.PENDING, Explanation(state.reason, state.detail))
        console = await self._api.console(self._zone, self.name)
        if (end := end_in_console(console)) is not None:
            why = Explanation(end.reason, end.detail, log_tail=console_tail(console))
            return SchedulerState(Phase.GONE, why)
        self.address = f"tls://{found.network_interfaces[0].network_i_p}:{PORT}"
        remedy = f"see whether the firewall lets tcp:{PORT} in, by `scalable check`"
        why = Explanation(state.reason, state.detail, remedy=remedy, log_tail=console_tail(console))
        return SchedulerState(Phase.RUNNING, why)

    def _absent(self) -> SchedulerState:
        now = asyncio.get_running_loop().time()
        if self._absent_since is None:
            self._absent_since = now
        if self._seen is None and now - self._absent_since < _SHOWN_WITHIN:
            why = Explanation(Reason.STARTING, "Compute Engine does not show it yet")
            return SchedulerState(Phase.PENDING, why)
        why = Explanation(Reason.CANCELLED, f"Compute Engine no longer knows {self.name}")
        return SchedulerState(Phase.GONE, why)

    async def connect(self) -> str:
        """Return the scheduler's address for this machine: the external one where it has one.

        Raises
        ------
        OSError
            Not yet.
        """
        if not self.place.options.external_ips:
            return self.address
        configs = self._seen.network_interfaces[0].access_configs
        if not configs or not configs[0].nat_i_p:
            raise ConnectionError("it has no external address yet")
        return f"tls://{configs[0].nat_i_p}:{PORT}"

    # -- End

    async def stop(self) -> Sequence[Leftover]:
        """Delete the scheduler, and all else of the run."""
        if not self._may_exist:
            return []
        unanswered = await self._api.settle()
        left = await delete_run(
            self._api,
            self.place.zones,
            self.place.run.name,
            self._close_timeout,
        )
        if self.place.options.keys == "secret-manager":
            left += await delete_secret(self._api, self.place.run.name)
        return [*left, *unanswered]

    async def remove(self) -> Sequence[Leftover]:
        """Close the connections. Nothing else was created."""
        await self._api.close()
        return []
