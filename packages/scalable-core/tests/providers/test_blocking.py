"""Blocking calls in threads that hang, fail late, and end after whoever waited for them."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalable.errors import ClusterClosedError, NativeTimeoutError
from scalable.providers.blocking import BlockingCalls

LONG = 60.0


class Native:
    """A native system whose answers a test holds back."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.answer = threading.Event()
        self.created: list[str] = []

    def create(self, name: str = "vm") -> str:
        self.begun.set()
        assert self.answer.wait(LONG)
        self.created.append(name)
        return name

    def fail(self) -> None:
        self.begun.set()
        assert self.answer.wait(LONG)
        raise ConnectionError("reset by peer")


@pytest.fixture
def native() -> Iterator[Native]:
    made = Native()
    yield made
    made.answer.set()


async def begun(event: threading.Event) -> None:
    async with asyncio.timeout(LONG):
        while not event.is_set():
            await asyncio.sleep(0.001)


async def none_under_way(calls: BlockingCalls) -> None:
    async with asyncio.timeout(LONG):
        while calls.under_way:
            await asyncio.sleep(0.001)


def test_a_call_returns_its_result_from_a_thread_of_its_own() -> None:
    async def scenario() -> None:
        calls = BlockingCalls("c")

        def work(a: int, *, b: int) -> tuple[int, str, bool]:
            thread = threading.current_thread()
            return a + b, thread.name, thread.daemon

        total, thread, daemon = await calls.run(work, 1, b=2)
        assert (total, daemon) == (3, True)
        assert thread.startswith("c/")
        assert calls.under_way == []

    asyncio.run(scenario())


@pytest.mark.parametrize("error", [ConnectionError("refused"), TimeoutError("of the SDK")])
def test_the_error_of_a_call_is_raised_as_it_is(error: Exception) -> None:
    def fail() -> None:
        raise error

    async def scenario() -> None:
        with pytest.raises(type(error)) as caught:
            await BlockingCalls("c", deadline=LONG).run(fail)
        assert caught.value is error

    asyncio.run(scenario())


def test_stop_iteration_is_an_error_and_not_a_hang() -> None:
    empty: Iterator[int] = iter(())

    async def scenario() -> None:
        with pytest.raises(RuntimeError, match="StopIteration"):
            await BlockingCalls("c", deadline=LONG).run(next, empty)

    asyncio.run(scenario())


def test_a_call_has_the_context_variables_of_its_coroutine() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")

    async def scenario() -> None:
        variable.set("mine")
        assert await BlockingCalls("c").run(variable.get) == "mine"

    asyncio.run(scenario())


def test_a_call_that_hangs_delays_no_other(native: Native) -> None:
    async def scenario() -> None:
        calls = BlockingCalls("c")
        hanging = [asyncio.create_task(calls.run(native.create)) for _ in range(50)]
        await begun(native.begun)
        async with asyncio.timeout(LONG):
            assert await calls.run(len, "four") == 4
        assert len(calls.under_way) == 50
        native.answer.set()
        assert await asyncio.gather(*hanging) == ["vm"] * 50

    asyncio.run(scenario())


@pytest.mark.parametrize("of_the_call", [True, False])
def test_a_call_past_its_deadline_ends_the_wait_and_stays_under_way(
    native: Native, of_the_call: bool
) -> None:
    async def scenario() -> None:
        calls = BlockingCalls("c", deadline=LONG if of_the_call else 0.01)
        with pytest.raises(NativeTimeoutError):
            await calls.run(native.create, deadline=0.01 if of_the_call else None)
        (call,) = calls.under_way
        assert call.name == "Native.create"
        assert call.seconds > 0
        native.answer.set()
        await none_under_way(calls)

    asyncio.run(scenario())


