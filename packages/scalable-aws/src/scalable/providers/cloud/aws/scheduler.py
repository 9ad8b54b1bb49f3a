"""The scheduler as a Fargate task or an EC2 instance, with everything that its run stands on."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scalable.cluster.host import SchedulerState
from scalable.cluster.port import Explanation, Leftover, Phase, Reason
from scalable.errors import SchedulerStartError
from scalable.providers.cloud.aws.api import AwsApi, AwsError, AwsUnreachableError
from scalable.providers.cloud.aws.instances import (
    instance_log_stream,
    run_scheduler_instance,
    scheduler_script,
)
from scalable.providers.cloud.aws.logs import console_tail, log_tail
from scalable.providers.cloud.aws.names import Run, resource_name
from scalable.providers.cloud.aws.options import AWSOptions
from scalable.providers.cloud.aws.refusals import (
    explain_refusal,
    explain_shortfall,
    is_lasting,
    is_missing,
)
from scalable.providers.cloud.aws.removal import remove_run, stop_all
from scalable.providers.cloud.aws.setup import SetupError, create_when_known, make_place
from scalable.providers.cloud.aws.states import (
    NativeState,
    address,
    instance_state,
    interface,
    task_state,
)
from scalable.providers.cloud.aws.tasks import (
    PORT,
    SCHEDULER,
    Place,
    Request,
    log_stream,
    run_scheduler,
    scheduler_definition,
)

if TYPE_CHECKING:
    from scalable.providers.tls import Credentials

__all__ = ["AwsScheduler", "Ec2Scheduler", "FargateScheduler"]

_SHOWN_WITHIN = 60.0
"""Seconds for which what AWS has shown before may be missing in its answers, which are not all of the same time."""


class AwsScheduler(ABC):
    """A `RemoteScheduler` on AWS, with everything that the run stands on.

    Parameters
    ----------
    api : AwsApi
        AWS.
    run : Run
        The run.
    options : AWSOptions
        The target's options.
    credentials : Credentials
        The run's keys.
    image : str
        The scheduler's image.
    gpus : bool
        Whether workers need GPUs.
    close_timeout : float
        Seconds for the removal.
    """

    def __init__(
        self,
        api: AwsApi,
        run: Run,
        options: AWSOptions,
        credentials: Credentials,
        image: str,
        *,
        gpus: bool,
        close_timeout: float,
    ) -> None:
        self.place: Place | None = None
        self.native = ""
        """The ARN of its task, or the id of its instance."""
        self.address = ""
        """Its address for workers."""
        self._api = api
        self._run = run
        self._options = options
        self._credentials = credentials
        self._image = image
        self._gpus = gpus
        self._close_timeout = close_timeout
        self._may_exist = False
        self._seen: Mapping[str, Any] = {}
        self._absent_since: float | None = None

    # -- Start

    async def start(self) -> None:
        """Make what the run stands on, and request the scheduler."""
        await self._api.check_credentials()
        self._may_exist = True
        try:
            self.place = await make_place(
                self._api, self._run, self._options, self._credentials, gpus=self._gpus
            )
            self.native = await self._launch(self.place)
        except SetupError as error:
            raise SchedulerStartError(self._run.name, error.explanation) from error
        except AwsError as error:
            raise SchedulerStartError(self._run.name, explain_refusal(error)) from error
        except AwsUnreachableError as error:
            problem = Explanation(Reason.NETWORK, str(error))
            raise SchedulerStartError(self._run.name, problem) from error

    @abstractmethod
    async def _launch(self, place: Place) -> str:
        """Start the scheduler, and return its task or instance."""

    async def _create(self, request: Request, role_is_unknown: str) -> dict[str, Any]:
        """Create what uses a new role and a new security group."""
        new = [] if self._options.security_groups or not self.place else self.place.security_groups

        def is_early(error: AwsError) -> bool:
            return role_is_unknown in error.text or any(group in error.text for group in new)

        return await create_when_known(self._api, request, is_early)

    # -- State

    async def state(self) -> SchedulerState:
        """Return the state of the scheduler's task or instance."""
        try:
            found = await self._look()
        except AwsError as error:
            if self._seen or not is_lasting(error):
                raise
            return SchedulerState(Phase.GONE, explain_refusal(error))
        if found is None:
            if not self._seen:  # what is new may not be shown yet
                why = Explanation(Reason.STARTING, "AWS does not show it yet")
                return SchedulerState(Phase.PENDING, why)
            now = asyncio.get_running_loop().time()
            if self._absent_since is None:
                self._absent_since = now
            if now - self._absent_since < _SHOWN_WITHIN:
                raise LookupError("AWS does not show it at present")
            return SchedulerState(
                Phase.GONE, Explanation(Reason.CANCELLED, "AWS no longer knows it")
            )
        self._absent_since = None
        self._seen, state = found, self._state_of(found)
        if state.phase is Phase.GONE:
            log = await self._log()
            return SchedulerState(Phase.GONE, Explanation(state.reason, state.detail, log_tail=log))
        where = self._private_address()
        if state.phase is Phase.RUNNING and where is not None:
            self.address = f"tls://{where}:{PORT}"
            return SchedulerState(Phase.RUNNING, Explanation(state.reason, state.detail))
        return SchedulerState(Phase.PENDING, Explanation(state.reason, state.detail))

    @abstractmethod
    async def _look(self) -> Mapping[str, Any] | None:
        """Return the scheduler's task or instance as AWS shows it now; None where it does not."""

    @abstractmethod
    def _state_of(self, found: Mapping[str, Any]) -> NativeState:
        """Return its state."""

    @abstractmethod
    async def _log(self) -> str:
        """Return the end of its log."""

    @abstractmethod
    def _private_address(self) -> str | None:
        """Return its address in the VPC, by what was seen last."""

    @abstractmethod
    async def _public_address(self) -> str | None:
        """Return its public address."""

    async def connect(self) -> str:
        """Return the scheduler's address for this machine: the public one where it has one.

        Raises
        ------
        OSError
            Not yet.
        SchedulerStartError
            AWS will not tell.
        """
        if not self._options.public_ip:
            return self.address
        try:
            public = await self._public_address()
        except AwsError as error:
            if is_lasting(error):
                raise SchedulerStartError(self._run.name, explain_refusal(error)) from error
            raise ConnectionError(str(error)) from error
        if public is None:
            raise ConnectionError("it has no public address yet")
        return f"tls://{public}:{PORT}"

    # -- End

    async def stop(self) -> Sequence[Leftover]:
        """Stop the scheduler, and all else of the run that costs money."""
        if not self._may_exist:
            return []
        unanswered = await self._api.settle()
        known = {self._options.scheduler_type: self.native}
        left = await stop_all(
            self._api, self._run.name, self._close_timeout, self._options.kinds, known
        )
        return [*left, *unanswered]

    async def remove(self) -> Sequence[Leftover]:
        """Remove everything that the run stood on, and close the connections to AWS."""
        try:
            if not self._may_exist:
                return []
            return await remove_run(
                self._api,
                self._run.name,
                self._close_timeout,
                self._options.kinds,
                self._options.own_roles,
            )
        finally:
            await self._api.close()


