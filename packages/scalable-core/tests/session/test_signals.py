"""Signal handling, on the main thread of this process."""

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import FrameType

import pytest

from scalable.session import signals

WATCHED = (signal.SIGTERM, signal.SIGHUP)


class Session:
    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Start with the default handlers, and check that they are restored in the end."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in WATCHED}
    yield
    after = {number: signal.getsignal(number) for number in WATCHED}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert not signals._registered
    assert set(after.values()) <= {signal.SIG_DFL, signal.SIG_IGN} or after == before


@pytest.mark.parametrize("number", WATCHED)
def test_a_termination_signal_raises_an_exception_that_leaves_every_block(number: int) -> None:
    session = Session()
    signals.register(session.close)
    try:
        with pytest.raises(SystemExit) as caught:
            signal.raise_signal(number)
    finally:
        signals.unregister(session.close)

    assert caught.value.code == 128 + number
    assert signal.getsignal(number) is signal.SIG_DFL


def test_a_handler_of_the_users_runs_after_the_session_is_closed() -> None:
    session = Session()
    seen: list[tuple[int, int]] = []

    def handler(number: int, frame: FrameType | None) -> None:
        seen.append((number, session.closed))

    signal.signal(signal.SIGTERM, handler)
    signals.register(session.close)
    try:
        signal.raise_signal(signal.SIGTERM)
    finally:
        signals.unregister(session.close)

    assert seen == [(signal.SIGTERM, 1)]
    assert signal.getsignal(signal.SIGTERM) is handler
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_a_handler_of_the_users_runs_also_if_closing_fails() -> None:
    seen: list[int] = []

    def close() -> None:
        raise OSError("stuck")

    signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    signals.register(close)
    try:
        with pytest.raises(OSError, match="stuck"):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signals.unregister(close)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    assert seen == [signal.SIGTERM]


def test_an_ignored_signal_stays_ignored() -> None:
    session = Session()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signals.register(session.close)
    try:
        signal.raise_signal(signal.SIGHUP)
    finally:
        signals.unregister(session.close)

    assert session.closed == 0
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_handlers_stay_until_the_last_of_several_sessions_is_closed() -> None:
    first, second = Session(), Session()
    signals.register(first.close)
    signals.register(second.close)
    try:
        signals.unregister(first.close)
        with pytest.raises(SystemExit):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signals.unregister(first.close)
        signals.unregister(second.close)

    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_handler_that_was_set_later_is_kept() -> None:
    session = Session()
    signals.register(session.close)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signals.unregister(session.close)

    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


def test_other_threads_do_not_change_signal_handlers() -> None:
    session = Session()

    def elsewhere() -> None:
        signals.register(session.close)
        with signals.deferred_signals():
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        signals.unregister(session.close)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()


def test_ctrl_c_waits_until_the_block_is_done() -> None:
    done = []

    @signals.deferred_signals()
    def close() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        done.append(True)

    with pytest.raises(KeyboardInterrupt):
        close()

    assert done


def test_a_session_that_closes_because_of_a_signal_is_not_cut_short_by_the_next() -> None:
    session = Session()

    @signals.deferred_signals()
    def close() -> None:
        signal.raise_signal(signal.SIGTERM)
        session.close()

    signals.register(session.close)
    try:
        with pytest.raises(SystemExit) as caught:
            close()
    finally:
        signals.unregister(session.close)

    assert caught.value.code == 128 + signal.SIGTERM
    assert session.closed == 1


SLEEPER = """
import signal, threading, time
from scalable.session import signals

def receive():
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

signals.register(lambda: None)
try:
    threading.Timer(0.1, receive).start()
    time.sleep(600)
finally:
    print("left in order")
"""


def test_a_signal_that_another_thread_receives_wakes_the_main_thread() -> None:
    slept = subprocess.run(
        [sys.executable, "-c", SLEEPER], capture_output=True, text=True, timeout=120, check=False
    )
    assert (slept.returncode, slept.stdout) == (143, "left in order\n"), slept.stderr


def test_an_existing_wakeup_descriptor_is_kept() -> None:
    session = Session()
    reader, writer = socket.socketpair()
    with reader, writer:
        writer.setblocking(False)
        before = signal.set_wakeup_fd(writer.fileno())
        try:
            signals.register(session.close)
            signals.unregister(session.close)
        finally:
            assert signal.set_wakeup_fd(before) == writer.fileno()
