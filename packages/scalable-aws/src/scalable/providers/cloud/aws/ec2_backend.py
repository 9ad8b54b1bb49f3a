"""The engine's port: workers as EC2 instances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from scalable.errors import LaunchRefusedError
from scalable.providers.cloud.aws.api import AwsApi, AwsError
from scalable.providers.cloud.aws.instances import (
    MAX_USER_DATA,
    instance_log_stream,
    run_worker_instances,
    user_data,
    worker_script,
)
from scalable.providers.cloud.aws.launches import LaunchCalls, Started, launch_error
from scalable.providers.cloud.aws.logs import MAX_LINES, console_tail, log_tail
from scalable.providers.cloud.aws.machines import machine_named
from scalable.providers.cloud.aws.names import COMPONENT, REQUEST, Run
from scalable.providers.cloud.aws.options import AWSOptions
from scalable.providers.cloud.aws.refusals import explain_refusal, is_denied, is_lasting
from scalable.providers.cloud.aws.removal import list_instances, terminate, terminate_run
from scalable.providers.cloud.aws.states import NativeState, instance_state
from scalable.providers.cloud.aws.tasks import Place

if TYPE_CHECKING:
    from scalable.providers.cloud.aws.request import WorkerRequest

__all__ = ["Ec2Backend"]

_SPOT_NOTICE = 120.0


@dataclass(frozen=True)
class _Attempt:
    """One RunInstances call of a launch: where, how many, and its token."""

    subnet: str
    n: int
    spot: bool
    token: str


class Ec2Backend:
    """Runs workers as EC2 instances: one RunInstances call for a launch, one DescribeInstances call for all.

    Where a subnet's zone has no capacity, the launch tries the others, and then, where the target allows it, machines
    on demand in place of spare ones.

    Parameters
    ----------
    api : AwsApi
        AWS.
    run : Run
        The run.
    options : AWSOptions
        The target's options.
    place : Place
        Where its instances are.
    requests, machines : mapping
        What the workers of each group are, and the type of their instances, by tag.
    scheduler : str
        The scheduler's address for workers.
    scheduler_instance : str
        The scheduler's instance, which is no worker.
    close_timeout : float
        Seconds for the end of all workers.
    """

    def __init__(
        self,
        api: AwsApi,
        run: Run,
        options: AWSOptions,
        place: Place,
        requests: Mapping[str, WorkerRequest],
        machines: Mapping[str, str],
        *,
        scheduler: str,
        scheduler_instance: str,
        close_timeout: float,
    ) -> None:
        self._api = api
        self._run = run
        self._options = options
        self._place = place
        self._requests, self._machines = requests, machines
        self._scheduler, self._scheduler_instance = scheduler, scheduler_instance
        self._close_timeout = close_timeout
        self._closed = False
        self._calls = LaunchCalls(api)
        self._unlisted: set[str] = set()
        """Instances that were started, and that no list has shown yet."""
        self._stopped: set[str] = set()
        """Instances that we have terminated."""
        self._last: dict[str, NativeState] = {}

    # -- Launch

    async def launch(self, group: GroupSpec, n: int, request_id: str) -> LaunchResult:
        """Start up to `n` instances. A call that AWS has answered is not repeated."""
        if self._closed:
            raise LaunchRefusedError(f"cluster {self._run.name!r} is closed; build a new one")
        started: list[str] = []
        refusal: AwsError | None = None
        for number, (subnet, spot) in enumerate(self._places()):
            attempt = _Attempt(subnet, n - len(started), spot, f"{request_id}-{number}")
            answer = await self._attempt(group.tag, attempt, request_id)
            if isinstance(answer, AwsError):
                refusal = answer
                if explain_refusal(answer).reason is not Reason.CAPACITY:
                    break
            else:
                started += answer.names
            if len(started) >= n:
                break
        shortfall = None
        if len(started) < n:
            shortfall = (
                explain_refusal(refusal)
                if refusal is not None
                else Explanation(Reason.CAPACITY, "AWS has started fewer instances than asked for")
            )
        if not started and refusal is not None and shortfall is not None:
            self._calls.forget(request_id)
            raise launch_error(group.tag, shortfall, is_lasting(refusal))
        self._unlisted.update({*started} - self._last.keys())
        units = [_unit(group.tag, each, request_id) for each in started]
        return LaunchResult(units, shortfall=shortfall)

    def _places(self) -> list[tuple[str, bool]]:
        """Return the subnets in the order in which they are tried, and whether on spare capacity."""
        spot = self._options.spot
        kinds = [True, False] if spot and self._options.spot_fallback else [spot]
        return [(subnet, kind) for kind in kinds for subnet in self._place.subnets]

    async def _attempt(self, tag: str, attempt: _Attempt, request_id: str) -> Started | AwsError:
        worker = self._requests[tag]
        machine = machine_named(self._machines[tag])
        memory = worker.memory or (machine.usable if machine else 0)
        script = worker_script(
            self._run, self._place, worker, self._options, self._scheduler, memory
        )
        size = len(user_data(script))
        if size > MAX_USER_DATA:
            problem = f"user data of {tag} has {size} bytes, and AWS takes {MAX_USER_DATA}; set fewer variables"
            raise LaunchRefusedError(problem, Explanation(Reason.REFUSED, problem))
        request = run_worker_instances(
            self._run,
            self._place,
            self._options,
            worker,
            machine=self._machines[tag],
            subnet=attempt.subnet,
            token=attempt.token,
            n=attempt.n,
            request_id=request_id,
            script=script,
            spot=attempt.spot,
        )
        return await self._calls.make(request_id, attempt.token, request)

    # -- Observe

    async def observe(self) -> Mapping[str, UnitState]:
        """Return the state of every instance of the run, from one list, and one of notices on spare capacity."""
        found = await list_instances(self._api, self._run.name)
        noticed = await self._noticed() if self._options.spot else set()
        states = {}
        for each in found:
            tags = {tag["Key"]: tag["Value"] for tag in each.get("Tags", ())}
            tag, request_id = tags.get(COMPONENT), tags.get(REQUEST)
            if tag is None or request_id is None or tag not in self._requests:
                continue  # the scheduler
            unit = _unit(tag, each["InstanceId"], request_id)
            state = self._state(each, noticed)
            self._last[unit.native] = state
            self._unlisted.discard(unit.native)
            states[unit.id] = UnitState(
                unit, state.phase, state.reason, state.detail, state.seconds_left
            )
        return states

    def _state(self, instance: Mapping[str, Any], noticed: set[str]) -> NativeState:
        state, name = instance_state(instance), instance["InstanceId"]
        if state.phase is Phase.GONE and state.reason is Reason.CANCELLED and name in self._stopped:
            return state._replace(reason=Reason.STOPPED)
        if state.phase is not Phase.GONE and name in noticed:
            text = "AWS will reclaim its spare capacity"
            return NativeState(Phase.RUNNING, Reason.PREEMPTED, text, _SPOT_NOTICE)
        return state

    async def _noticed(self) -> set[str]:
        """Return the instances that AWS has announced to take back.

        Source: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-request-status.html
        """
        only = [{"Name": "status-code", "Values": ["marked-for-termination"]}]
        try:
            requests = await self._api.pages(
                "ec2", "DescribeSpotInstanceRequests", "SpotInstanceRequests", Filters=only
            )
        except AwsError as error:
            if not is_denied(error):
                raise
            return set()  # what has no notice is seen when it ends
        return {each["InstanceId"] for each in requests if each.get("InstanceId")}

    # -- Stop

    async def stop(self, units: Sequence[Unit]) -> None:
        """Terminate the instances of these units, in one call."""
        names = [unit.native for unit in units]
        self._stopped.update(names)
        if early := self._unlisted.intersection(await terminate(self._api, names)):
            raise LookupError(f"AWS does not know {', '.join(sorted(early))} yet")

    # -- Describe

    async def describe(self, unit: Unit) -> Explanation:
        """Explain a unit: what AWS says of its instance, with the end of its log."""
        await self.observe()
        stream = instance_log_stream(unit.tag, unit.native)
        log = await log_tail(self._api, self._run.name, stream)
        log = log or await console_tail(self._api, unit.native)
        state = self._last.get(unit.native)
        if state is None:
            return Explanation(
                Reason.UNKNOWN, f"AWS does not know instance {unit.native}", log_tail=log
            )
        return Explanation(
            state.reason, f"{unit.id}: {state.detail}", native=state.detail, log_tail=log
        )

    @property
    def logs_outlive_units(self) -> bool:
        """False: the run's log group goes with it."""
        return False

    async def read_log(self, unit: Unit, size: int) -> str:
        """Return the end of the log of a unit's instance, as far as it has reached CloudWatch."""
        stream = instance_log_stream(unit.tag, unit.native)
        text = await log_tail(self._api, self._run.name, stream, lines=MAX_LINES, pauses=())
        return text[-size:]

    # -- The end

    async def sweep(self) -> Sequence[Leftover]:
        """Accept no more launches, and terminate all instances but the scheduler's."""
        self._closed = True
        unanswered = await self._api.settle()
        left = await terminate_run(
            self._api,
            self._run.name,
            self._close_timeout,
            known=self._unlisted,
            but=[self._scheduler_instance],
        )
        return [*left, *unanswered]


def _unit(tag: str, instance: str, request_id: str) -> Unit:
    """Return the unit of an instance, whose worker has the same name by the instance's metadata."""
    return Unit(f"{tag}-{instance}", tag, request_id, instance)