def test_settling_waits_for_a_call_whose_coroutine_was_cancelled(native: Native) -> None:
    async def scenario() -> None:
        calls = BlockingCalls("c")
        launch = asyncio.create_task(calls.run(native.create))
        await begun(native.begun)
        launch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await launch
        assert native.created == []
        settled = asyncio.create_task(calls.settle(LONG))
        await asyncio.sleep(0)
        native.answer.set()
        assert await settled == []
        assert native.created == ["vm"]

    asyncio.run(scenario())


def test_settling_returns_what_is_still_under_way_at_the_limit(native: Native) -> None:
    async def scenario() -> None:
        calls = BlockingCalls("c")
        launch = asyncio.create_task(calls.run(native.create))
        await begun(native.begun)
        assert [call.name for call in await calls.settle(0.01)] == ["Native.create"]
        native.answer.set()
        assert await launch == "vm"  # whoever waits still gets the result
        assert await calls.settle(LONG) == []

    asyncio.run(scenario())


def test_settling_that_is_cancelled_has_closed(native: Native) -> None:
    async def scenario() -> None:
        calls = BlockingCalls("c")
        launch = asyncio.create_task(calls.run(native.create))
        await begun(native.begun)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await calls.settle(LONG)
        with pytest.raises(ClusterClosedError):
            await calls.run(len, "")
        native.answer.set()
        assert await launch == "vm"

    asyncio.run(scenario())


def test_no_call_begins_once_it_is_closed() -> None:
    async def scenario() -> None:
        calls = BlockingCalls("c")
        calls.close()
        with pytest.raises(ClusterClosedError, match="'c' is closed"):
            await calls.run(pytest.fail)

    asyncio.run(scenario())


