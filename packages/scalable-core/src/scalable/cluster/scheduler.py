"""The controller's calls to the scheduler that are under way, and what they show of its life.

No turn waits for the scheduler for longer than `Pace.scheduler_wait`: a call that takes longer continues while turns
are taken, and a later turn takes its answer. No call takes longer than `Pace.scheduler_call_timeout`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from scalable.cluster.events import EventLog
from scalable.cluster.health import LinkState, SchedulerHealth
from scalable.cluster.limits import limited, start_limited
from scalable.cluster.link import DrainProgress, Report, SchedulerLink
from scalable.cluster.pace import Pace
from scalable.cluster.port import Explanation, Phase, Reason
from scalable.errors import (
    GroupFailedError,
    SchedulerLostError,
    SchedulerStartError,
    WalltimeError,
    describe_error,
)

__all__ = ["SchedulerCalls"]

logger = logging.getLogger("scalable.cluster")

T = TypeVar("T")

MAX_RETRY_DELAY = 5.0
"""Longest time in seconds between two reports, while they fail."""

PROBE_INTERVAL = 5.0
"""Seconds between two questions for the scheduler's state and identity, while it does not answer."""


class SchedulerCalls:
    """The calls to a scheduler, one of each kind at a time, and the state of the link to it.

    Parameters
    ----------
    link : SchedulerLink
        The scheduler.
    name : str
        The cluster's name, for errors.
    events : EventLog
        The log for changes of the link's state.
    pace : Pace
        Timeouts.
    clock : callable
        Seconds, monotonic.
    """

    def __init__(
        self,
        link: SchedulerLink,
        name: str,
        events: EventLog,
        pace: Pace,
        clock: Callable[[], float],
    ) -> None:
        self.link = link
        self.lost: SchedulerLostError | None = None
        self._name = name
        self._events = events
        self._pace = pace
        self._clock = clock
        self._health = SchedulerHealth(pace.late_after, pace.scheduler_timeout, updated_at=clock())
        self._calls: dict[str, asyncio.Task[Any]] = {}
        self._messages: deque[Callable[[], Awaitable[None]]] = deque()
        self._sending = asyncio.Lock()
        self._failed_reports = 0
        self._retry_at = self._probe_at = -float("inf")
        self._report_began = 0.0
        self._identity = ""
        self._logged = LinkState.UP
        self._up_since = 0.0
        self._probe: asyncio.Task[None] | None = None

    # -- The state of the link

    @property
    def state(self) -> LinkState:
        """Whether the scheduler is up, late or lost."""
        return self._health.state

    @property
    def is_up(self) -> bool:
        """Whether the most recent call of a turn was answered."""
        return self.state is LinkState.UP and not self._failed_reports

    @property
    def slept(self) -> float:
        """Seconds before the most recent report in which this process did not run."""
        return self._health.slept

    @property
    def problem(self) -> Explanation | None:
        """Why it is late or lost; None while it is up."""
        return None if self.state is LinkState.UP else self._health.explanation

    async def start(self, slots: Mapping[str, int]) -> None:
        """Install the plugin on the scheduler, with the group table."""
        try:
            await self._limited(self.link.start(slots))
            self._identity = await self._limited(self.link.identity())
        except OSError as error:
            problem = Explanation(Reason.NETWORK, "it does not answer", describe_error(error))
            raise SchedulerStartError(self._name, problem) from error
        self._health.updated_at = self._clock()

    async def report(self) -> Report | None:
        """Return a new report; None where there is none yet, or the scheduler is lost."""
        report: Report | None = None
        if "report" in self._calls or self._clock() >= self._retry_at:
            if "report" not in self._calls:
                self._report_began = self._clock()
            answered, answer = await self._call("report", self.link.report)
            if answered:
                report = answer
                self._failed_reports = 0
                self._health.record_answer()
        self._update()
        if report is None or self.state is not LinkState.UP:
            return None
        return replace(report, since=self._up_since) if self._up_since else report

    def _record_failure(self, kind: str, error: Exception) -> None:
        if kind != "report":
            self._events.record("", f"the scheduler could not {kind}: {describe_error(error)}")
            return
        now = self._clock()
        self._retry_at = now + min(0.5 * 2.0 ** min(self._failed_reports, 10), MAX_RETRY_DELAY)
        self._failed_reports += 1
        self._health.record_error(error, self._report_began, now)

    def _update(self) -> None:
        """Bring the link's state up to date, and log each change of it once."""
        state = self._health.update(self._clock())
        if self._health.slept:
            # No worker could join meanwhile, where the scheduler is in this process; nor did anybody look.
            self._up_since = self._clock()
        if state is not LinkState.LOST and self._health.silence > self._pace.late_after / 3:
            self._start_probe()
        if state is self._logged:
            return
        self._logged = state
        problem = self._health.explanation
        if state is LinkState.UP:
            self._up_since = self._clock()
            self._log(logging.INFO, "the scheduler answers again")
        elif state is LinkState.LATE:
            text = f"{problem.summary}; no worker counts as running until it does"
            self._log(logging.WARNING, text)
        else:
            self.lost = SchedulerLostError(self._name, problem)
            self._log(logging.ERROR, str(self.lost).splitlines()[0])

    def _log(self, level: int, text: str) -> None:
        self._events.record("", text)
        logger.log(level, "%s", text)

    async def _limited(self, call: Awaitable[T]) -> T:
        return await limited(call, self._pace.scheduler_call_timeout, _timeout)

    # -- Its identity and its host, which are asked only while it does not answer

    def _start_probe(self) -> None:
        now, asking = self._clock(), self._probe is not None and not self._probe.done()
        if not asking and now >= self._probe_at:
            self._probe_at = now + PROBE_INTERVAL
            self._probe = asyncio.ensure_future(self._probe_scheduler())

    async def _probe_scheduler(self) -> None:
        # Each counts as soon as it is known; one that fails is no evidence.
        await asyncio.gather(self._check_host(), self._check_identity(), return_exceptions=True)

    async def _check_host(self) -> None:
        state = await self._limited(self.link.host_state())
        if state is not None:
            self._health.record_host(state.explanation, gone=state.phase is Phase.GONE)

    async def _check_identity(self) -> None:
        identity = await self._limited(self.link.identity())
        if identity != self._identity:
            self._health.record_replaced()

    # -- Requests with an answer

    async def drain(
        self, names: Sequence[str], *, force: bool = False
    ) -> Mapping[str, DrainProgress]:
        """Start or continue to drain workers; return the progress of those of which it is known now."""
        kind = "give up results" if force else "drain workers"
        answered, stages = await self._call(kind, lambda: self.link.drain(names, force=force))
        return {n: stages[n] for n in names if n in stages} if answered else {}

    async def resume(self, names: Sequence[str]) -> Sequence[str]:
        """Take draining workers back; return those that are known to be back.

        If the answer comes too late, the next `drain` undoes it.
        """
        answered, resumed = await self._call("resume workers", lambda: self.link.resume(names))
        return [name for name in resumed if name in names] if answered else []

    async def explain_deaths(self, deaths: Mapping[str, Explanation]) -> None:
        """Report why workers have died. The reports of the scheduler list them until this has arrived."""
        await self._call("take reasons of deaths", lambda: self.link.explain_deaths(deaths))

    async def _call(self, kind: str, begin: Callable[[], Awaitable[T]]) -> tuple[bool, Any]:
        """Return whether a call was answered in time, and the answer."""
        call = self._calls.get(kind)
        if call is None:
            limit = self._pace.scheduler_call_timeout
            call = self._calls[kind] = start_limited(begin(), limit, _timeout)
        wait = self._pace.scheduler_wait if self.state is LinkState.UP else 0
        await asyncio.wait([call], timeout=wait)
        if not call.done():
            return False, None
        del self._calls[kind]
        try:
            return True, call.result()
        except Exception as error:  # noqa: BLE001 - told in events, or as the state of the link
            self._record_failure(kind, error)
            return False, error

    # -- Messages, sent in order once the scheduler accepts them

    async def publish(self, slots: Mapping[str, int]) -> None:
        """Replace the group table."""
        await self._send(lambda: self.link.publish(slots))

    async def fail(self, tag: str, error: GroupFailedError | None) -> None:
        """Fail the tasks that only this group could run with `error`; None ends that."""
        await self._send(lambda: self.link.fail(tag, error))

    async def expire(self, workers: Mapping[str, tuple[float, WalltimeError | None]]) -> None:
        """Announce in how many seconds workers will be ended, and the error of tasks too long for their walltime."""
        at = self._clock()

        def expire() -> Awaitable[None]:
            late = self._clock() - at
            return self.link.expire(
                {n: (left - late, error) for n, (left, error) in workers.items()}
            )

        await self._send(expire)

    async def _send(self, message: Callable[[], Awaitable[None]]) -> None:
        self._messages.append(message)
        await self.send_messages()

    async def send_messages(self) -> None:
        """Send what the scheduler has not accepted yet."""
        async with self._sending:
            while self._messages and self.state is LinkState.UP:
                answered, error = await self._call("take a message", self._messages[0])
                if not answered and (error is None or isinstance(error, OSError)):
                    return  # it may not have arrived
                self._messages.popleft()

    # -- The end

    async def close(self) -> None:
        """Give up all calls, and close the connections."""
        for call in (*self._calls.values(), *([self._probe] if self._probe else [])):
            call.cancel()
        await self.link.close()


def _timeout(seconds: float) -> TimeoutError:
    return TimeoutError(f"the scheduler has not answered for {seconds:g} s")
