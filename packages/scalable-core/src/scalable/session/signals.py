"""End sessions in order when the process is told to end.

Python turns Ctrl-C into an exception, which leaves every ``with`` block on its way. SIGTERM and SIGHUP end the process
on the spot, and with it the only one who knows about workers elsewhere. So while a session is open they become an
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

from scalable.session.relay import SignalRelay

__all__ = ["deferred_signals", "release", "watch"]

_ENDING = (signal.SIGTERM, signal.SIGHUP)

Close = Callable[[], None]

_open: list[Close] = []
_previous: dict[int, Any] = {}
_relay: SignalRelay | None = None


def watch(close: Close) -> None:
    """See to it that SIGTERM and SIGHUP do not leave a session behind, until `release`.

    A signal that would end the process raises `SystemExit` with 128 + its number. One that has a handler of the
    user's calls `close` and then that handler. One that is ignored stays ignored. Does nothing to signals on threads
    other than the main one, where Python allows no handlers.

    Parameters
    ----------
    close : callable
        Closes the session. Called on the main thread, between any two of its instructions.
    """
    global _relay
    _open.append(close)
    if _on_main_thread():
        for number in _ENDING:
            handler = signal.getsignal(number)
            # None: a handler that was not set from Python cannot be called from there.
            if handler not in (_handle, signal.SIG_IGN, None):
                _previous[number] = handler
                signal.signal(number, _handle)
        if _relay is None:
            _relay = SignalRelay(lambda number: signal.getsignal(number) is _handle)


def release(close: Close) -> None:
    """Undo `watch`; with the last session, the handlers from before are back. Idempotent."""
    if close in _open:
        _open.remove(close)
    if not _open and _on_main_thread():
        _restore()


def _restore() -> None:
    global _relay
    for number in list(_previous):
        # Whoever set a handler in the meantime keeps it.
        if signal.getsignal(number) is _handle:
            signal.signal(number, _previous[number])
        del _previous[number]
    if _relay is not None:
        _relay.stop()
        _relay = None


def _disown() -> None:
    """Have signals mean in a fork what they meant before the first session: none of them is in there."""
    _open.clear()
    _restore()


os.register_at_fork(after_in_child=_disown)


def _handle(number: int, frame: FrameType | None) -> None:
    if _relay is not None:
        _relay.notice()
    previous = _previous[number]
    if callable(previous):
        try:
            for close in reversed(_open.copy()):
                close()
        finally:
            previous(number, frame)
        return
    # The exception closes every session on its way; those outside of a `with` block end with the interpreter.
    raise SystemExit(128 + number)


@contextmanager
def deferred_signals() -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and SIGHUP wait until the block is left, so that what closes a cluster is not cut short."""
    if not _on_main_thread():
        yield
        return
    arrived: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *_ENDING)}
    # None: a handler that was not set from Python could not be put back.
    before = {number: handler for number, handler in before.items() if handler is not None}
    for number in before:
        signal.signal(number, lambda number, _: arrived.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for arrival in dict.fromkeys(arrived):
            signal.raise_signal(arrival)


def _on_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
