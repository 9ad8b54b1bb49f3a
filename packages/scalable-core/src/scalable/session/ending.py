"""The end of a run by a signal, which always arrives.

The first signal raises an exception in the workflow: `KeyboardInterrupt`, or `SystemExit` with the status that shells
expect. Where the workflow drops that exception and goes on, it is raised again; after some times, the run is ended
without it. While the cluster is closed, a second signal hurries, and a third one ends the process.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from scalable.session import signals

__all__ = ["MAX_DROPPED", "RunEnd"]

_LOOK_AFTER = 0.5
"""Seconds between two looks at whether the workflow still handles the exception."""

MAX_DROPPED = 3
"""How often the workflow may drop the exception."""

_MAX_DROPPED_BY_PYTHON = 20
"""How often Python may drop it, which it does in finalizers: a workflow may never be anywhere else."""


class RunEnd:
    """Whether signals have asked for the end of a run, and how the workflow is made to comply.

    Parameters
    ----------
    end_now : callable
        Ends the run and the process, given the signal's number. Called on the main thread, if the workflow goes on.

    Attributes
    ----------
    received : int
        The signals that have come so far, those not counted that hang up a terminal.
    """

    def __init__(self, end_now: Callable[[int], object]) -> None:
        self.received = 0
        self._end_now = end_now
        self._raised: list[BaseException] = []
        self._dropped = self._dropped_by_python = 0
        self._lost = signals.lost
        self._in_workflow = self._handling = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Handle the signals that end a run, until the block is left."""
        with signals.handled_by(self._handle):
            yield

    @contextmanager
    def workflow(self) -> Iterator[None]:
        """Run the workflow, which the signals end."""
        self._in_workflow = True
        try:
            yield
        finally:
            self._in_workflow = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        signals.mark_handled()
        again = signals.was_raised_again(number)
        self.received += not again and number != signal.SIGHUP
        # An exception would be lost inside of the hook, too; one while another signal is handled would take its place.
        if self._handling or signals.is_inside_hook(frame):
            signals.raise_again(number)
            return
        self._handling = True
        try:
            error = self._decide(number, again)
        finally:
            self._handling = False
        if error is not None:
            raise error

    def _decide(self, number: int, again: bool) -> BaseException | None:
        """Return what to raise in the workflow, if anything; end the run if that is to no avail."""
        if again:
            if not self._in_workflow:
                return None
            if self._is_handled():
                signals.raise_again(number, _LOOK_AFTER)
                return None
            if signals.lost > self._lost:
                self._lost = signals.lost  # Python has dropped it, not the workflow
                self._dropped_by_python += 1
            else:
                self._dropped += 1
            if self._dropped >= MAX_DROPPED or self._dropped_by_python >= _MAX_DROPPED_BY_PYTHON:
                self._in_workflow = False
                self._end_now(number)
        error: BaseException = (
            KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
        )
        self._raised.append(error)
        if self._in_workflow:
            signals.raise_again(number, _LOOK_AFTER)
        return error

    def _is_handled(self) -> bool:
        """Return whether the main thread is handling an exception that a signal has raised, or one raised then."""
        error = sys.exc_info()[1]
        seen: set[int] = set()
        while error is not None and id(error) not in seen:
            if any(error is raised for raised in self._raised):
                return True
            seen.add(id(error))
            error = error.__cause__ or error.__context__
        return False
