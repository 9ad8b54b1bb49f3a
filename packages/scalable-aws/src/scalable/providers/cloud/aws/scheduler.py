"""The scheduler as a Fargate task."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scalable.cluster.host import SchedulerState
from scalable.cluster.port import Explanation, Leftover, Phase, Reason
from scalable.errors import SchedulerStartError
from scalable.providers.cloud.aws.api import AwsApi, AwsError, AwsUnreachableError
from scalable.providers.cloud.aws.logs import log_tail
from scalable.providers.cloud.aws.names import Run, resource_name
from scalable.providers.cloud.aws.options import AWSOptions
from scalable.providers.cloud.aws.refusals import explain_refusal, explain_shortfall
from scalable.providers.cloud.aws.removal import remove_run, stop_run
from scalable.providers.cloud.aws.setup import SetupError, make_place
from scalable.providers.cloud.aws.states import address, interface, task_state
from scalable.providers.cloud.aws.tasks import (
    PORT,
    SCHEDULER,
    Place,
    Request,
    run_scheduler,
)

if TYPE_CHECKING:
    from scalable.providers.tls import Credentials

__all__ = ["FargateScheduler"]

_ROLE_PATIENCE = 60.0
"""Seconds in which a new role becomes known in all of AWS; it usually takes ten."""

_SETTLE_LIMIT = 30.0
"""Seconds for calls under way that nobody waits for any more."""


class FargateScheduler:
    """A `RemoteScheduler` in a Fargate task, with everything that the run stands on.

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
    definition : callable
        Returns the request for the scheduler's task definition, from the place.
    close_timeout : float
        Seconds for the removal.
    """

    def __init__(
        self,
        api: AwsApi,
        run: Run,
        options: AWSOptions,
        credentials: Credentials,
        definition: Callable[[Place], Request],
        *,
        close_timeout: float,
    ) -> None:
        self.place: Place | None = None
        self.task = ""
        """The ARN of its task."""
        self.address = ""
        """Its address for workers."""
        self._api = api
        self._run = run
        self._options = options
        self._credentials = credentials
        self._definition = definition
        self._close_timeout = close_timeout
        self._may_exist = False
        self._seen: Mapping[str, Any] = {}

    # -- Start

    async def start(self) -> None:
        """Make what the run stands on, and request the scheduler's task."""
        await self._api.check_credentials()
        self._may_exist = True
        try:
            self.place = await make_place(self._api, self._run, self._options, self._credentials)
            await self._api.create(self._definition(self.place))
            await self._run_task(self.place)
        except SetupError as error:
            raise SchedulerStartError(self._run.name, error.explanation) from error
        except AwsError as error:
            raise SchedulerStartError(self._run.name, explain_refusal(error)) from error
        except AwsUnreachableError as error:
            problem = Explanation(Reason.NETWORK, str(error))
            raise SchedulerStartError(self._run.name, problem) from error

    async def _run_task(self, place: Place) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _ROLE_PATIENCE
        while True:
            try:
                answer = await self._api.create(run_scheduler(self._run, place, self._options))
            except AwsError as error:
                # IAM is eventually consistent: https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot.html
                if "assume the role" not in error.text or loop.time() > deadline:
                    raise
                await asyncio.sleep(2.0)
                continue
            if answer["tasks"]:
                self.task = answer["tasks"][0]["taskArn"]
                return
            failure = (answer["failures"] or [{}])[0]
            why = explain_shortfall(failure.get("reason", "no task"), failure.get("detail", ""))
            raise SetupError(why)

    async def connect(self) -> str:
        """Return the scheduler's address for this machine: the public one where it has one."""
        if not self._options.public_ip:
            return f"tls://{address(self._seen)}:{PORT}"
        card = interface(self._seen)
        if card is None:
            raise ConnectionError("its task has no network interface yet")
        found = await self._api.call("ec2", "DescribeNetworkInterfaces", NetworkInterfaceIds=[card])
        public = found["NetworkInterfaces"][0].get("Association", {}).get("PublicIp")
        if public is None:
            raise ConnectionError("its task has no public address; set public_ip: false")
        return f"tls://{public}:{PORT}"

    # -- State

    async def state(self) -> SchedulerState:
        """Return the state of the scheduler's task."""
        found = await self._api.call(
            "ecs",
            "DescribeTasks",
            cluster=resource_name(self._run.name),
            tasks=[self.task],
            include=["TAGS"],
        )
        if not found["tasks"]:
            if not self._seen:  # a task that is new may not be shown yet
                return SchedulerState(
                    Phase.PENDING, Explanation(Reason.STARTING, "its task is not shown yet")
                )
            why = "AWS no longer knows its task"
            return SchedulerState(Phase.GONE, Explanation(Reason.CANCELLED, why))
        self._seen = task = found["tasks"][0]
        state = task_state(task)
        if state.phase is Phase.GONE:
            log = await log_tail(self._api, self._run.name, SCHEDULER, self.task)
            return SchedulerState(
                Phase.GONE, Explanation(state.reason, f"its task: {state.detail}", log_tail=log)
            )
        where = address(task)
        if state.phase is Phase.RUNNING and where is not None:
            self.address = f"tls://{where}:{PORT}"
            return SchedulerState(Phase.RUNNING, Explanation(state.reason, state.detail))
        return SchedulerState(Phase.PENDING, Explanation(state.reason, f"its task: {state.detail}"))

    # -- End

    async def stop(self) -> Sequence[Leftover]:
        """Stop the scheduler's task, and all others of the run."""
        if not self._may_exist:
            return []
        unanswered = await self._api.settle(_SETTLE_LIMIT)
        left = await stop_run(self._api, self._run.name, self._close_timeout)
        return [
            *left,
            *(
                Leftover("call", call.name, f"has not returned for {call.seconds:.0f} s")
                for call in unanswered
            ),
        ]

    async def remove(self) -> Sequence[Leftover]:
        """Remove everything that the run stood on."""
        if not self._may_exist:
            return []
        return await remove_run(self._api, self._run.name, self._close_timeout)
