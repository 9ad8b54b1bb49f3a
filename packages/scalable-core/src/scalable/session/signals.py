"""Close sessions when the process receives a signal that would end it.

Python turns Ctrl-C into an exception, which leaves every ``with`` block on its way. SIGTERM and SIGHUP end the process
immediately, and nothing else knows about its workers on other machines. So while a session is open they raise an
exception too: `SystemExit`, with the status that shells expect.

An exception that a handler raises can be lost: Python ignores those of finalizers and of callbacks of its garbage
collector, one of which Dask installs. While a session is open, what is lost there is raised again.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from scalable.session.forwarder import SignalForwarder

__all__ = [
    "END_SIGNALS",
    "deferred_signals",
    "handled_by",
    "is_inside_hook",
    "mark_handled",
    "raise_again",
    "register",
    "unregister",
    "was_raised_again",
]

_TERMINATION_SIGNALS = (signal.SIGTERM, signal.SIGHUP)

END_SIGNALS = (signal.SIGINT, *_TERMINATION_SIGNALS)
"""The signals that end a run."""

_RAISE_AGAIN_AFTER = 0.05
"""Seconds until a lost exception is raised again: the callback that has lost it has to return first."""

Close = Callable[[], None]

_registered: list[Close] = []
_previous: dict[int, Any] = {}
_forwarder: SignalForwarder | None = None
_previous_hook: Callable[[Any], object] | None = None
_run_handler: Callable[[int, FrameType | None], None] | None = None
_raised_again: set[int] = set()

lost = 0
"""How many exceptions that a signal has raised were lost in a callback so far."""


def register(close: Close) -> None:
    """Make SIGTERM and SIGHUP close a session, until `unregister`.

    A signal that would end the process raises `SystemExit` with 128 + its number. A signal that has a handler of the
    user's calls `close` and then that handler. A signal that is ignored stays ignored. On threads other than the main
    one, where Python allows no handlers, signals stay as they are.

    Parameters
    ----------
    close : callable
        Closes the session. Called on the main thread, between any two of its instructions.
    """
    global _forwarder, _previous_hook
    if close in _registered:
        return
    _registered.append(close)
    if _previous_hook is None:
        _previous_hook, sys.unraisablehook = sys.unraisablehook, _catch_lost
    if _on_main_thread():
        for number in _TERMINATION_SIGNALS:
            handler = signal.getsignal(number)
            # None: a handler that was not set from Python cannot be called from there.
            if not _is_ours(handler) and handler not in (signal.SIG_IGN, None):
                _previous[number] = handler
                signal.signal(number, _handle)
        if _forwarder is None:
            _forwarder = SignalForwarder(lambda number: _is_ours(signal.getsignal(number)))


def _is_ours(handler: object) -> bool:
    return handler is _handle or (_run_handler is not None and handler is _run_handler)


@contextmanager
def handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Install one handler for all signals that end a run, until the block is left; those that are ignored stay so.

    On threads other than the main one, signals stay as they are.
    """
    global _run_handler
    if not _on_main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in END_SIGNALS}
    before = {n: was for n, was in before.items() if was not in (None, signal.SIG_IGN)}
    _run_handler = handler
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, was in before.items():
            if signal.getsignal(number) is handler:
                signal.signal(number, was)
        _run_handler = None


def raise_again(number: int, after: float = _RAISE_AGAIN_AFTER) -> None:
    """Send a signal to the main thread once more, unless it has another handler by then.

    In the handler, `was_raised_again` is true of it.
    """
    main, handler = threading.main_thread().ident, signal.getsignal(number)

    def send() -> None:
        if main is not None and signal.getsignal(number) is handler:
            _raised_again.add(number)
            signal.pthread_kill(main, number)

    timer = threading.Timer(after, send)
    timer.daemon = True
    timer.start()


def was_raised_again(number: int) -> bool:
    """Return, in a handler, whether its signal is one of `raise_again`; once for each."""
    if number in _raised_again:
        _raised_again.discard(number)
        return True
    return False


def _catch_lost(unraisable: Any) -> None:
    """Raise again what ended the run, and was raised where Python ignores exceptions."""
    global lost
    number = _signal_of(unraisable.exc_value) if _on_main_thread() else None
    if number is not None:
        lost += 1
        raise_again(number)
    elif _previous_hook is not None:
        _previous_hook(unraisable)


def is_inside_hook(frame: FrameType | None) -> bool:
    """Return whether a frame is one of what raises lost exceptions again, or is called by it."""
    while frame is not None:
        if frame.f_code is _catch_lost.__code__:
            return True
        frame = frame.f_back
    return False


def _signal_of(error: BaseException | None) -> int | None:
    if isinstance(error, KeyboardInterrupt):
        return signal.SIGINT
    if isinstance(error, SystemExit):
        return next((n for n in _TERMINATION_SIGNALS if error.code == 128 + n), None)
    return None


def unregister(close: Close) -> None:
    """Undo `register`; with the last session, the handlers from before are back. Idempotent."""
    if close in _registered:
        _registered.remove(close)
    if not _registered and _on_main_thread():
        _restore()


def _restore() -> None:
    global _forwarder, _previous_hook
    if _previous_hook is not None:
        if sys.unraisablehook is _catch_lost:
            sys.unraisablehook = _previous_hook
        _previous_hook = None
    for number in list(_previous):
        # A handler that was set in the meantime stays.
        if signal.getsignal(number) is _handle:
            signal.signal(number, _previous[number])
        del _previous[number]
    if _forwarder is not None:
        _forwarder.stop()
        _forwarder = None


def _reset_in_fork() -> None:
    """Restore the previous signal handlers in a fork, which owns none of the sessions."""
    _registered.clear()
    _restore()


os.register_at_fork(after_in_child=_reset_in_fork)


def mark_handled() -> None:
    """Record, in a handler, that it has been called."""
    if _forwarder is not None:
        _forwarder.mark_handled()


def _handle(number: int, frame: FrameType | None) -> None:
    mark_handled()
    was_raised_again(number)
    if is_inside_hook(frame):
        raise_again(number)  # an exception would be lost here, too
        return
    previous = _previous[number]
    if callable(previous):
        try:
            for close in reversed(_registered.copy()):
                close()
        finally:
            previous(number, frame)
        return
    # The exception closes every session on its way; those outside of a `with` block close when the interpreter exits.
    raise SystemExit(128 + number)


@contextmanager
def deferred_signals(arrived: Callable[[int], object] | None = None) -> Iterator[None]:
    """Defer Ctrl-C, SIGTERM and SIGHUP until the block is left, so that closing a cluster is not interrupted.

    Parameters
    ----------
    arrived : callable, optional
        Called at once with the number of each signal that is deferred.
    """
    if not _on_main_thread():
        yield
        return
    received: list[int] = []
    before: dict[int, Any] = {number: signal.getsignal(number) for number in END_SIGNALS}
    # None: a handler that was not set from Python could not be put back.
    before = {number: handler for number, handler in before.items() if handler is not None}

    def defer(number: int, _: FrameType | None) -> None:
        received.append(number)
        if arrived is not None and before[number] is not signal.SIG_IGN:
            arrived(number)

    for number in before:
        signal.signal(number, defer)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for received_number in dict.fromkeys(received):
            signal.raise_signal(received_number)


def _on_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
