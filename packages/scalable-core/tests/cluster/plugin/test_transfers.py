"""Results that cannot be sent."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest
from distributed import wait
from task_functions import identity

from scalable.cluster.link import DrainProgress, Stage

if TYPE_CHECKING:
    from cluster.conftest import Until
    from cluster.plugin.conftest import Rig


def first_of(x: Any, *_: Any) -> Any:
    return x


class Unsendable:
    """Cannot be pickled, like a handle, a lock or a generator."""

    def __reduce__(self) -> Any:
        raise TypeError("it stays where it is")


class Unreadable:
    """Cannot be unpickled, like an object of a package that the other worker does not have."""

    def __reduce__(self) -> Any:
        return _fail_to_load, ()


class EndsItsSender:
    """Raises what would end the worker that pickles it."""

    def __reduce__(self) -> Any:
        sys.exit("it stays where it is")


class EndsItsReader:
    """Raises what would end whoever unpickles it."""

    def __reduce__(self) -> Any:
        return sys.exit, ("it stays where it is",)


class FindsNoFile:
    """Opens a file of another machine when it is unpickled. Dask takes that for trouble with the network."""

    def __reduce__(self) -> Any:
        return open, ("it stays where it is",)


class EndsTooEarly:
    """Reads a file that is cut off when it is unpickled."""

    def __reduce__(self) -> Any:
        return _read_too_much, ()


def _read_too_much() -> None:
    raise EOFError("it stays where it is")


def _fail_to_load() -> None:
    raise ModuleNotFoundError("it stays where it is")


@pytest.mark.parametrize(
    "kind", [Unsendable, Unreadable, EndsItsSender, EndsItsReader, FindsNoFile, EndsTooEarly]
)
def test_a_task_whose_input_cannot_be_sent_ends_and_no_other_does(rig: Rig, kind: type) -> None:
    rig.add("a", "b-c")
    good = rig.client.map(identity, range(10), resources={"a": 1})
    bad = rig.client.submit(kind, resources={"a": 1})
    wait([*good, bad], timeout=30)
    needs_bad = rig.client.map(first_of, good, [bad] * 10, resources={"b-c": 1})
    needs_good = rig.client.map(identity, good, resources={"b-c": 1})
    for future in needs_bad:
        with pytest.raises(RuntimeError, match=r"cannot be sent to worker b-c-2: .*stays where it"):
            future.result(timeout=30)
    assert rig.client.gather(needs_good) == [*range(10)]


@pytest.mark.parametrize("kind", [Unsendable, Unreadable])
def test_a_result_that_cannot_be_sent_keeps_its_worker_and_no_other_result(
    rig: Rig, until: Until, kind: type
) -> None:
    goes, stays = rig.add("a", "b-c")
    good = rig.client.map(identity, range(20), resources={"a": 1})
    bad = rig.client.submit(kind, resources={"a": 1})
    wait([*good, bad], timeout=30)
    until(lambda: rig.drain(goes)[goes] == DrainProgress(Stage.HOLDING, 1))
    there = rig.scheduler.workers[rig.worker(stays).address]
    assert all(there in rig.scheduler.tasks[future.key].who_has for future in good)

    bad.release()
    until(rig.drained(goes))
    assert rig.client.gather(good) == [*range(20)]


@pytest.mark.parametrize("kind", [Unsendable, Unreadable])
def test_a_result_that_cannot_be_sent_is_held_beside_the_results_of_all(
    rig: Rig, until: Until, kind: type
) -> None:
    goes, holder = rig.add("a", "b-c")
    bad = rig.client.submit(kind, resources={"a": 1})
    good = rig.client.submit(identity, 1, resources={"a": 1})
    most = rig.client.submit(bytes, 10**6, resources={"b-c": 1})
    wait([bad, good, most], timeout=30)
    until(
        lambda: (
            rig.drain(goes, holder)
            == {goes: DrainProgress(Stage.HOLDING, 1), holder: DrainProgress(Stage.HOLDING, 2)}
        )
    )
    bad.release()
    until(lambda: rig.drain(goes, holder)[goes].stage is Stage.GONE)
    assert good.result(timeout=30) == 1
