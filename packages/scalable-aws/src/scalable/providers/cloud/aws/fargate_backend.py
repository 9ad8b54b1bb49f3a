"""The engine's port: workers as Fargate tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
from scalable.providers.cloud.aws.launches import LaunchCalls, launch_error
from scalable.providers.cloud.aws.logs import MAX_LINES, log_tail
from scalable.providers.cloud.aws.names import COMPONENT, REQUEST, Run, resource_name
from scalable.providers.cloud.aws.options import AWSOptions
from scalable.providers.cloud.aws.refusals import explain_refusal, explain_shortfall, is_lasting
from scalable.providers.cloud.aws.removal import list_tasks, stop_run, stop_tasks
from scalable.providers.cloud.aws.states import task_id, task_state
from scalable.providers.cloud.aws.tasks import (
    Batch,
    Place,
    batches,
    log_stream,
    run_workers,
    worker_definition,
)

if TYPE_CHECKING:
    from scalable.providers.cloud.aws.request import WorkerRequest

__all__ = ["FargateBackend"]

DESCRIBED_AT_ONCE = 100
"""Tasks of one DescribeTasks call."""

LAUNCHES_AT_ONCE = 5
"""RunTask calls at a time: 20 tasks per second are what Fargate starts of an account."""

SHOWN_AFTER_THE_END = 120.0
"""Seconds for which a task that has ended is shown as gone, because an answer may be lost."""


@dataclass(frozen=True)
class _Answer:
    """What one RunTask call has started, and why not all of it."""

    tasks: Sequence[str] = ()
    shortfall: Explanation | None = None
    lasting: bool = False


@dataclass(frozen=True)
class _Ended:
    """A task that has ended: its last state, and when that was seen."""

    state: UnitState
    at: float


class FargateBackend:
    """Runs workers as Fargate tasks: one RunTask call for each ten of a launch, one DescribeTasks call for each 100.

    Parameters
    ----------
    api : AwsApi
        AWS.
    run : Run
        The run.
    options : AWSOptions
        The target's options.
    place : Place
        Where its tasks are.
    requests : mapping of str to WorkerRequest
        What the workers of each group are, by tag.
    scheduler : str
        The scheduler's address for workers.
    scheduler_task : str
        The ARN of the scheduler's task, which is no worker.
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
        *,
        scheduler: str,
        scheduler_task: str,
        close_timeout: float,
    ) -> None:
        self._api = api
        self._run = run
        self._options = options
        self._place = place
        self._requests = requests
        self._scheduler, self._scheduler_task = scheduler, scheduler_task
        self._close_timeout = close_timeout
        self._closed = False
        self._defined: set[str] = set()
        """The tags whose task definition exists."""
        self._calls = LaunchCalls(api)
        self._units: dict[str, Unit] = {}
        """The unit of each task that is not known to have ended, by ARN."""
        self._ended: dict[str, _Ended] = {}

    # -- Launch

    async def launch(self, group: GroupSpec, n: int, request_id: str) -> LaunchResult:
        """Start `n` tasks, ten with each call. A call that AWS has answered is not repeated."""
        if self._closed:
            raise LaunchRefusedError(f"cluster {self._run.name!r} is closed; build a new one")
        try:
            await self._define(group.tag)
        except AwsError as error:
            raise launch_error(group.tag, explain_refusal(error), is_lasting(error)) from error
        some = asyncio.Semaphore(LAUNCHES_AT_ONCE)

        async def start(batch: Batch) -> _Answer:
            async with some:
                return await self._start(group.tag, batch, request_id)

        answers: list[_Answer] = []
        calls = map(start, batches(request_id, n))
        for found in await asyncio.gather(*calls, return_exceptions=True):
            # It is not known to have started nothing: the engine asks again, and the token tells AWS.
            if isinstance(found, BaseException):
                raise found
            answers.append(found)
        units = [
            self._unit(group.tag, task, request_id) for answer in answers for task in answer.tasks
        ]
        short = next((each for each in answers if each.shortfall), _Answer())
        if not units and short.shortfall is not None:
            self._calls.forget(request_id)
            raise launch_error(group.tag, short.shortfall, short.lasting)
        return LaunchResult(units, shortfall=short.shortfall)

    async def _define(self, tag: str) -> None:
        """Register the task definition of a component, once the scheduler's address is known."""
        if tag in self._defined:
            return
        request = worker_definition(
            self._run, self._place, self._requests[tag], self._options, self._scheduler
        )
        await self._api.create(request)
        self._defined.add(tag)

    async def _start(self, tag: str, batch: Batch, request_id: str) -> _Answer:
        answer = await self._run_tasks(tag, batch, request_id, spot=self._options.spot)
        short = answer.shortfall
        if short is None or not (self._options.spot and self._options.spot_fallback):
            return answer
        if short.reason is not Reason.CAPACITY:
            return answer
        rest = Batch(f"{batch.token}-d", batch.n - len(answer.tasks))
        more = await self._run_tasks(tag, rest, request_id, spot=False)
        return replace(more, tasks=[*answer.tasks, *more.tasks])

    async def _run_tasks(self, tag: str, batch: Batch, request_id: str, *, spot: bool) -> _Answer:
        request = run_workers(
            self._run, self._place, self._options, self._requests[tag], batch, request_id, spot=spot
        )
        answer = await self._calls.make(request_id, batch.token, request)
        if isinstance(answer, AwsError):
            return _Answer((), explain_refusal(answer), is_lasting(answer))
        tasks, failure = answer
        if len(tasks) >= batch.n:
            return _Answer(tasks)
        why = failure.get("reason", "AWS gives no reason")
        return _Answer(tasks, explain_shortfall(why, failure.get("detail", "")))

    def _unit(self, tag: str, task: str, request_id: str) -> Unit:
        """Return the unit of a task, whose worker has the same name by the task's metadata."""
        if task not in self._units:
            name = f"{tag}-{task_id(task)}"
            unit = Unit(name, tag, request_id, task)
            if name in self._ended:
                return unit
            self._units[task] = unit
        return self._units[task]

    # -- Observe

    async def observe(self) -> Mapping[str, UnitState]:
        """Return the state of every task that is listed, or that a launch has named."""
        listed = await list_tasks(self._api, self._run.name)
        asked = {*listed, *self._units} - {self._scheduler_task}
        states: dict[str, UnitState] = {}
        for task in await self._describe_tasks(sorted(asked)):
            unit = self._units.get(task["taskArn"]) or self._unit_by_tags(task)
            if unit is not None:
                found = task_state(task)
                states[unit.id] = UnitState(
                    unit, found.phase, found.reason, found.detail, found.seconds_left
                )
        now = asyncio.get_running_loop().time()
        for state in states.values():
            if state.phase is Phase.GONE:
                self._units.pop(state.unit.native, None)
                self._ended.setdefault(state.unit.id, _Ended(state, now))
        recent = {
            name: ended.state
            for name, ended in self._ended.items()
            if now - ended.at < SHOWN_AFTER_THE_END
        }
        return {**states, **recent}

    def _unit_by_tags(self, task: Mapping[str, Any]) -> Unit | None:
        """Return the unit of a task that no answer has named; None for what is no worker of ours."""
        tags = {each["key"]: each["value"] for each in task.get("tags", ())}
        tag, request_id = tags.get(COMPONENT), tags.get(REQUEST)
        if tag is None or request_id is None or tag not in self._requests:
            return None
        return self._unit(tag, task["taskArn"], request_id)

    async def _describe_tasks(self, tasks: Sequence[str]) -> list[Mapping[str, Any]]:
        answers = await asyncio.gather(
            *(
                self._api.call(
                    "ecs",
                    "DescribeTasks",
                    cluster=resource_name(self._run.name),
                    tasks=[*tasks[start : start + DESCRIBED_AT_ONCE]],
                    include=["TAGS"],
                )
                for start in range(0, len(tasks), DESCRIBED_AT_ONCE)
            )
        )
        return [task for answer in answers for task in answer["tasks"]]

    # -- Stop

    async def stop(self, units: Sequence[Unit]) -> None:
        """Stop the tasks of these units."""
        await stop_tasks(self._api, self._run.name, [unit.native for unit in units])

    # -- Describe

    async def describe(self, unit: Unit) -> Explanation:
        """Explain a unit: what AWS says of its task, with the end of its log."""
        found = await self._describe_tasks([unit.native])
        log = await log_tail(self._api, self._run.name, log_stream(unit.tag, unit.native))
        if found:
            state = task_state(found[0])
            reason, detail = state.reason, state.detail
        elif unit.id in self._ended:
            ended = self._ended[unit.id].state
            reason, detail = ended.reason, ended.detail
        else:
            return Explanation(
                Reason.UNKNOWN, f"AWS does not know task {task_id(unit.native)}", log_tail=log
            )
        return Explanation(reason, f"{unit.id}: {detail}", native=detail, log_tail=log)

    @property
    def logs_outlive_units(self) -> bool:
        """False: the run's log group goes with it."""
        return False

    async def read_log(self, unit: Unit, size: int) -> str:
        """Return the end of the log of a unit's task, as far as it has reached CloudWatch."""
        stream = log_stream(unit.tag, unit.native)
        text = await log_tail(self._api, self._run.name, stream, lines=MAX_LINES, pauses=())
        return text[-size:]

    # -- The end

    async def sweep(self) -> Sequence[Leftover]:
        """Accept no more launches, and stop all tasks but the scheduler's."""
        self._closed = True
        unanswered = await self._api.settle()
        left = await stop_run(
            self._api,
            self._run.name,
            self._close_timeout,
            known=self._units,
            but=[self._scheduler_task],
        )
        return [*left, *unanswered]
