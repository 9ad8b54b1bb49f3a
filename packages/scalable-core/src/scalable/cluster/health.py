"""Whether the scheduler is up, late or lost, judged by its answers. No I/O, no clock of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from scalable.cluster.port import Explanation, Reason
from scalable.errors import describe_error

__all__ = ["LinkState", "SchedulerHealth"]

REFUSED_TIMEOUT = 20.0
"""Seconds for which a scheduler's port must refuse connections, before it counts as gone."""

MAX_STEP = 10.0
"""The most seconds that count between two updates. A turn of the controller takes less."""


class LinkState(StrEnum):
    """The state of the link to the scheduler."""

    UP = "up"
    LATE = "late"
    """It has not answered for a while, and may do so again."""
    LOST = "lost"
    """It is gone, and every task and result with it."""


@dataclass
class SchedulerHealth:
    """What is known about the life of a scheduler.

    Parameters
    ----------
    late_after : float
        Seconds without an answer after which the scheduler is late.
    timeout : float
        Seconds without an answer after which it is lost.
    updated_at : float
        The time of the last update, in seconds on the controller's clock.

    Attributes
    ----------
    state : LinkState
        Whether it is up, late or lost.
    silence : float
        Seconds since its last answer in which this process has waited for one.
    slept : float
        Seconds before the last update in which this process has not run.

    Examples
    --------
    >>> health = SchedulerHealth(late_after=2, timeout=15, updated_at=0)
    >>> [str(health.update(now)) for now in (1, 5, 10, 20)]
    ['up', 'late', 'late', 'lost']
    >>> health.explanation.summary
    'the scheduler has not answered for 20 s'
    """

    late_after: float
    timeout: float
    updated_at: float
    state: LinkState = LinkState.UP
    silence: float = 0.0
    slept: float = 0.0
    _error: BaseException | None = None
    _refused_since: float | None = None
    _host_says: Explanation | None = None
    _verdict: Explanation | None = None

    def record_answer(self) -> None:
        """Record that the scheduler has answered. A lost one stays lost, because its work was given up."""
        if self.state is not LinkState.LOST:
            self.state, self.silence = LinkState.UP, 0.0
            self._error = self._refused_since = self._host_says = None

    def record_error(self, error: BaseException, began: float, now: float) -> None:
        """Record that a call has failed, which began to try at one time and gave up at another."""
        self._error = error
        if not is_refused(error):
            self._refused_since = None
        elif self._refused_since is None:
            self._refused_since = began
        elif now - self._refused_since >= REFUSED_TIMEOUT:
            summary = "nothing listens at its address any more"
            self._lose(Explanation(Reason.EXITED, summary, describe_error(error)))

    def record_host(self, explanation: Explanation, *, gone: bool) -> None:
        """Record what the scheduler's host says about it."""
        self._host_says = explanation
        if gone:
            self._lose(explanation)

    def record_replaced(self) -> None:
        """Record that another scheduler answers at its address."""
        summary = "another scheduler answers at its address, which knows none of its tasks"
        self._lose(Explanation(Reason.NODE_FAILURE, summary))

    def update(self, now: float) -> LinkState:
        """Return the state at this time."""
        # Time in which this process did not run, because it was stopped or its machine slept, proves nothing.
        self.slept = max(0.0, now - self.updated_at - MAX_STEP)
        self.silence += now - self.updated_at - self.slept
        self.updated_at = now
        if self.state is not LinkState.LOST:
            if self.silence > self.timeout:
                self._lose(self.explanation)
            elif self.silence > self.late_after:
                self.state = LinkState.LATE
        return self.state

    @property
    def explanation(self) -> Explanation:
        """Why the scheduler is late or lost."""
        if self._verdict is not None:
            return self._verdict
        summary = f"the scheduler has not answered for {self.silence:.0f} s"
        if self._host_says is not None:
            summary = f"{summary}; its host says: {self._host_says.summary}"
            return replace(self._host_says, reason=Reason.NETWORK, summary=summary)
        native = ""
        if self._error is not None and not isinstance(self._error, TimeoutError):
            native = describe_error(self._error)
        return Explanation(Reason.NETWORK, summary, native)

    def _lose(self, explanation: Explanation) -> None:
        if self._verdict is None:
            self._verdict, self.state = explanation, LinkState.LOST


def is_refused(error: BaseException) -> bool:
    """Return whether a call failed because nothing listens at the address.

    Examples
    --------
    >>> try:
    ...     raise OSError("timed out") from ConnectionRefusedError(111, "Connection refused")
    ... except OSError as error:
    ...     is_refused(error), is_refused(error.__cause__), is_refused(TimeoutError())
    (True, True, False)
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConnectionRefusedError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
