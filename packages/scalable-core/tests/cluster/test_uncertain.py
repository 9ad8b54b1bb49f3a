"""A native system whose answers are not true: the engine launches nothing for that, and the cap holds."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from scalable.cluster.port import Reason
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