class FargateScheduler(AwsScheduler):
    """The scheduler as a Fargate task."""

    async def _launch(self, place: Place) -> str:
        await self._api.create(scheduler_definition(self._run, place, self._image, self._options))
        request = run_scheduler(self._run, place, self._options)
        answer = await self._create(request, "assume the role")
        if not answer["tasks"]:
            failure = (answer["failures"] or [{}])[0]
            why = explain_shortfall(failure.get("reason", "no task"), failure.get("detail", ""))
            raise SetupError(why)
        return str(answer["tasks"][0]["taskArn"])

    async def _look(self) -> Mapping[str, Any] | None:
        cluster = resource_name(self._run.name)
        found = await self._api.call(
            "ecs", "DescribeTasks", cluster=cluster, tasks=[self.native], include=["TAGS"]
        )
        return found["tasks"][0] if found["tasks"] else None

    def _state_of(self, found: Mapping[str, Any]) -> NativeState:
        return task_state(found)

    async def _log(self) -> str:
        return await log_tail(self._api, self._run.name, log_stream(SCHEDULER, self.native))

    def _private_address(self) -> str | None:
        return address(self._seen)

    async def _public_address(self) -> str | None:
        card = interface(self._seen)
        if card is None:
            return None
        try:
            found = await self._api.call(
                "ec2", "DescribeNetworkInterfaces", NetworkInterfaceIds=[card]
            )
        except AwsError as error:
            if is_missing(error):  # what is new may not be shown yet
                return None
            raise
        public = found["NetworkInterfaces"][0].get("Association", {}).get("PublicIp")
        return None if public is None else str(public)


class Ec2Scheduler(AwsScheduler):
    """The scheduler as an EC2 instance."""

    async def _launch(self, place: Place) -> str:
        script = scheduler_script(self._run, place, self._image, self._options)
        for subnet in place.subnets:
            request = run_scheduler_instance(self._run, place, self._options, subnet, script)
            try:
                answer = await self._create(request, "Invalid IAM Instance Profile")
            except AwsError as error:
                # Another zone may have room.
                no_room = explain_refusal(error).reason is Reason.CAPACITY
                if not no_room or subnet == place.subnets[-1]:
                    raise
            else:
                return str(answer["Instances"][0]["InstanceId"])
        raise ValueError("a place has a subnet at least")

    async def _look(self) -> Mapping[str, Any] | None:
        try:
            found = await self._api.call("ec2", "DescribeInstances", InstanceIds=[self.native])
        except AwsError as error:
            if is_missing(error):
                return None
            raise
        return next((each for some in found["Reservations"] for each in some["Instances"]), None)

    def _state_of(self, found: Mapping[str, Any]) -> NativeState:
        return instance_state(found)

    async def _log(self) -> str:
        stream = instance_log_stream(SCHEDULER, self.native)
        log = await log_tail(self._api, self._run.name, stream)
        return log or await console_tail(self._api, self.native)

    def _private_address(self) -> str | None:
        return self._seen.get("PrivateIpAddress")

    async def _public_address(self) -> str | None:
        return self._seen.get("PublicIpAddress")
