"""A native system whose answers are not true: the engine launches nothing for that, and the cap holds."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from scalable.cluster.port import GroupSpec, LaunchResult, Reason, Unit, UnitState
from scalable.testing.simulation import Simulation, UnitBehavior, in_virtual_time


@in_virtual_time
async def test_answers_that_are_out_of_date_launch_nothing() -> None:
    async with Simulation("gcam", "stitches", max_workers=4) as world:
        world.backend.lag = 15
        await world.scale({"gcam": 2, "stitches": 2})
        await world.scale({"gcam": 1})
        await world.run(60)

        assert len(world.backend.units) == 4
        assert world.groups["gcam"].running == 1


@in_virtual_time
async def test_workers_that_are_never_shown_are_kept_while_they_are_connected() -> None:
    async with Simulation("gcam") as world:
        await world.scale({"gcam": 3})
        tasks = world.scheduler.submit("gcam", 3, seconds=600)
        world.backend.omissions = Counter({"gcam-1": 10**6, "gcam-2": 10**6})
        await world.done(tasks)

        assert [len(task.starts) for task in tasks] == [1, 1, 1]
        assert len(world.backend.units) == 3


@in_virtual_time
async def test_a_unit_that_was_stopped_before_it_was_shown_takes_up_room_until_it_is_gone() -> None:
    async with Simulation("gcam", "stitches", max_workers=1) as world:
        world.backend.behavior["gcam"] = UnitBehavior(queue=600, stop_delay=12)
        world.backend.lag = 8
        await world.controller.scale_groups({"gcam": 1})
        await world.until(lambda: world.backend.alive("gcam"))
        await world.controller.scale_groups({"gcam": 0, "stitches": 1})
        await world.until(lambda: world.groups["stitches"].running == 1)


@in_virtual_time
async def test_capacity_that_comes_and_goes_fails_no_group() -> None:
    async with Simulation("gcam") as world:
        for capacity in (3, 0, 5, 2):
            world.backend.behavior["gcam"] = UnitBehavior(capacity=capacity)
            await world.controller.scale_groups({"gcam": 6})
            await world.run(300)
            assert world.groups["gcam"].reason is Reason.CAPACITY
            assert not world.groups["gcam"].failed
            assert "no machine is left" in world.groups["gcam"].detail
        world.backend.behavior["gcam"] = UnitBehavior()
        await world.until(lambda: world.groups["gcam"].running == 6, within=120)


class _SilentError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(asyncio.CancelledError(), id="cancelled by its library"),
        pytest.param(SystemExit(1), id="an exit"),
        pytest.param(BaseExceptionGroup("both", [asyncio.CancelledError()]), id="a group"),
        pytest.param(type("PanicException", (BaseException,), {})("at main.rs"), id="a panic"),
        pytest.param(StopAsyncIteration(), id="the end of an iteration"),
        pytest.param(_SilentError(), id="an error without text"),
    ],
)
@pytest.mark.parametrize("call", ["launch", "observe", "stop", "describe"])
@in_virtual_time
async def test_whatever_a_native_library_raises_is_waited_out(
    call: str, error: BaseException
) -> None:
    async with Simulation("gcam") as world:
        failing = world.backend.errors[call]
        if call == "launch":
            failing = world.backend.behavior["gcam"].errors
        failing.append(error)
        await world.scale({"gcam": 3})
        world.backend.kill("gcam-1", Reason.EXITED)
        await world.run(1)
        await world.scale({"gcam": 1})
        await world.until(lambda: len(world.backend.alive()) == 1)

        assert not failing


@pytest.mark.parametrize("error", [asyncio.CancelledError(), SystemExit(1), _SilentError()])
@in_virtual_time
async def test_whatever_a_native_library_raises_at_the_end_is_told(error: BaseException) -> None:
    async with Simulation("gcam") as world:
        await world.scale({"gcam": 1})
        world.backend.errors["sweep"].append(error)
        leftovers = await world.close()

        assert [each.name for each in leftovers] == ["sweeping", "gcam-1"]


@in_virtual_time
async def test_a_backend_that_returns_nothing_to_explain_or_sweep_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def nothing(*_: object) -> None:
        return None

    async with Simulation("gcam") as world:
        await world.scale({"gcam": 2})
        for call in ("describe", "sweep"):
            monkeypatch.setattr(world.backend, call, nothing)
        world.backend.kill("gcam-1", Reason.EXITED)
        await world.run(5)
        await world.until(lambda: world.groups["gcam"].running == 2)
        leftovers = await world.close()

        assert any(
            "describe() returned NoneType" in event.text for event in world.controller.events
        )
        assert ("sweeping", "'NoneType' object is not iterable") in [
            (each.name, each.error) for each in leftovers
        ]


# -- Answers of another type or content than the port has

ONE = Unit("gcam-1", "gcam", "request")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param(lambda answer: None, "returned NoneType", id="nothing"),
        pytest.param(lambda answer: len(answer.units), "returned int", id="a number"),
        pytest.param(lambda answer: iter(answer.units), "iterator", id="an iterator"),
        pytest.param(lambda answer: [unit.id for unit in answer.units], "no Unit", id="names"),
        pytest.param(lambda answer: [ONE, ONE], "'request'", id="units of another launch"),
        pytest.param(
            lambda answer: [replace(unit, tag="b") for unit in answer.units],
            "of group 'gcam'",
            id="units of another group",
        ),
        pytest.param(lambda answer: LaunchResult((), -1), "-1 units", id="fewer than none"),
        pytest.param(
            lambda answer: LaunchResult((), shortfall="no room"),  # type: ignore[arg-type]
            "not an Explanation",
            id="a text as a reason",
        ),
    ],
)
@in_virtual_time
async def test_an_answer_to_a_launch_that_is_none_is_told_and_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[LaunchResult], Any], told: str
) -> None:
    async with Simulation("gcam") as world:
        launch = world.backend.launch
        wrong = iter([True])

        async def changed(group: GroupSpec, n: int, request_id: str) -> LaunchResult:
            answer = await launch(group, n, request_id)
            return change(answer) if next(wrong, False) else answer

        monkeypatch.setattr(world.backend, "launch", changed)
        await world.scale({"gcam": 2})
        await world.run(5)

        assert len(world.backend.units) == world.groups["gcam"].running == 2
        assert any(
            "launching failed: launch() " in event.text and told in event.text
            for event in world.controller.events
        )


@in_virtual_time
async def test_units_that_a_launch_names_twice_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Simulation("gcam") as world:
        launch = world.backend.launch

        async def doubled(group: GroupSpec, n: int, request_id: str) -> Sequence[Unit]:
            return 2 * list((await launch(group, n, request_id)).units)

        monkeypatch.setattr(world.backend, "launch", doubled)
        await world.scale({"gcam": 2})

        assert world.controller.groups["gcam"].unnamed == 0


State = Mapping[str, UnitState]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param(lambda seen: None, "returned NoneType", id="nothing"),
        pytest.param(lambda seen: [*seen.values()], "returned list", id="a list"),
        pytest.param(lambda seen: dict.fromkeys(seen), "is no UnitState", id="no states"),
        pytest.param(
            lambda seen: {f"job {name}": state for name, state in seen.items()},
            "under the id 'job ",
            id="other names",
        ),
        *(
            pytest.param(
                lambda seen, name=name, value=value: {
                    unit: replace(state, **{name: value}) for unit, state in seen.items()
                },
                repr(value),
                id=f"{name}={value!r}",
            )
            for name, value in (
                ("phase", "running"),
                ("phase", None),
                ("reason", "image"),
                ("detail", None),
                ("seconds_left", "00:10:00"),
                ("seconds_left", math.nan),
            )
        ),
    ],
)
@in_virtual_time
async def test_an_observation_that_is_none_is_told_in_the_group_and_costs_nothing(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[State], Any], told: str
) -> None:
    async with Simulation("gcam") as world:
        await world.scale({"gcam": 2})
        (task,) = world.scheduler.submit("gcam", seconds=60)
        observe = world.backend.observe

        async def changed() -> Any:
            return change(await observe())

        monkeypatch.setattr(world.backend, "observe", changed)
        await world.done([task])
        shown = world.groups["gcam"]
        monkeypatch.undo()
        await world.until(lambda: world.groups["gcam"].reason is None)

        assert "cannot observe the native system, will try again: observe() " in shown.detail
        assert told in shown.detail
        assert (shown.running, len(task.starts), len(world.backend.units)) == (2, 1, 2)


@pytest.mark.parametrize("left", [-3600.0, -1.0, 0.0])
@in_virtual_time
async def test_a_walltime_that_is_up_from_the_start_is_none(
    monkeypatch: pytest.MonkeyPatch, left: float
) -> None:
    async with Simulation("gcam") as world:
        observe = world.backend.observe

        async def skewed() -> State:
            return {
                name: replace(state, seconds_left=left) for name, state in (await observe()).items()
            }

        monkeypatch.setattr(world.backend, "observe", skewed)
        await world.scale({"gcam": 2})
        tasks = world.scheduler.submit("gcam", 4, seconds=600)
        await world.done(tasks)

        assert len(world.backend.units) == 2


class _Interrupt(BaseException):
    pass


@pytest.mark.parametrize(
    "error", [OSError("at once"), asyncio.CancelledError("at once"), _Interrupt("at once")]
)
@pytest.mark.parametrize("call", ["launch", "observe", "stop", "describe"])
@in_virtual_time
async def test_a_method_that_is_no_coroutine_and_raises_at_once_ends_no_turn(
    monkeypatch: pytest.MonkeyPatch, call: str, error: BaseException
) -> None:
    async with Simulation("gcam") as world:
        await world.scale({"gcam": 2})
        usual, wrong = getattr(world.backend, call), iter([True])

        def method(*args: Any) -> Any:
            if next(wrong, False):
                raise error
            return usual(*args)

        monkeypatch.setattr(world.backend, call, method)
        world.backend.kill("gcam-1", Reason.EXITED)
        await world.run(10)
        await world.scale({"gcam": 1})
        await world.until(lambda: len(world.backend.alive()) == 1, within=120)

        assert next(wrong, None) is None


@pytest.mark.parametrize("call", ["stop", "sweep"])
@in_virtual_time
async def test_a_method_that_raises_at_once_does_not_end_the_end(
    monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    async with Simulation("gcam") as world:
        await world.scale({"gcam": 2})

        def method(*_: object) -> None:
            raise OSError("at once")

        monkeypatch.setattr(world.backend, call, method)
        leftovers = await world.close()

        assert world.backend.alive() == []
        assert ("at once" in [each.error for each in leftovers]) == (call == "sweep")


@pytest.mark.parametrize("scaled", [False, True])
@in_virtual_time
async def test_leftovers_that_are_none_are_told(
    monkeypatch: pytest.MonkeyPatch, scaled: bool
) -> None:
    async def names() -> list[str]:
        return ["job 17"]

    async with Simulation("gcam") as world:
        if scaled:
            await world.scale({"gcam": 1})
        sweep = world.backend.sweep
        monkeypatch.setattr(world.backend, "sweep", names)
        leftovers = await world.close()
        monkeypatch.undo()
        await sweep()

        told = [each.error for each in leftovers] + [each.text for each in world.controller.events]
        assert any("sweep() returned 'job 17', which is no Leftover" in text for text in told)


@in_virtual_time
async def test_a_call_that_ignores_its_cancellation_is_given_up_and_made_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Simulation("gcam") as world:
        await world.scale({"gcam": 1})
        ended = asyncio.Event()

        async def stubborn() -> State:
            while not ended.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await ended.wait()
            return {}

        monkeypatch.setattr(world.backend, "observe", stubborn)
        await world.run(150)
        detail = world.groups["gcam"].detail
        monkeypatch.undo()
        await world.until(lambda: world.groups["gcam"].reason is None, within=300)
        ended.set()

        assert "cannot observe the native system" in detail
        assert len(world.backend.units) == 1


# -- A process that is stopped, as by Ctrl-Z, and goes on


@in_virtual_time
async def test_workers_have_their_time_to_start_although_the_process_was_stopped() -> None:
    async with Simulation("gcam") as world:
        world.backend.behavior["gcam"] = UnitBehavior(boot=20)
        await world.controller.scale_groups({"gcam": 2})
        await world.run(5)
        world.sleep_process(3600)
        await world.until(lambda: world.groups["gcam"].running == 2)

        assert len(world.backend.units) == 2


@in_virtual_time
async def test_results_are_held_for_as_long_as_the_process_runs() -> None:
    async with Simulation("gcam") as world:
        await world.scale({"gcam": 1})
        kept = world.scheduler.submit("gcam", 4, seconds=1)
        await world.done(kept)
        await world.controller.scale_groups({"gcam": 0})
        await world.until(lambda: world.groups["gcam"].holding == 4)
        world.sleep_process(3600)
        await world.run(60)

        assert world.groups["gcam"].holding == 4


@in_virtual_time
async def test_a_pause_and_an_absence_count_while_the_process_runs() -> None:
    async with Simulation("gcam") as world:
        await world.scale({"gcam": 1})
        world.backend.behavior["gcam"] = UnitBehavior(queue=60)
        await world.controller.scale_groups({"gcam": 2})
        await world.run(5)
        world.scheduler.pause("gcam-1")
        world.backend.omissions = Counter({"gcam-2": 3})
        await world.run(2)
        world.sleep_process(3600)
        await world.run(3)
        world.scheduler.unpause("gcam-1")
        await world.until(lambda: world.groups["gcam"].running == 2)

        assert len(world.backend.units) == 2
