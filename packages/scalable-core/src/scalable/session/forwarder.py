"""Wake the main thread for signals that another thread has received.

Python runs handlers on the main thread, but the kernel chooses the thread that receives a signal, and just after a
SIGCONT it rarely chooses the main one. That one, while it sleeps or waits, would then go on with it for as long as it
takes (https://docs.python.org/3/library/signal.html#execution-of-python-signal-handlers).
"""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable

__all__ = ["SignalForwarder"]

# That a signal waits for so long means that the main thread does not know of it.
_HANDLER_TIMEOUT = 0.1


class SignalForwarder:
    """Sends on to the main thread what its handler has not been called for.

    Does nothing where there is a wakeup file descriptor already: an event loop on the main thread wakes by itself.

    Parameters
    ----------
    is_handled : callable
        Says whether a signal, by its number, has the handler that calls `mark_handled`.
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
        """Say that a handler has been called."""
        self._handled.set()

    def stop(self) -> None:
        """Let everything be as it was. On the main thread only."""
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
