"""Actors whose workers end, with a scheduler and workers, without a controller."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from scalable.client import ScalableClient
from scalable.cluster.port import Explanation, Reason
from scalable.errors import ActorLostError

Rig = Any
Until = Callable[..., None]

WHY = Explanation(Reason.NODE_FAILURE, "the node has failed")


@pytest.fixture
def client(rig: Rig) -> Iterator[ScalableClient]:
    with ScalableClient(rig.scheduler.address, set_as_default=False) as client:
        yield client


def lose(rig: Rig, name: str, *, expected: bool) -> None:
    address = rig.scheduler.aliases[name]
    rig.run(rig.scheduler.remove_worker(address, stimulus_id="gone", expected=expected))


def test_an_actor_of_a_worker_that_was_removed_on_purpose_is_lost_at_once(
    rig: Rig, client: ScalableClient
) -> None:
    (name,) = rig.add("a")
    future = client.submit(list, tag="a", actor=True)
    future.result(timeout=30)
    lose(rig, name, expected=True)
    with pytest.raises(ActorLostError, match="removed on purpose"):
        future.result(timeout=30)
    assert rig.report().deaths == {}


def test_futures_of_a_lost_actor_wait_for_the_reason(
    rig: Rig, client: ScalableClient, until: Until
) -> None:
    (name,) = rig.add("a")
    future = client.submit(list, tag="a", actor=True)
    future.result(timeout=30)
    dependent = client.submit(list, future, resources={"b-c": 1})
    lose(rig, name, expected=False)
    assert rig.report().deaths == {name: True}
    until(lambda: rig.scheduler.tasks[dependent.key].state == "erred")
    assert [future.status, dependent.status] == ["finished", "pending"]
    rig.run(rig.link.explain_deaths({name: WHY}))
    for each in (future, dependent):
        with pytest.raises(ActorLostError, match="the node has failed") as caught:
            each.result(timeout=30)
        assert caught.value.actor == future.key
    assert rig.report().deaths == {}


def test_the_reason_of_a_lost_actor_is_not_waited_for_without_end(
    rig: Rig, client: ScalableClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    (name,) = rig.add("a")
    future = client.submit(list, tag="a", actor=True)
    future.result(timeout=30)
    monkeypatch.setattr("scalable.cluster.plugin.actors.MAX_WAIT", -1.0)
    lose(rig, name, expected=False)
    with pytest.raises(ActorLostError, match="no reason is known"):
        future.result(timeout=30)


def test_a_living_actor_has_no_error(
    rig: Rig, client: ScalableClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be reached may be the network alone. Dask's own error says so."""
    rig.add("a")
    future = client.submit(list, tag="a", actor=True)
    future.result(timeout=30)
    monkeypatch.setattr("scalable.cluster.plugin.actors.NOTICE_DELAY", 0.0)
    assert rig.run(rig.plugin.actors.find_error(future.key)) is None
    assert rig.run(rig.plugin.actors.find_error("of no actor")) is None
