"""Forward signals that another thread has received to the main thread.

Python runs handlers on the main thread, but the kernel chooses the thread that receives a signal, and just after a
SIGCONT it rarely chooses the main one. If the main thread sleeps or waits at that time, it continues to do so and the
handler runs only afterwards (https://docs.python.org/3/library/signal.html#execution-of-python-signal-handlers).
"""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable

__all__ = ["SignalForwarder"]

# Seconds. If the handler has not been called by then, the main thread has not been woken by the signal.
_HANDLER_TIMEOUT = 0.1


class SignalForwarder:
    """A thread that sends a signal to the main thread if its handler has not been called.

    Does nothing if a wakeup file descriptor is set already: an event loop on the main thread wakes up by itself.

    Parameters
    ----------
    is_handled : callable
        Returns whether the handler of a signal, given by its number, calls `mark_handled`.
    """

    def __init__(self, is_handled: Callable[[int], bool]) -> None:
        self._is_handled = is_handled
        self._handled = threading.Event()
        receiver, self._sender = socket.socketpair()
        self._sender.setblocking(False)
        before = signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        if before != -1:
            signal.set_wakeup_fd(before)
        threading.Thread(
            target=self._forward, args=(receiver,), name="scalable-signals", daemon=True
        ).start()

    def mark_handled(self) -> None:
        """Record that a handler has been called."""
        self._handled.set()

    def stop(self) -> None:
        """Stop the thread and restore the wakeup file descriptor. On the main thread only."""
        before = signal.set_wakeup_fd(-1)
        if before != self._sender.fileno():
            signal.set_wakeup_fd(before)
        self._sender.close()

    def _forward(self, receiver: socket.socket) -> None:
        with receiver:
            while arrived := receiver.recv(1):
                handled = self._handled.wait(_HANDLER_TIMEOUT)
                self._handled.clear()
                main = threading.main_thread().ident
                if not handled and main is not None and self._is_handled(arrived[0]):
                    signal.pthread_kill(main, arrived[0])