@pytest.mark.parametrize("end", ["close", "cancel"])
def test_a_call_that_has_not_begun_never_begins(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    held: list[Callable[[], None]] = []

    class Held(threading.Thread):
        """A thread that the system has not scheduled yet."""

        def start(self) -> None:
            held.append(super().start)

    calls = BlockingCalls("c")
    monkeypatch.setattr(threading, "Thread", Held)
    called = threading.Event()

    async def scenario() -> None:
        launch = asyncio.create_task(calls.run(called.set))
        await asyncio.sleep(0)
        assert len(held) == 1
        if end == "cancel":
            launch.cancel()
            with pytest.raises(asyncio.CancelledError):
                await launch
        assert await calls.settle(LONG) == []
        if end == "close":
            with pytest.raises(ClusterClosedError):
                await launch
        held[0]()
        assert await calls.settle(LONG) == []

    asyncio.run(scenario())
    for thread in threading.enumerate():
        if isinstance(thread, Held):
            thread.join(LONG)
    assert not called.is_set()


def test_a_call_that_fails_after_it_was_given_up_is_logged(
    native: Native, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        calls = BlockingCalls("c")
        with pytest.raises(NativeTimeoutError):
            await calls.run(native.fail, deadline=0.01)
        native.answer.set()
        assert await calls.settle(LONG) == []

    with caplog.at_level(logging.INFO, "scalable.providers.blocking"):
        asyncio.run(scenario())
    assert "reset by peer" in caplog.text


def test_a_call_may_end_after_its_loop_was_closed(
    native: Native, caplog: pytest.LogCaptureFixture
) -> None:
    calls = BlockingCalls("c")

    async def scenario() -> None:
        launch = asyncio.create_task(calls.run(native.create))
        await begun(native.begun)
        assert len(await calls.settle(0.01)) == 1
        launch.cancel()

    asyncio.run(scenario())
    native.answer.set()
    asyncio.run(none_under_way(calls))
    assert native.created == ["vm"]
    assert caplog.records == []


def test_a_thread_that_cannot_start_is_not_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    calls = BlockingCalls("c")
    monkeypatch.setattr(threading.Thread, "start", refuse)

    async def scenario() -> None:
        with pytest.raises(RuntimeError, match="can't start"):
            await calls.run(len, "")
        assert await calls.settle(LONG) == []

    asyncio.run(scenario())


def test_calls_are_made_when_the_interpreter_ends() -> None:
    program = """
import asyncio, threading
from scalable.providers.blocking import BlockingCalls

calls = BlockingCalls("c")

async def end():
    assert await asyncio.gather(*(calls.run(pow, n, 2, deadline=60) for n in range(9))) == [n * n for n in range(9)]
    assert await calls.settle(60) == []
    print("made")

# As clusters that were left open are closed.
threading._register_atexit(lambda: asyncio.run(end()))
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "made\n", "")


def test_a_call_that_hangs_does_not_keep_python_from_ending() -> None:
    program = """
import asyncio, threading
from scalable.providers.blocking import BlockingCalls

async def main():
    calls = BlockingCalls("c")
    task = asyncio.create_task(calls.run(threading.Event().wait))
    while not calls.under_way:
        await asyncio.sleep(0)
    print(len(await calls.settle(0.01)))

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=LONG, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == ("1\n", "", 0)


Behavior = tuple[str, bool]


@given(st.lists(st.tuples(st.sampled_from(["quick", "slow", "late", "fails"]), st.booleans())))
def test_after_settling_without_leftovers_nothing_runs(behaviors: list[Behavior]) -> None:
    """Whatever calls do, and whether or not those who waited for them gave up."""
    running: set[object] = set()
    begun_calls: list[object] = []

    async def scenario(gates: list[threading.Event]) -> None:
        calls = BlockingCalls("c")
        tasks = []
        for (kind, given_up), gate in zip(behaviors, gates, strict=True):
            task = asyncio.create_task(calls.run(_work, kind, gate, running, begun_calls))
            tasks.append(task)
            await asyncio.sleep(0)
            if given_up:
                task.cancel()
        slow = asyncio.create_task(calls.settle(LONG))
        await asyncio.sleep(0)
        for (kind, _), gate in zip(behaviors, gates, strict=True):
            if kind == "slow":
                gate.set()
        if any(kind == "late" for kind, _ in behaviors):
            slow.cancel()
            left = await calls.settle(0)
            assert {call.name for call in left} <= {"_work"}
            for gate in gates:
                gate.set()
            assert await calls.settle(LONG) == []
        else:
            assert await slow == []
        assert running == set()
        count = len(begun_calls)
        with pytest.raises(ClusterClosedError):
            await calls.run(_work, "quick", threading.Event(), running, begun_calls)
        await asyncio.gather(*tasks, slow, return_exceptions=True)
        assert (len(begun_calls), running) == (count, set())

    with ExitStack() as opened:
        gates = [threading.Event() for _ in behaviors]
        for gate in gates:
            opened.callback(gate.set)
        asyncio.run(scenario(gates))


def _work(kind: str, gate: threading.Event, running: set[object], calls: list[object]) -> None:
    me = object()
    calls.append(me)
    running.add(me)
    try:
        if kind in ("slow", "late"):
            assert gate.wait(LONG)
        if kind == "fails":
            raise OSError("no route")
    finally:
        running.discard(me)


def test_calls_from_several_loops_settle_together(native: Native) -> None:
    calls = BlockingCalls("c")
    outcome: Future[Any] = Future()

    def other_loop() -> None:
        outcome.set_result(asyncio.run(calls.run(native.create)))

    thread = threading.Thread(target=other_loop, daemon=True)
    thread.start()

    async def scenario() -> None:
        await begun(native.begun)
        assert len(await calls.settle(0.01)) == 1
        native.answer.set()
        assert await calls.settle(LONG) == []

    asyncio.run(scenario())
    assert outcome.result(LONG) == "vm"
    thread.join(LONG)


def test_the_name_of_a_call_shows_no_bound_arguments(native: Native) -> None:
    async def scenario() -> None:
        calls = BlockingCalls("c")
        launch = asyncio.create_task(calls.run(partial(native.create, "hunter2")))
        await begun(native.begun)
        assert [call.name for call in calls.under_way] == ["Native.create"]
        native.answer.set()
        assert await launch == "hunter2"

    asyncio.run(scenario())
