"""Close sessions when the process receives a signal that would end it.

Python turns Ctrl-C into an exception, which leaves every ``with`` block on its way. SIGTERM and SIGHUP end the process
immediately, and nothing else knows about its workers on other machines. So while a session is open they raise an
exception too: `SystemExit`, with the status that shells expect.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from scalable.session.forwarder import SignalForwarder

__all__ = ["deferred_signals", "register", "unregister"]

_TERMINATION_SIGNALS = (signal.SIGTERM, signal.SIGHUP)

Close = Callable[[], None]

_registered: list[Close] = []
_previous: dict[int, Any] = {}
_forwarder: SignalForwarder | None = None


def register(close: Close) -> None:
    """Have SIGTERM and SIGHUP close a session, until `unregister`.

    A signal that would end the process raises `SystemExit` with 128 + its number. A signal that has a handler of the
    user's calls `close` and then that handler. A signal that is ignored stays ignored. On threads other than the main
    one, where Python allows no handlers, signals stay as they are.

    Parameters
    ----------
    close : callable
        Closes the session. Called on the main thread, between any two of its instructions.
    """
    global _forwarder
    _registered.append(close)
    if _on_main_thread():
        for number in _TERMINATION_SIGNALS:
            handler = signal.getsignal(number)
            # None: a handler that was not set from Python cannot be called from there.
            if handler not in (_handle, signal.SIG_IGN, None):
                _previous[number] = handler
                signal.signal(number, _handle)
        if _forwarder is None:
            _forwarder = SignalForwarder(lambda number: signal.getsignal(number) is _handle)


def unregister(close: Close) -> None:
    """Undo `register`; with the last session, the handlers from before are back. Idempotent."""
    if close in _registered:
        _registered.remove(close)
    if not _registered and _on_main_thread():
        _restore()


def _restore() -> None:
    global _forwarder
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


def _handle(number: int, frame: FrameType | None) -> None:
    if _forwarder is not None:
        _forwarder.mark_handled()
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
def deferred_signals() -> Iterator[None]:
    """Defer Ctrl-C, SIGTERM and SIGHUP until the block is left, so that closing a cluster is not interrupted."""
    if not _on_main_thread():
        yield
        return
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *_TERMINATION_SIGNALS)}
    # None: a handler that was not set from Python could not be put back.
    before = {number: handler for number, handler in before.items() if handler is not None}
    for number in before:
        signal.signal(number, lambda number, _: received.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for received_number in dict.fromkeys(received):
            signal.raise_signal(received_number)


def _on_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
